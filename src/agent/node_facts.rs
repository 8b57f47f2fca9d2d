//! What the machine says about itself.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::NodeSystemInfo;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use nix::unistd::{SysconfVar, sysconf};

/// Read once, at start; none of it changes while the machine runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub(crate) milli_cpus: i64,
    pub(crate) memory_bytes: i64,
    pub(crate) storage_bytes: i64,
    pub(crate) info: NodeSystemInfo,
}

pub(crate) fn read(data_dir: &Path, kubelet_version: &str, runtime_version: &str) -> Facts {
    let cpus = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten().unwrap_or(1);
    let system = nix::sys::utsname::uname();
    let kernel = system.as_ref().map(|u| u.release().to_string_lossy().into_owned());
    let machine_id = line("/etc/machine-id");
    let uuid = line("/sys/class/dmi/id/product_uuid");
    Facts {
        milli_cpus: i64::from(u32::try_from(cpus).unwrap_or(1)).saturating_mul(1000),
        memory_bytes: sys::procfs::memory_total()
            .ok()
            .and_then(|m| i64::try_from(m).ok())
            .unwrap_or(0),
        storage_bytes: sys::mount::space(data_dir)
            .ok()
            .and_then(|s| i64::try_from(s.total_bytes).ok())
            .unwrap_or(0),
        info: NodeSystemInfo {
            architecture: architecture().to_owned(),
            boot_id: sys::procfs::boot_id().unwrap_or_default(),
            container_runtime_version: format!("copepod://{runtime_version}"),
            kernel_version: kernel.unwrap_or_default(),
            kube_proxy_version: String::new(),
            kubelet_version: kubelet_version.to_owned(),
            system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
            machine_id,
            operating_system: "linux".to_owned(),
            os_image: os_image(&std::fs::read_to_string("/etc/os-release").unwrap_or_default()),
            swap: None,
        },
    }
}

fn line(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The architecture in Go's words, which node labels and image indexes use.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(crate) fn os_image(os_release: &str) -> String {
    let pretty = os_release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    pretty.map_or_else(|| "Linux".to_owned(), |p| p.trim_matches('"').to_owned())
}

/// Capacity, and what pods may use of it; nothing is held back yet.
pub(crate) fn capacity(facts: &Facts, max_pods: u32) -> BTreeMap<String, Quantity> {
    BTreeMap::from([
        ("cpu".to_owned(), Quantity((facts.milli_cpus / 1000).to_string())),
        ("memory".to_owned(), Quantity(format!("{}Ki", facts.memory_bytes / 1024))),
        ("ephemeral-storage".to_owned(), Quantity(format!("{}Ki", facts.storage_bytes / 1024))),
        ("pods".to_owned(), Quantity(max_pods.to_string())),
        ("hugepages-2Mi".to_owned(), Quantity("0".to_owned())),
    ])
}
