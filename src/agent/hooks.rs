//! Lifecycle hooks of containers.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerPort, LifecycleHandler};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use runtime::client::Runtime;

use crate::http_get::{self, Target};

/// Output of a hook that is kept for its error message.
const OUTPUT_MAX: usize = 4096;

/// Runs one hook to its end, for at most `limit`.
pub(crate) async fn run(
    runtime: &Runtime,
    id: &str,
    handler: &LifecycleHandler,
    ports: &[ContainerPort],
    ip: &str,
    limit: Duration,
) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let output =
            runtime.exec_sync(id, command, limit, OUTPUT_MAX).await.map_err(|e| e.to_string())?;
        return match output.code {
            Some(0) => Ok(()),
            Some(code) => {
                let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                Err(format!("command exited with {code}: {text}"))
            }
            None => Err("command timed out".to_owned()),
        };
    }
    if let Some(get) = &handler.http_get {
        let target = Target::from_action(get, ports, ip)?;
        return http_get::get(&target, limit).await.map(drop);
    }
    if let Some(sleep) = &handler.sleep {
        let seconds = u64::try_from(sleep.seconds).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(seconds).min(limit)).await;
        return Ok(());
    }
    Err("invalid handler".to_owned())
}

/// A port given by number or by the name of one of the container's ports.
pub(crate) fn port(wanted: &IntOrString, ports: &[ContainerPort]) -> Result<u16, String> {
    let number = match wanted {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => ports
            .iter()
            .find(|p| p.name.as_deref() == Some(name))
            .map(|p| p.container_port)
            .or_else(|| name.parse().ok()),
    };
    let shown = || match wanted {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => format!("couldn't find port: {name}"),
    };
    number
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n > 0)
        .ok_or_else(|| format!("invalid port number: {}", shown()))
}
