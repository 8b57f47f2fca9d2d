//! Tests of the overlay. Those that change links run in network namespaces of their own, which end with the test; they
//! need root and `ip`. `UPDATE=1` rewrites what `cases/` expects.

mod cluster;
mod crossing;
mod machine;
mod plans;
mod values;
