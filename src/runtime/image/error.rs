//! What can go wrong with images, with the texts the kubelet shows.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Errors of the image store. Cheap to clone, because pulls of one image share one result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("couldn't parse image name {text:?}: {reason}")]
    Reference { text: String, reason: &'static str },
    #[error(
        "invalid digest {text:?}: only sha256 with 64 lower-case hexadecimal digits is supported"
    )]
    Digest { text: String },
    #[error("failed to pull and unpack image \"{image}\": {source}")]
    Pull { image: String, source: Arc<Error> },
    #[error("failed to resolve reference \"{image}\": {source}")]
    Resolve { image: String, source: Arc<Error> },
    #[error("{what}: not found")]
    NotFound { what: String },
    #[error("no match for platform {platform} in manifest: not found")]
    Platform { platform: String },
    #[error("pull access denied, repository does not exist or may require authorization: {reason}")]
    Denied { reason: String },
    #[error("failed to do request: {method} \"{url}\": {reason}")]
    Request { method: &'static str, url: String, reason: String },
    #[error("unexpected status from {method} request to {url}: {status}{detail}")]
    Status { method: &'static str, url: String, status: u16, detail: String },
    #[error("failed to authorize: {reason}")]
    Authorize { reason: String },
    #[error("{what} is invalid: {reason}")]
    Invalid { what: String, reason: String },
    #[error("{what}: expected digest {expected}, got {actual}")]
    Mismatch { what: String, expected: String, actual: String },
    #[error("{what} is larger than its limit of {limit} bytes")]
    TooLarge { what: String, limit: u64 },
    #[error("failed to extract layer {layer}: {source}")]
    Layer { layer: String, source: Arc<super::unpack::UnpackError> },
    #[error("failed to import archive {}: {reason}", path.display())]
    Archive { path: PathBuf, reason: String },
    #[error("registries: {field}: {reason}")]
    Registries { field: String, reason: String },
    #[error("failed to {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: Arc<io::Error> },
    #[error("unable to find user {user}: {reason}")]
    User { user: String, reason: String },
    #[error("the image worker ended before its work was done: {reason}")]
    Worker { reason: String },
}

impl Error {
    /// For `map_err`: a failed file operation with the path it was about.
    pub(super) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source: Arc::new(source) }
    }

    pub(super) fn invalid(what: impl Into<String>, reason: impl ToString) -> Self {
        Self::Invalid { what: what.into(), reason: reason.to_string() }
    }

    /// Whether the image (or its tag, digest, platform) does not exist.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::NotFound { .. } | Self::Platform { .. } => true,
            Self::Pull { source, .. } | Self::Resolve { source, .. } => source.is_not_found(),
            _ => false,
        }
    }

    /// Whether the name itself is wrong (`InvalidImageName` to the kubelet).
    pub fn is_invalid_name(&self) -> bool {
        match self {
            Self::Reference { .. } => true,
            Self::Pull { source, .. } | Self::Resolve { source, .. } => source.is_invalid_name(),
            _ => false,
        }
    }

    /// Whether the registry could not be reached or answered with a server error.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Request { .. } => true,
            Self::Status { status, .. } => *status >= 500 || *status == 429,
            Self::Pull { source, .. } | Self::Resolve { source, .. } => source.is_unavailable(),
            _ => false,
        }
    }
}
