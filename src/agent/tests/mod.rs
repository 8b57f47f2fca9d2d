//! Tests of the small pure modules, and of volumes and logs on real files.

mod environment;
mod settings;
