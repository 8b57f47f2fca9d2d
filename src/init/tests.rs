//! Checks of what PID 1 decides.

mod dhcp;
mod machine;
mod probation;
mod settings;
