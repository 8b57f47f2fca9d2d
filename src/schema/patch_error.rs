//! Why a patch could not be applied.

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is malformed: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch is well-formed but does not fit the object (missing path, failed test): 422.
    #[error("{0}")]
    Unprocessable(String),
}
