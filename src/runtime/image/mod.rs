//! Container images: from a name or an archive to directories that overlayfs can stack.
//!
//! [`ImageStore`] keeps manifests, configurations and unpacked layers as content-addressed files, pulls from registries
//! and imports archives. It deliberately knows nothing of pods, pull policies or back-off, nor of which containers use an
//! image: whoever removes one knows that. Start reading at [`store`] (what lies where), then [`pull`] (one pull from name
//! to record) and [`unpack`] (hostile archives).

mod archive;
mod auth;
mod digest;
mod error;
mod http;
mod imported;
mod layers;
mod manifest;
mod platform;
mod pull;
mod reference;
mod registries;
mod registry;
mod remote;
mod store;
#[cfg(test)]
mod tests;
mod tls;
mod unpack;
mod users;

pub use auth::Auth;
pub use digest::Digest;
pub use error::Error;
pub use manifest::ImageConfig;
pub use platform::Platform;
pub use reference::Reference;
pub use registries::Registries;
pub use remote::Remote;
pub use store::{Image, ImageStore, PullOptions};
pub use unpack::{Limits, UnpackError};
pub use users::{UserIds, lookup_user};
