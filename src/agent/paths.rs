//! Where the agent keeps what, in one place: pod directories as the kubelet lays them out, and CRI-style log paths.

use std::path::{Path, PathBuf};

/// The directories below DATA/agent.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    root: PathBuf,
}

impl Paths {
    pub(crate) fn new(root: &Path) -> Paths {
        Paths { root: root.to_owned() }
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.root.join("record")
    }

    pub(crate) fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    pub(crate) fn pod(&self, uid: &str) -> PathBuf {
        self.pods().join(uid)
    }

    /// One volume; `kind` is the directory the kubelet uses, as `kubernetes.io~secret`.
    pub(crate) fn volume(&self, uid: &str, kind: &str, name: &str) -> PathBuf {
        self.pod(uid).join("volumes").join(kind).join(name)
    }

    /// Files the agent makes for a container: hosts, termination messages.
    pub(crate) fn container(&self, uid: &str, container: &str) -> PathBuf {
        self.pod(uid).join("containers").join(container)
    }

    pub(crate) fn termination_message(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.container(uid, container).join(format!("message-{attempt}"))
    }

    pub(crate) fn hosts(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("etc-hosts")
    }

    pub(crate) fn hostname(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("etc-hostname")
    }

    pub(crate) fn resolv_conf(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("etc-resolv.conf")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs").join("pods")
    }

    pub(crate) fn pod_logs(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.logs().join(format!("{namespace}_{name}_{uid}"))
    }

    pub(crate) fn log(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        container: &str,
        attempt: u32,
    ) -> PathBuf {
        self.pod_logs(namespace, name, uid).join(container).join(format!("{attempt}.log"))
    }
}
