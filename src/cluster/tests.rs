//! Tables of the pure parts, then both halves against each other over loopback.

mod away;
mod balancer;
mod failures;
mod joining;
mod rights;
mod stage;
mod tokens;
