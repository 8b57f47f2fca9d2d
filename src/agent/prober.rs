//! Tries one probe of one container, again and again, and reports each outcome.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerPort, Probe};
use runtime::client::Runtime;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::go_duration;
use crate::hooks::port;
use crate::http_get;
use crate::worker::ProbeOutcome;

/// Output of an exec probe that goes into the event.
const OUTPUT_MAX: usize = 10 << 10;

/// What is probed.
pub(crate) struct Target {
    pub(crate) id: String,
    pub(crate) ports: Vec<ContainerPort>,
    pub(crate) ip: String,
}

/// Probes until the task is ended or `report` says that nobody listens.
pub(crate) async fn run<F>(
    runtime: Runtime,
    target: Target,
    probe: Probe,
    report: impl Fn(ProbeOutcome) -> F,
) where
    F: Future<Output = bool>,
{
    let seconds = |value: Option<i32>, least: u64| {
        Duration::from_secs(value.and_then(|v| u64::try_from(v).ok()).unwrap_or(least).max(least))
    };
    let period = Duration::from_secs(
        probe.period_seconds.and_then(|v| u64::try_from(v).ok()).unwrap_or(10).max(1),
    );
    let limit = seconds(probe.timeout_seconds, 1);
    tokio::time::sleep(seconds(probe.initial_delay_seconds, 0)).await;
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let outcome = once(&runtime, &target, &probe, limit).await;
        if !report(outcome).await {
            return;
        }
    }
}

async fn once(runtime: &Runtime, target: &Target, probe: &Probe, limit: Duration) -> ProbeOutcome {
    if let Some(exec) = &probe.exec {
        return exec_once(runtime, target, exec.command.clone().unwrap_or_default(), limit).await;
    }
    if let Some(get) = &probe.http_get {
        let found = match http_get::Target::from_action(get, &target.ports, &target.ip) {
            Ok(found) => found,
            Err(error) => return ProbeOutcome::Unknown(error),
        };
        return match http_get::get(&found, limit).await {
            Ok(_) => ProbeOutcome::Success,
            Err(error) => ProbeOutcome::Failure(error),
        };
    }
    if let Some(tcp) = &probe.tcp_socket {
        let host = tcp.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(&target.ip);
        return match port(&tcp.port, &target.ports) {
            Ok(port) => tcp_once(host, port, limit).await,
            Err(error) => ProbeOutcome::Unknown(error),
        };
    }
    if let Some(grpc) = &probe.grpc {
        let Ok(port) = u16::try_from(grpc.port) else {
            return ProbeOutcome::Unknown(format!("invalid port number: {}", grpc.port));
        };
        let service = grpc.service.as_deref().unwrap_or_default();
        return match http_get::grpc_health(&target.ip, port, service, limit).await {
            Ok(()) => ProbeOutcome::Success,
            Err(error) => ProbeOutcome::Failure(error),
        };
    }
    ProbeOutcome::Unknown("missing probe handler".to_owned())
}

async fn exec_once(
    runtime: &Runtime,
    target: &Target,
    command: Vec<String>,
    limit: Duration,
) -> ProbeOutcome {
    let shown = command.join(" ");
    match runtime.exec_sync(&target.id, command, limit, OUTPUT_MAX).await {
        Ok(output) => match output.code {
            Some(0) => ProbeOutcome::Success,
            Some(_) => {
                let mut bytes = output.stdout;
                bytes.extend_from_slice(&output.stderr);
                ProbeOutcome::Failure(String::from_utf8_lossy(&bytes).into_owned())
            }
            None => {
                let limit = go_duration::text(limit);
                ProbeOutcome::Failure(format!(
                    "command timed out: {shown:?} timed out after {limit}"
                ))
            }
        },
        Err(error) => ProbeOutcome::Unknown(error.to_string()),
    }
}

async fn tcp_once(host: &str, port: u16, limit: Duration) -> ProbeOutcome {
    match timeout(limit, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => ProbeOutcome::Success,
        Ok(Err(error)) => ProbeOutcome::Failure(http_get::dial_error(host, port, &error)),
        Err(_) => ProbeOutcome::Failure(format!(
            "dial tcp {}: i/o timeout",
            http_get::authority(host, port)
        )),
    }
}
