//! The command line: one table of flags per command, with K3s' names wherever K3s has the flag.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// The version of Kubernetes whose API is served, with our own as build metadata, as K3s writes it.
pub(crate) const VERSION: &str = concat!("v1.36.0+copepod", env!("CARGO_PKG_VERSION"));

#[derive(Debug, Parser)]
#[command(name = "copepod", version = VERSION, about = "A Kubernetes node in one binary")]
#[command(args_override_self = true, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the control plane and, unless --disable-agent is given, the node agent
    Server(Box<Server>),
    /// Run the container runtime process (started by the server or agent)
    #[command(hide = true)]
    Runtime(Runtime),
}

#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct Server {
    /// Configuration file in YAML; its keys are the names of these flags
    #[arg(short = 'c', long, env = "COPEPOD_CONFIG_FILE", default_value = crate::config::DEFAULT_FILE)]
    pub(crate) config: PathBuf,
    /// Log more
    #[arg(long, env = "COPEPOD_DEBUG")]
    pub(crate) debug: bool,
    /// Folder that holds the state
    #[arg(short = 'd', long, env = "COPEPOD_DATA_DIR", default_value = "/var/lib/copepod")]
    pub(crate) data_dir: PathBuf,
    /// Where the administrator's kubeconfig is written
    #[arg(
        short = 'o',
        long,
        env = "COPEPOD_KUBECONFIG_OUTPUT",
        default_value = "/etc/copepod/copepod.yaml"
    )]
    pub(crate) write_kubeconfig: PathBuf,
    /// File mode of the kubeconfig, in octal
    #[arg(long, env = "COPEPOD_KUBECONFIG_MODE", default_value = "600", value_parser = parse_mode)]
    pub(crate) write_kubeconfig_mode: u32,
    /// Secret with which nodes join; made up and kept when not given
    #[arg(short = 't', long, env = "COPEPOD_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// File that holds the token
    #[arg(long, env = "COPEPOD_TOKEN_FILE", conflicts_with = "token")]
    pub(crate) token_file: Option<PathBuf>,
    /// Run the control plane only
    #[arg(long)]
    pub(crate) disable_agent: bool,
    /// Address to listen on
    #[arg(long, default_value = "0.0.0.0")]
    pub(crate) bind_address: IpAddr,
    /// Port of the API server and supervisor
    #[arg(long, default_value_t = 6443)]
    pub(crate) https_listen_port: u16,
    /// Address the API server tells others; the node's address when not given
    #[arg(long)]
    pub(crate) advertise_address: Option<IpAddr>,
    /// Further names or addresses in the server's certificate
    #[arg(long, value_delimiter = ',')]
    pub(crate) tls_san: Vec<String>,
    /// Addresses of pods
    #[arg(long, default_value = "10.42.0.0/16")]
    pub(crate) cluster_cidr: String,
    /// Addresses of Services
    #[arg(long, default_value = "10.43.0.0/16")]
    pub(crate) service_cidr: String,
    /// Address of the cluster DNS; the tenth of the Services' when not given
    #[arg(long)]
    pub(crate) cluster_dns: Option<IpAddr>,
    /// Domain of the cluster
    #[arg(long, default_value = "cluster.local")]
    pub(crate) cluster_domain: String,
    #[command(flatten)]
    pub(crate) node: Node,
}

/// What the node agent takes, alone or within the server.
#[derive(Debug, Args)]
pub(crate) struct Node {
    /// Name of the node; the host name when not given
    #[arg(long, env = "COPEPOD_NODE_NAME")]
    pub(crate) node_name: Option<String>,
    /// Address of the node; that of the default route when not given
    #[arg(short = 'i', long)]
    pub(crate) node_ip: Option<IpAddr>,
    /// Labels the node is registered with, key=value
    #[arg(long, value_delimiter = ',')]
    pub(crate) node_label: Vec<String>,
    /// Taints the node is registered with, key=value:effect
    #[arg(long, value_delimiter = ',')]
    pub(crate) node_taint: Vec<String>,
    /// Registry mirrors and credentials, as K3s' registries.yaml
    #[arg(long, default_value = "/etc/copepod/registries.yaml")]
    pub(crate) private_registry: PathBuf,
    /// Cgroup below which everything of ours runs
    #[arg(long, default_value = "copepod")]
    pub(crate) cgroup_root: String,
}

#[derive(Debug, Args)]
pub(crate) struct Runtime {
    /// Unix socket to answer on
    #[arg(long)]
    pub(crate) socket: PathBuf,
    /// Folder for the state of containers
    #[arg(long)]
    pub(crate) state: PathBuf,
    /// Cgroup below which pods run
    #[arg(long)]
    pub(crate) cgroup_root: String,
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err(format!("expected an octal file mode such as 600, not {text:?}")),
    }
}
