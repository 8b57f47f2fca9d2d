//! The parts that run within the machine's network: they talk to the server over TLS, as any client, and print numbers.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine;
use bytes::Bytes;
use clap::{Args, Subcommand};
use client::{Cache, Client, DeleteParams, Identity, ListParams, TlsTransport};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(60);
const LOAD_TIME: Duration = Duration::from_secs(5);
/// ConfigMaps a list returns.
const LIST_LENGTH: usize = 500;
const LOADED: &str = "/api/v1/namespaces/default/configmaps";
const LISTED: &str = "/api/v1/namespaces/bench-list/configmaps";

#[derive(Args)]
pub(crate) struct Flags {
    #[arg(long)]
    kubeconfig: PathBuf,
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Waits until a node is Ready
    Ready {
        /// This one, if any will not do
        #[arg(long)]
        node: Option<String>,
    },
    /// Prints requests per second, and how many there were in all
    Load {
        operation: String,
        #[arg(long)]
        clients: usize,
    },
    /// Prints for each of some pods the milliseconds from creation to Ready
    Pods {
        #[arg(long)]
        count: usize,
    },
    /// Leaves some pods running
    Hold {
        #[arg(long)]
        count: usize,
    },
}

pub(crate) fn run(flags: Flags) -> Result<()> {
    drop(rustls::crypto::ring::default_provider().install_default());
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        match &flags.part {
            Part::Ready { node } => ready(&flags.kubeconfig, node.as_deref()).await,
            Part::Load { operation, clients } => load(&flags.kubeconfig, operation, *clients).await,
            Part::Pods { count } => pods(&flags.kubeconfig, *count).await,
            Part::Hold { count } => hold(&flags.kubeconfig, *count).await,
        }
    })
}

/// A client with a connection of its own, from the kubeconfig that the server wrote.
fn connect(kubeconfig: &PathBuf) -> Result<Client> {
    let text =
        std::fs::read_to_string(kubeconfig).with_context(|| kubeconfig.display().to_string())?;
    let value = |key: &str| {
        let found = text.lines().find_map(|l| l.trim().strip_prefix(key)?.strip_prefix(": "));
        found.with_context(|| format!("{}: no {key}", kubeconfig.display()))
    };
    let decoded = |key: &str| {
        Ok::<_, anyhow::Error>(base64::engine::general_purpose::STANDARD.decode(value(key)?)?)
    };
    let identity = Identity::Certificate {
        chain_pem: decoded("client-certificate-data")?,
        key_pem: decoded("client-key-data")?,
    };
    let transport =
        TlsTransport::new(value("server")?, &decoded("certificate-authority-data")?, identity)?;
    Ok(Client::new(Arc::new(transport)))
}

async fn ready(kubeconfig: &PathBuf, name: Option<&str>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !kubeconfig.exists() {
        pause(end, "the kubeconfig").await?;
    }
    let client = connect(kubeconfig)?;
    let nodes = loop {
        match client.list::<Node>("", &ListParams::all()).await {
            Ok(_) => break Cache::<Node>::start(client.clone(), ListParams::all()),
            Err(_) => pause(end, "the API server").await?,
        }
    };
    let is_ready = |node: &Node| {
        if name.is_some_and(|name| node.metadata.name.as_deref() != Some(name)) {
            return false;
        }
        let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
        conditions.is_some_and(|c| c.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
    };
    if nodes.until(PATIENCE, |cache, _| cache.list().iter().any(|n| is_ready(n))).await {
        Ok(())
    } else {
        bail!("the node did not become Ready")
    }
}

async fn pause(end: Instant, what: &str) -> Result<()> {
    if Instant::now() > end {
        bail!("waited {PATIENCE:?} for {what}");
    }
    tokio::time::sleep(Duration::from_millis(2)).await;
    Ok(())
}

async fn load(kubeconfig: &PathBuf, operation: &str, clients: usize) -> Result<()> {
    let first = connect(kubeconfig)?;
    match operation {
        "get" => drop(send(&first, "POST", LOADED, Some(config_map("bench-get"))).await),
        "list" => fill(&first).await?,
        _ => {}
    }
    let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..clients {
        let (client, done, stop, operation) =
            (connect(kubeconfig)?, done.clone(), stop.clone(), operation.to_owned());
        tasks.spawn(async move {
            let mut turn = 0u64;
            while !stop.load(Ordering::Relaxed) {
                request(&client, &operation, &format!("bench-{clients}-{number}-{turn}")).await?;
                turn += 1;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<(), anyhow::Error>(())
        });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (begin, before) = (Instant::now(), done.load(Ordering::Relaxed));
    tokio::time::sleep(LOAD_TIME).await;
    let rate = (done.load(Ordering::Relaxed) - before) as f64 / begin.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    println!("{rate} {}", done.load(Ordering::Relaxed));
    Ok(())
}

async fn request(client: &Client, operation: &str, name: &str) -> Result<()> {
    match operation {
        "create" => send(client, "POST", LOADED, Some(config_map(name))).await,
        "get" => send(client, "GET", &format!("{LOADED}/bench-get"), None).await,
        "list" => send(client, "GET", LISTED, None).await,
        _ => bail!("unknown operation {operation:?}"),
    }
}

fn config_map(name: &str) -> Bytes {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"bench": "load"}}, "data": {"key": "x".repeat(200)}});
    Bytes::from(map.to_string())
}

/// A namespace of exactly [`LIST_LENGTH`] ConfigMaps, one of them the cluster's own. An earlier run has made it already.
async fn fill(client: &Client) -> Result<()> {
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench-list"}});
    let namespace = Bytes::from(namespace.to_string());
    if send(client, "POST", "/api/v1/namespaces", Some(namespace)).await.is_err() {
        return Ok(());
    }
    for number in 1..LIST_LENGTH {
        let map = config_map(&format!("bench-list-{number}"));
        send(client, "POST", LISTED, Some(map)).await?;
    }
    Ok(())
}

async fn send(client: &Client, method: &str, path: &str, body: Option<Bytes>) -> Result<()> {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("Content-Type", "application/json")
        .header("Accept", "application/json")
        .body(body.unwrap_or_default())?;
    let response = client.raw(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|e| anyhow::anyhow!(e))?.to_bytes();
    if status.is_success() {
        Ok(())
    } else {
        bail!("{method} {path}: {status}: {}", String::from_utf8_lossy(&body))
    }
}

fn pod(name: &str) -> Result<Pod> {
    Ok(serde_json::from_value(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": testkit::NAMES[0], "command": ["sleep", "3600"]}]}}),
    )?)
}

/// Creates a pod and returns the milliseconds until it is Ready.
async fn start(client: &Client, cache: &Cache<Pod>, name: &str) -> Result<f64> {
    let begin = Instant::now();
    client.create(&pod(name)?).await?;
    let is_ready = |pod: &Pod| {
        let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
        conditions.is_some_and(|c| c.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
    };
    let ready = |cache: &Cache<Pod>, _| cache.get("default", name).is_some_and(|p| is_ready(&p));
    if !cache.until(PATIENCE, ready).await {
        bail!("pod {name} did not become Ready");
    }
    Ok(begin.elapsed().as_secs_f64() * 1e3)
}

async fn pods(kubeconfig: &PathBuf, count: usize) -> Result<()> {
    let client = connect(kubeconfig)?;
    let cache = Cache::<Pod>::start(client.clone(), ListParams::all());
    cache.synced().await;
    for number in 0..count {
        let name = format!("bench-{number}");
        println!("{}", start(&client, &cache, &name).await?);
        client.delete::<Pod>("default", &name, &DeleteParams::default()).await?;
        if !cache.until(PATIENCE, |cache, _| cache.get("default", &name).is_none()).await {
            bail!("pod {name} did not go away");
        }
    }
    Ok(())
}

async fn hold(kubeconfig: &PathBuf, count: usize) -> Result<()> {
    let client = connect(kubeconfig)?;
    let cache = Cache::<Pod>::start(client.clone(), ListParams::all());
    cache.synced().await;
    for number in 0..count {
        start(&client, &cache, &format!("bench-hold-{number}")).await?;
    }
    Ok(())
}
