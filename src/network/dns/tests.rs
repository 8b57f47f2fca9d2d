//! Tests of cluster DNS.
