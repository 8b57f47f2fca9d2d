//! `copepod check server ...`: whether a node would start with these flags. PID 1 asks so before it uses those of an
//! owner's settings, for a node that refuses them at its start is no node at all.
//!
//! Nothing is written and nobody is asked. What is said never repeats what may be a token.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use clap::error::{ContextKind, ContextValue};

use crate::cli::{self, Cli, Command};
use crate::ranges::ClusterNetwork;
use crate::{identity, node, server};

pub(crate) fn run(arguments: Vec<OsString>) -> Result<()> {
    let parsed = Cli::try_parse_from([OsString::from("copepod")].into_iter().chain(arguments));
    match parsed.map_err(|error| anyhow!(told(&error)))?.command {
        Command::Server(flags) => check_server(&flags),
        Command::Agent(flags) => check_agent(&flags),
        _ => bail!("expected server or agent"),
    }
}

fn check_server(flags: &cli::Server) -> Result<()> {
    ClusterNetwork::resolve(&flags.cluster_cidr, &flags.service_cidr, flags.cluster_dns)?;
    network::overlay::Backend::parse(&flags.flannel_backend).context("--flannel-backend")?;
    check_token(flags.token_file.as_deref(), "--token-file")?;
    check_token(flags.agent_token_file.as_deref(), "--agent-token-file")?;
    server::controllers_config(flags, String::new())?;
    node::check(&flags.node)
}

fn check_agent(flags: &cli::Agent) -> Result<()> {
    if let Some(server) = &flags.server {
        cluster::Address::of_url(server).context("--server")?;
    }
    check_token(flags.token_file.as_deref(), "--token-file")?;
    node::check(&flags.node)
}

/// Who takes one flag for the other gives a token where a file's name is wanted.
fn check_token(file: Option<&Path>, flag: &str) -> Result<()> {
    let read = identity::token(None, file, flag);
    read.map(drop).map_err(|_| anyhow!("{flag}: the file cannot be read"))
}

/// What is wrong, and with which flag.
fn told(error: &clap::Error) -> String {
    let flag = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) => text.split(['=', ' ']).next().unwrap_or_default(),
        _ => "",
    };
    let flag = if flag.starts_with('-') { format!("{flag}: ") } else { String::new() };
    let kind = error.kind().as_str().unwrap_or("the node would not start with these");
    format!("{flag}{kind}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(arguments: &str) -> Option<String> {
        let arguments = arguments.split(' ').map(OsString::from).collect();
        run(arguments).err().map(|error| format!("{error:#}"))
    }

    #[test]
    fn what_the_node_would_refuse_is_named_without_its_value() {
        let rows: &[(&str, Option<&str>)] = &[
            ("server", None),
            ("server --node-label=a=b --disable-kube-proxy", None),
            ("agent --server=https://a:6443 --token=hush", None),
            ("server --no-such-flag=hush", Some("--no-such-flag: unexpected argument found")),
            ("server hush", Some("unexpected argument found")),
            ("server --help", Some("")),
            (
                "server --https-listen-port=hush",
                Some("--https-listen-port: invalid value for one of the arguments"),
            ),
            ("agent --disable-agent", Some("--disable-agent: unexpected argument found")),
            ("agent --server=https://a:99999", Some("--server")),
            ("server --token=hush --token-file=/hush", Some("--token")),
            ("agent --token-file=hush", Some("--token-file: the file cannot be read")),
            ("server --cluster-cidr=x", Some("")),
            ("server --flannel-backend=x", Some("--flannel-backend")),
            ("server --kube-controller-manager-arg=x", Some("--kube-controller-manager-arg")),
            ("server --node-label=x", Some("--node-label")),
            ("server --node-taint=x", Some("--node-taint")),
            ("server --node-name=A_B", Some("--node-name")),
            ("runtime --socket=/a --state=/b --cgroup-root=c", Some("expected server or agent")),
        ];
        for (arguments, expected) in rows {
            let found = check(arguments);
            let fits = match (&found, expected) {
                (None, None) => true,
                (Some(found), Some(begin)) => found.starts_with(begin) && !found.contains("hush"),
                _ => false,
            };
            assert!(fits, "{arguments}: {found:?}");
        }
    }

    const REGISTRIES: &[&str] = &[
        "",
        "mirrors: {a: {endpoint: ['https://b']}}",
        "mirrors: {a: {endpoint: ['https://b/v2/x', 'http://b:5000']}}",
        "mirrors: {a: {endpoint: ['https://']}}",
        "mirrors: {a: {endpoint: ['https://b?x=y']}}",
        "mirrors: {a: {endpoint: ['https://b:99999']}}",
        "mirrors: {a: {endpoint: ['https://b:x']}}",
        "mirrors: {a: {endpoint: ['https://u:p@b']}}",
        "mirrors: {a: {endpoint: ['https://[::1]:5000']}}",
        "mirrors: {a: {rewrite: {x: y}}}",
        "mirrors: {a: }",
        "configs: {a: {auth: {username: u, password: p}}}",
        "configs: {a: {auth: {username: u}}}",
        "configs: {a: {auth: {password: p}}}",
        "configs: {a: {auth: {auth: dTpw}}}",
        "configs: {a: {auth: {auth: '!'}}}",
        "configs: {a: {auth: {auth: dXA=}}}",
        "configs: {a: {tls: {ca_file: x}}}",
        "configs: {a: {tls: {cert_file: x}}}",
        "configs: {a: {tls: {key_file: x}}}",
        "configs: {a: {tls: {cert_file: x, key_file: y}}}",
    ];
    const SERVERS: &[&str] = &[
        "https://a",
        "https://a:6443",
        "https://a:6443/",
        "https://10.0.0.1:1",
        "https://[::1]",
        "https://[::1]:7",
        "https://a:0",
        "https://a:99999",
        "https://a:x",
        "https://a:b:c",
        "https://a/x",
        "https://a?x",
        "https://[a]:7",
        "https://:7",
        "https://",
        "http://a",
        "a:6443",
        "https://u@a",
        "https://a#b",
        "https://[::1",
        "https://::1",
    ];

    #[test]
    fn the_settings_of_a_board_let_nothing_through_that_the_node_refuses() {
        let endpoints = vec!["'https://b'"; 40].join(", ");
        let many = format!("mirrors: {{a: {{endpoint: [{endpoints}]}}}}");
        for text in REGISTRIES.iter().copied().chain([many.as_str()]) {
            let settings = init::check_settings(&format!("registries: {{{text}}}"), "");
            let node = runtime::image::Registries::parse(text).err();
            let told = !settings.is_empty();
            assert!(told || node.is_none(), "{text}: {node:?}");
            // Of a port that is no number the node makes the scheme's.
            let lenient = text.contains(":x") || text.contains(":99999");
            assert!(!told || node.is_some() || lenient, "{text}: {settings:?}");
        }
        for server in SERVERS {
            let text = format!("role: agent\nserver: '{server}'");
            let settings = init::check_settings(&text, "");
            let node = cluster::Address::of_url(server).err();
            assert_eq!(settings.is_empty(), node.is_none(), "{server}: {settings:?} {node:?}");
        }
    }
}
