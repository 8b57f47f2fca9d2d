//! Tables of the pure parts, then both halves against each other over loopback.

mod pure;
