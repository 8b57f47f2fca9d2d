//! Tests of the pod network. Those that change links run in network namespaces of their own, which end with the test; they
//! need root and `ip`.

mod kernel;
pub(crate) mod namespace;
mod pure;
