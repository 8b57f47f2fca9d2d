//! Golden cases of the planners.
