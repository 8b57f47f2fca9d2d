//! Node tests of the runtime process.
