//! Pure functions on JSON objects with a schema: decode, prune, default, validate, patch, print, describe.
//!
//! The schemas of the served kinds are one table of facts (`facts.txt`, written by `generate.py` from upstream's
//! published definitions) parsed once; everything here is driven by it or by short rules per kind. The crate knows
//! no IO, no clock (time is a parameter), no storage and no HTTP: the API server composes it.
//!
//! Start reading at [`facts`] (what a field is), then [`decode`], [`default`], [`validate`], [`strategic`], [`apply`], [`table`].

mod apply;
mod decode;
mod default;
mod events;
mod facts;
mod json_patch;
mod openapi;
mod openapi_v2;
mod openapi_v2_protobuf;
mod openapi_v3;
mod patch_error;
mod prune;
mod strategic;
mod table;
mod validate;

pub use apply::apply;
pub use decode::{DEPTH_MAX, DecodeError, decode};
pub use default::default;
pub use events::{event_from_core, event_to_core};
pub use facts::{Field, ListKind, Shape, Type, builtin, type_at};
pub use json_patch::{json_merge, json_patch};
pub use openapi_v2::openapi_v2;
pub use openapi_v2_protobuf::openapi_v2_protobuf;
pub use openapi_v3::{openapi_v3, openapi_v3_index};
pub use patch_error::PatchError;
pub use prune::prune;
pub use strategic::strategic_merge;
pub use table::{IncludeObject, table};
pub use validate::{service_needs_health_check, validate, validate_new_event, validate_status};

#[cfg(test)]
mod tests;
