//! Performing the effects of a pod worker, except starting containers (`start`) and pulling images (`pull`).

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::{LifecycleHandler, Pod, PodSpec};
use tokio::time::Instant;

use crate::actor::Outcome;
use crate::adopt;
use crate::container_spec;
use crate::context::Context;
use crate::hooks;
use crate::netfiles;
use crate::resolver;
use crate::status::container_id;
use crate::volumes::place;
use crate::worker::{EventNote, Failure, Input, StopPlan};

/// How long a pod waits for the node's network before it says so.
const NETWORK_WAIT: Duration = Duration::from_secs(5);
/// After SIGKILL, how often the runtime is asked whether the container has really ended.
const KILL_CHECK: Duration = Duration::from_secs(5);
const HOOK_TIMEOUT: Duration = Duration::from_secs(600);
/// What a container always has between its stop signal and SIGKILL, however long its preStop hook took.
const SIGNAL_GRACE_MIN: Duration = Duration::from_secs(2);
const SIGTERM: i32 = 15;

/// Makes the pod's sandbox, wires it, and writes the files that depend on its addresses.
pub(crate) async fn sandbox(
    ctx: &Context,
    pod: &Pod,
    replace: bool,
) -> Result<Vec<IpAddr>, Failure> {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let host_network = spec.host_network == Some(true);
    if !host_network {
        wait_for_network(ctx).await?;
    }
    let failed = |e: String| {
        Failure::new("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {e}"))
    };
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let hostname = netfiles::hostname(spec, name, &ctx.config.node_name);
    let wanted = container_spec::sandbox(pod, hostname);
    let runtime = &ctx.config.runtime;
    if replace {
        remove_sandbox(ctx, uid).await.map_err(failed)?;
    }
    let made = match runtime.create_sandbox(&wanted).await {
        Err(error) if error.is_already_exists() => {
            remove_sandbox(ctx, uid).await.map_err(failed)?;
            runtime.create_sandbox(&wanted).await
        }
        other => other,
    };
    let sandbox = made.map_err(|e| failed(e.to_string()))?;
    tracing::debug!(pod = name, "sandbox made");
    let ips = match &sandbox.netns {
        Some(netns) if !host_network => ctx
            .config
            .network
            .attach(uid, netns)
            .await
            .map_err(|e| failed(format!("failed to setup network for sandbox {uid:?}: {e}")))?,
        _ => Vec::new(),
    };
    tracing::debug!(pod = name, ?ips, "network attached");
    write_files(ctx, pod, &ips).await.map_err(failed)?;
    Ok(ips)
}

async fn wait_for_network(ctx: &Context) -> Result<(), Failure> {
    let mut ready = ctx.network_ready.clone();
    if let Ok(Ok(_)) = tokio::time::timeout(NETWORK_WAIT, ready.wait_for(|ready| *ready)).await {
        return Ok(());
    }
    Err(Failure::new(
        "NetworkNotReady",
        "network is not ready: container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady \
         message:Network plugin returns error: the node has no pod network yet",
    ))
}

/// Removes a sandbox with whatever containers an earlier agent left in it. The pod's addresses stay its own: by them others
/// know it, also after the machine was restarted.
async fn remove_sandbox(ctx: &Context, uid: &str) -> Result<(), String> {
    let runtime = &ctx.config.runtime;
    let snapshot = runtime.list().await.map_err(|e| e.to_string())?;
    for container in snapshot.containers.iter().filter(|c| c.sandbox == uid) {
        runtime.remove_container(&container.id).await.map_err(|e| e.to_string())?;
    }
    match runtime.remove_sandbox(uid).await {
        Err(error) if !error.is_not_found() => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// Writes the files of the sandbox that its containers mount: hosts, resolv.conf, hostname.
pub(crate) async fn write_files(ctx: &Context, pod: &Pod, ips: &[IpAddr]) -> Result<(), String> {
    let paths = ctx.paths.clone();
    let dns = ctx.dns.clone();
    let (host_resolv, host_hosts) =
        (ctx.config.host_resolv_conf.clone(), ctx.config.host_hosts.clone());
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let hostname = netfiles::hostname(&spec, name, &ctx.config.node_name);
    let ips = ips.to_vec();
    let work = move || -> Result<Vec<String>, String> {
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        let hosts = if spec.host_network == Some(true) {
            netfiles::host_network_hosts(&spec, &read(&host_hosts))
        } else {
            let domain = netfiles::pod_domain(&spec, &namespace, &dns);
            netfiles::hosts(&spec, &ips, &hostname, domain.as_deref())
        };
        let (resolv, left_out) =
            resolver::resolv_conf(&spec, &namespace, &read(&host_resolv), &dns);
        let pod_directory = paths.pod(&uid);
        place::make_directory(&pod_directory, 0o750)
            .map_err(|e| format!("cannot make {}: {e}", pod_directory.display()))?;
        for (path, text) in [
            (paths.hosts(&uid), hosts),
            (paths.resolv_conf(&uid), resolv),
            (paths.hostname(&uid), hostname + "\n"),
        ] {
            write_public(&path, &text)
                .map_err(|e| format!("cannot write {}: {e}", path.display()))?;
        }
        Ok(left_out)
    };
    let left_out = tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())??;
    for text in left_out {
        ctx.event(pod, EventNote::warning("DNSConfigForming", text));
    }
    Ok(())
}

/// Containers of any user read these files, so the umask must not matter.
fn write_public(path: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

pub(crate) async fn post_start(
    ctx: &Context,
    pod: &Pod,
    name: String,
    attempt: u32,
    ips: &[String],
) -> Input {
    let handler = lifecycle(pod, &name, true);
    let result = match handler {
        Some(handler) => run_hook(ctx, pod, &name, attempt, &handler, ips, HOOK_TIMEOUT).await,
        None => Ok(()),
    };
    Input::Hooked { name, attempt, result }
}

fn lifecycle(pod: &Pod, name: &str, start: bool) -> Option<LifecycleHandler> {
    let container = crate::resources::containers(pod.spec.as_ref()?).find(|c| c.name == name)?;
    let lifecycle = container.lifecycle.as_ref()?;
    if start { lifecycle.post_start.clone() } else { lifecycle.pre_stop.clone() }
}

async fn run_hook(
    ctx: &Context,
    pod: &Pod,
    name: &str,
    attempt: u32,
    handler: &LifecycleHandler,
    ips: &[String],
    limit: Duration,
) -> Result<(), String> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let ports = crate::resources::containers(pod.spec.as_ref().ok_or("the pod has no spec")?)
        .find(|c| c.name == name)
        .and_then(|c| c.ports.clone())
        .unwrap_or_default();
    let ip = ips.first().map(String::as_str).unwrap_or_default();
    hooks::run(&ctx.config.runtime, &container_id(uid, name, attempt), handler, &ports, ip, limit)
        .await
}

/// Stops a container: preStop hook, its stop signal, the rest of the grace period, then SIGKILL until it is gone.
/// The exit itself is reported by the runtime; only a container the runtime does not know is reported from here.
pub(crate) async fn stop(ctx: &Context, pod: &Pod, plan: StopPlan, ips: &[String]) -> Outcome {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let id = container_id(uid, &plan.name, plan.attempt);
    let runtime = &ctx.config.runtime;
    let asked_at = Instant::now();
    if plan.hook
        && !plan.grace.is_zero()
        && let Some(handler) = lifecycle(pod, &plan.name, false)
        && let Err(error) =
            run_hook(ctx, pod, &plan.name, plan.attempt, &handler, ips, plan.grace).await
    {
        tracing::info!(container = id, error, "preStop hook failed");
        let note = EventNote::warning("FailedPreStopHook", "PreStopHook failed".to_owned());
        ctx.event(pod, note.on(&plan.name));
    }
    let kill_at = kill_at(asked_at, Instant::now(), plan.grace);
    let signal = match runtime.container(&id).await {
        Ok(container) => adopt::stop_signal(&container).unwrap_or(SIGTERM),
        Err(error) if error.is_not_found() => return vanished(ctx, &plan),
        Err(_) => SIGTERM,
    };
    if let Err(error) = runtime.signal(&id, signal).await {
        tracing::warn!(container = id, %error, "stop signal not delivered");
    }
    tokio::time::sleep_until(kill_at).await;
    loop {
        if let Err(error) = runtime.kill_all(&id).await {
            if error.is_not_found() {
                return vanished(ctx, &plan);
            }
            tracing::warn!(container = id, %error, "container not killed");
        }
        // This task is aborted the moment the exit is known.
        tokio::time::sleep(KILL_CHECK).await;
        if let Ok(container) = runtime.container(&id).await
            && let Some(exit) = adopt::termination(&ctx.paths, &container).await
        {
            let made = Some(container.created_at);
            let (name, attempt) = (plan.name, plan.attempt);
            return Outcome::Input(Input::Exited { name, attempt, made, exit });
        }
    }
}

/// When a container is killed that was asked to end and whose preStop hook is over now.
pub(crate) fn kill_at(asked_at: Instant, now: Instant, grace: Duration) -> Instant {
    let end = asked_at + grace;
    if grace.is_zero() { end } else { end.max(now + SIGNAL_GRACE_MIN) }
}

fn vanished(ctx: &Context, plan: &StopPlan) -> Outcome {
    let exit = adopt::unknown_exit(ctx.clock.now().wall);
    let (name, attempt) = (plan.name.clone(), plan.attempt);
    Outcome::Input(Input::Exited { name, attempt, made: None, exit })
}

/// Removes an old attempt: the runtime's record and its log.
pub(crate) async fn forget(ctx: &Context, pod: &Pod, name: &str, attempt: u32) {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let meta = &pod.metadata;
    let uid = text(&meta.uid);
    let id = container_id(&uid, name, attempt);
    if let Err(error) = ctx.config.runtime.remove_container(&id).await {
        tracing::debug!(container = id, %error, "old container not removed");
    }
    let log = ctx.paths.log(&text(&meta.namespace), &text(&meta.name), &uid, name, attempt);
    let message = ctx.paths.termination_message(&uid, name, attempt);
    let work = move || {
        for path in crate::logs::files(&log).into_iter().chain([message]) {
            drop(std::fs::remove_file(path));
        }
    };
    drop(tokio::task::spawn_blocking(work).await);
}

/// Frees what the pod holds; `last` also removes its directory and logs.
pub(crate) async fn clean(ctx: &Context, pod: &Pod, last: bool) -> Result<(), String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let meta = &pod.metadata;
    clean_up(ctx, &text(&meta.namespace), &text(&meta.name), &text(&meta.uid), last).await
}

pub(crate) async fn clean_up(
    ctx: &Context,
    namespace: &str,
    name: &str,
    uid: &str,
    last: bool,
) -> Result<(), String> {
    if uid.is_empty() {
        return Err("a pod without uid has nothing to clean".to_owned());
    }
    let removed = match remove_sandbox(ctx, uid).await {
        Ok(()) => ctx.config.network.detach(uid).await,
        failed => failed,
    };
    if let Err(error) = removed {
        tracing::warn!(pod = name, error, "sandbox not removed");
        return Err(error);
    }
    let (paths, uid) = (ctx.paths.clone(), uid.to_owned());
    let logs = ctx.paths.pod_logs(namespace, name, &uid);
    let work = move || {
        if last {
            place::remove_pod(&paths, &uid)?;
            return place::remove_tree(&logs);
        }
        place::tear_down(&paths, &uid)
    };
    let result = tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())?;
    result.map_err(|e| {
        tracing::warn!(pod = name, error = %e, "volumes not removed");
        e.to_string()
    })
}
