//! Why the agent could not start. What goes wrong with single pods is reported on the pods, not here.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot prepare the agent's directory {path}")]
    Directory {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot open the pod record {path}")]
    Record {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the container runtime does not answer")]
    Runtime(#[source] runtime::client::Error),
}
