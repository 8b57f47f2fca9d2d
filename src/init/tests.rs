//! Checks of what PID 1 decides.

mod dhcp;
mod fat;
mod fsck;
mod machine;
mod probation;
mod settings;
