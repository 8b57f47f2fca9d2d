//! Makes PID 1 of a board hang, from a pod: it is frozen, and everything else goes on.

use anyhow::Result;

use crate::kubectl::Kubectl;

pub(crate) const POD_NAME: &str = "host";
/// A pod that may do everything. Its folder has the same path inside and outside.
pub(crate) const POD: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "host"}, "spec": {
  "hostNetwork": true, "terminationGracePeriodSeconds": 1,
  "volumes": [{"name": "hang", "hostPath": {"path": "/var/lib/copepod/hang", "type": "DirectoryOrCreate"}}],
  "containers": [{"name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
    "command": ["sleep", "1000000"], "securityContext": {"privileged": true},
    "volumeMounts": [{"name": "hang", "mountPath": "/var/lib/copepod/hang"}]}]}}"#;
/// No pod gets at the control group of PID 1, since each has a namespace of them. But the program that the kernel runs for
/// a core dump is in none.
const SCRIPT: &str = r##"set -e
cd /var/lib/copepod/hang
cp /proc/self/exe busybox
echo "#!$PWD/busybox sh
$PWD/busybox mkdir /sys/fs/cgroup/hung
echo 1 >/sys/fs/cgroup/hung/cgroup.procs
echo 1 >/sys/fs/cgroup/hung/cgroup.freeze" >freeze
chmod +x freeze
echo "|$PWD/freeze" >/proc/sys/kernel/core_pattern
sh -c 'kill -SEGV $$' || true"##;

/// Freezes PID 1. The pod has to be running.
pub(crate) fn freeze_init(kubectl: &Kubectl) -> Result<()> {
    kubectl.run(&["exec", POD_NAME, "--", "sh", "-c", SCRIPT]).map(drop)
}
