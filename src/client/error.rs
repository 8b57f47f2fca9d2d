//! What can go wrong when talking to the API.

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of a call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server answered with a failure.
    #[error("{}", .0.message)]
    Api(Box<api::Status>),
    /// The request did not reach the server or the answer did not arrive.
    #[error("{method} {path}: {source}")]
    Transport { method: String, path: String, source: Box<dyn std::error::Error + Send + Sync> },
    /// The answer did not arrive in time.
    #[error("{method} {path}: no answer within {seconds} s")]
    Timeout { method: String, path: String, seconds: u64 },
    /// The answer is larger than the client accepts.
    #[error("{path}: answer is larger than {limit} bytes")]
    TooLarge { path: String, limit: usize },
    /// The answer is not what was asked for.
    #[error("decode {what}: {source}")]
    Decode { what: String, source: serde_json::Error },
    /// An object of ours could not be written as JSON.
    #[error("encode {what}: {source}")]
    Encode { what: String, source: serde_json::Error },
    /// The request could not be formed, for instance because of an invalid name.
    #[error("form request {path:?}: {source}")]
    Request { path: String, source: http::Error },
    /// Certificates, keys or the address given to the transport are unusable.
    #[error("configure connection: {0}")]
    Config(String),
}

impl Error {
    /// The HTTP status code of an API failure.
    pub fn code(&self) -> Option<u16> {
        match self {
            Error::Api(status) => Some(status.code),
            _ => None,
        }
    }

    /// The reason of an API failure, such as `NotFound`.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Error::Api(status) => Some(status.reason.as_str()),
            _ => None,
        }
    }

    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// The object changed since it was read, or a precondition failed.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409) && self.reason() != Some("AlreadyExists")
    }

    pub fn is_already_exists(&self) -> bool {
        self.reason() == Some("AlreadyExists")
    }

    /// The revision asked for is compacted: list again.
    pub fn is_gone(&self) -> bool {
        self.code() == Some(410)
    }

    pub fn is_forbidden(&self) -> bool {
        self.code() == Some(403)
    }

    pub fn is_unauthorized(&self) -> bool {
        self.code() == Some(401)
    }

    pub fn is_invalid(&self) -> bool {
        self.code() == Some(422)
    }

    /// A namespace is being deleted, so nothing can be created in it.
    pub fn is_namespace_terminating(&self) -> bool {
        self.is_forbidden()
            && matches!(self, Error::Api(s) if s.message.contains("is being terminated"))
    }
}
