//! The vocabulary every other crate shares: the API's error type, the table of served
//! resources, selectors, quantities, names and timestamps, as plain values and pure functions.
//!
//! It deliberately knows no IO, no clock (time is a parameter), no async, and nothing of what the
//! fields of a kind are: that is `schema`. Texts of errors are upstream's, because clients match them.
//!
//! Start reading at [`resource`] (what is served) and [`status`] (how it fails).

pub mod field;
pub mod field_selector;
pub mod label_selector;
pub mod names;
pub mod quantity;
pub mod resource;
pub mod status;
pub mod time;

/// Label and field selectors under one name.
pub mod selector {
    pub use crate::field_selector::FieldSelector;
    pub use crate::label_selector::{LabelSelector, Operator, Requirement, SelectorError};
}

pub use field::{FieldError, FieldErrorKind};
pub use field_selector::FieldSelector;
pub use label_selector::{LabelSelector, SelectorError};
pub use quantity::Quantity;
pub use resource::{Durability, RESOURCES, Resource, Strategy, find, find_kind};
pub use status::{Status, StatusCause, StatusDetails};

#[cfg(test)]
mod case_files;
#[cfg(test)]
mod tests;
