//! The loop: looks at the folder when something in it changes, and has the files applied that are due.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use client::{Client, Recorder};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::deploy::Deployer;
use crate::folder::{self, Found};
use crate::loop_state::LoopState;

/// How long the folder must be quiet: files come in several writes, and several at once.
const QUIET: Duration = Duration::from_millis(300);
/// How long it waits for quiet at most.
const QUIET_MAX: Duration = Duration::from_secs(5);
/// When a folder that could not be read or watched is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// What is applied, and where to.
pub struct Config {
    /// With the rights of an administrator.
    pub client: Client,
    pub folder: PathBuf,
    /// Files (without ending) and folders whose objects are deleted instead.
    pub disabled: Vec<String>,
}

/// Applies the manifests of the folder until shutdown.
pub async fn run(config: Config, mut shutdown: watch::Receiver<bool>) {
    let recorder = Recorder::new(config.client.clone(), "deploy", None);
    let deployer = Deployer { client: config.client.clone(), recorder };
    tokio::select! {
        () = work(&config, &deployer) => {}
        _ = shutdown.wait_for(|down| *down) => {}
    }
}

async fn work(config: &Config, deployer: &Deployer) {
    let mut state = LoopState::default();
    let mut told = Vec::new();
    loop {
        let (found, changes) = look(config).await;
        for problem in found.problems.iter().filter(|problem| !told.contains(*problem)) {
            tracing::warn!("manifest left out: {problem}");
        }
        for file in state.due(&found.files, Instant::now()) {
            let outcome = deployer.deploy(&file).await;
            state.ended(file, outcome, Instant::now());
        }
        told = found.problems;
        let again = match &changes {
            Some(_) => state.next(),
            None => Some(Instant::now() + LOOK_AGAIN),
        };
        tokio::select! {
            () = changed(changes) => {}
            () = at(again) => {}
        }
    }
}

/// The folder's files, and what tells of changes after this look.
async fn look(config: &Config) -> (Found, Option<AsyncFd<OwnedFd>>) {
    let (base, disabled) = (config.folder.clone(), config.disabled.clone());
    let looked = tokio::task::spawn_blocking(move || blocking_look(&base, &disabled)).await;
    let (found, watch) = match looked {
        Ok(Ok(looked)) => looked,
        Ok(Err(error)) => {
            let problem = format!("{}: {error}", config.folder.display());
            (Found { problems: vec![problem], ..Found::default() }, None)
        }
        Err(_) => (Found::default(), None),
    };
    #[expect(deprecated, reason = "OwnedFd keeps its descriptor open; the replacement is unsafe")]
    let changes = watch.and_then(|watch| AsyncFd::new(watch).ok());
    (found, changes)
}

/// Watches first and reads then, so that no change is missed between the two.
fn blocking_look(base: &Path, disabled: &[String]) -> std::io::Result<(Found, Option<OwnedFd>)> {
    std::fs::create_dir_all(base)?;
    let folders = folder::scan(base, disabled)?.folders;
    let watch = sys::notify::watch_folders(&folders).ok();
    Ok((folder::scan(base, disabled)?, watch))
}

/// Waits for a change and for the quiet after it.
async fn changed(watch: Option<AsyncFd<OwnedFd>>) {
    let Some(watch) = watch else { return std::future::pending().await };
    if wait(&watch).await.is_err() {
        return;
    }
    let quiet = async { while let Ok(Ok(())) = tokio::time::timeout(QUIET, wait(&watch)).await {} };
    // Whoever writes without end does not keep the rest from being applied.
    let _ = tokio::time::timeout(QUIET_MAX, quiet).await;
}

async fn wait(watch: &AsyncFd<OwnedFd>) -> std::io::Result<()> {
    loop {
        let mut ready = watch.readable().await?;
        let read = ready.try_io(|fd| sys::notify::take(fd.get_ref()));
        if let Ok(result) = read {
            return result;
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
