//! Tests of the Service proxy. Those with packets run in network namespaces of their own; they need root and `ip`.

mod addresses;
mod affinity;
mod cases;
mod figures;
mod following;
mod model;
mod pods;
mod policies;
mod refusals;
mod restarts;
mod settings;
mod world;
