//! Tests of the runtime process.
