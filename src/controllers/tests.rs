//! Golden cases: `cases/<controller>/<name>.yaml` holds what is observed, then `---`, then the actions, one a line.
//! `UPDATE=1` rewrites the second half.

mod daemons;
mod live;
mod model;
mod nodes;
mod slices;

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::action::Action;

const DIVIDER: &str = "\n---\n";

#[derive(Deserialize)]
struct Case<O> {
    now: Timestamp,
    observed: O,
}

fn check<O: DeserializeOwned>(controller: &str, plan: impl Fn(&O, Timestamp) -> Vec<Action>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases").join(controller);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("case folder")
        .map(|entry| entry.expect("case file").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no cases in {}", folder.display());
    let mut failures = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("case file");
        let (input, expected) = text.split_once(DIVIDER).unwrap_or((text.trim_end(), ""));
        let case: Case<O> =
            serde_saphyr::from_str(input).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let actions = plan(&case.observed, case.now);
        let actual: String = actions.iter().map(|action| format!("{action}\n")).collect();
        if actual == expected {
            continue;
        }
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&file, format!("{input}{DIVIDER}{actual}")).expect("write case");
        } else {
            failures
                .push(format!("{}\n--- expected\n{expected}--- actual\n{actual}", file.display()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn deployment() {
    check("deployment", crate::deployment::plan);
}

#[test]
fn replicaset() {
    check("replicaset", crate::replicaset::plan);
}

#[test]
fn service_account() {
    check("service_account", |observed, _| crate::service_account::plan(observed));
}

#[test]
fn root_ca() {
    check("root_ca", |observed, _| crate::root_ca::plan(observed));
}

#[test]
fn node() {
    check("node", crate::node::plan);
}

#[test]
fn eviction() {
    check("eviction", crate::eviction::plan);
}

#[test]
fn cluster_dns() {
    check("cluster_dns", |observed, _| crate::cluster_dns::plan(observed));
}

#[test]
fn daemonset() {
    check("daemonset", crate::daemonset::plan);
}

#[test]
fn load_balancer() {
    check("load_balancer", |observed, _| crate::load_balancer::plan(observed));
}

#[test]
fn podgc() {
    check("podgc", crate::podgc::plan);
}

#[test]
fn namespace() {
    check("namespace", crate::namespace::plan);
}

#[test]
fn garbage() {
    check("garbage", |observed, _| crate::garbage::plan(observed));
}

#[test]
fn endpoints() {
    check("endpoints", |observed, _| crate::endpoints::plan(observed));
}

#[test]
fn every_case_folder_has_a_test() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let known = [
        "cluster_dns",
        "daemonset",
        "deployment",
        "endpoints",
        "eviction",
        "garbage",
        "load_balancer",
        "namespace",
        "node",
        "podgc",
        "replicaset",
        "root_ca",
        "service_account",
    ];
    for entry in std::fs::read_dir(folder).expect("cases") {
        let name = entry.expect("folder").file_name();
        assert!(known.iter().any(|known| name == *known), "{name:?} is read by no test");
    }
}

#[test]
fn ranges() {
    assert!("10.42.0.0/16".parse::<crate::Cidr>().is_ok());
    assert!("10.42.0.0".parse::<crate::Cidr>().is_err());
    assert!("10.42.0.0/33".parse::<crate::Cidr>().is_err());
}

#[test]
fn arguments() {
    let range = "10.42.0.0/16".parse().expect("range");
    let mut config = crate::Config::new(range, 24, String::new());
    config.set("node-monitor-grace-period=1m0.5s").expect("time");
    config.set("--node-eviction-rate=0.2").expect("rate");
    assert_eq!(config.node_life.monitor_grace.as_millis(), 60_500);
    assert_eq!(config.node_life.eviction_pause.as_secs(), 5);
    let wrong = [
        "node-monitor-grace-period",
        "node-monitor-grace-period=5",
        "node-eviction-rate=0",
        "other=1s",
    ];
    for argument in wrong {
        assert!(config.set(argument).is_err(), "{argument}");
    }
}
