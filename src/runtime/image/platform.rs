//! Which of an index's manifests fits this machine.

use std::fmt;

use super::manifest::PlatformEntry;

/// Operating system, architecture and variant in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    pub variant: Option<String>,
}

impl Platform {
    /// The platform this binary was made for.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            other => (other, None),
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// How well `entry` fits: `None` not at all, else lower is better.
    pub(super) fn rank(&self, entry: &PlatformEntry) -> Option<u32> {
        if entry.os != self.os || entry.architecture != self.architecture {
            return None;
        }
        let wanted = self.level(self.variant.as_deref());
        let offered = self.level(entry.variant.as_deref().filter(|variant| !variant.is_empty()));
        wanted.checked_sub(offered)
    }

    /// A variant as a number, so that older ones run on newer machines; without one, the architecture's default.
    fn level(&self, variant: Option<&str>) -> u32 {
        let default = match self.architecture.as_str() {
            "arm64" => 8,
            "arm" => 7,
            _ => 1,
        };
        match variant {
            None => default,
            Some(text) => text.trim_start_matches('v').parse().unwrap_or(u32::MAX),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}
