//! The command line: one table of flags per command, with K3s' names wherever K3s has the flag.

use std::ffi::OsString;
use std::net::IpAddr;
use std::ops::RangeInclusive;
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
    /// Run the node agent alone and join it to a server
    Agent(Box<Agent>),
    /// Manage the tokens with which nodes join
    Token(Token),
    /// Update a board to the version of a bundle
    Upgrade(Upgrade),
    /// Say whether a node would start with these flags (asked by PID 1 of the appliance)
    #[command(hide = true)]
    Check {
        /// The command with its flags, as after the program's name
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
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
    /// Secret with which agents alone join; the token when not given
    #[arg(long, env = "COPEPOD_AGENT_TOKEN", hide_env_values = true)]
    pub(crate) agent_token: Option<String>,
    /// File that holds the agents' token
    #[arg(long, env = "COPEPOD_AGENT_TOKEN_FILE", conflicts_with = "agent_token")]
    pub(crate) agent_token_file: Option<PathBuf>,
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
    /// How packets reach pods on other nodes: vxlan, host-gw or none
    #[arg(long, default_value = "vxlan")]
    pub(crate) flannel_backend: String,
    /// Manifest (file name without ending) or folder in DATA-DIR/server/manifests whose objects are deleted instead of applied;
    /// names of parts that K3s packages may stand here without effect
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) disable: Vec<String>,
    /// Do not program the addresses of Services on any node
    #[arg(long)]
    pub(crate) disable_kube_proxy: bool,
    /// Ports that Services of type NodePort may have
    #[arg(long, default_value = "30000-32767", value_parser = parse_ports)]
    pub(crate) service_node_port_range: Ports,
    /// A setting of upstream's controller manager as NAME=VALUE: node-monitor-grace-period, node-startup-grace-period or
    /// node-eviction-rate
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) kube_controller_manager_arg: Vec<String>,

    /// How long certificates live, in seconds; for tests
    #[arg(long, hide = true, default_value_t = pki::LEAF_SECONDS)]
    pub(crate) certificate_seconds: i64,
    #[command(flatten)]
    pub(crate) node: Node,
}

#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct Agent {
    /// Configuration file in YAML; its keys are the names of these flags
    #[arg(short = 'c', long, env = "COPEPOD_CONFIG_FILE", default_value = crate::config::DEFAULT_FILE)]
    pub(crate) config: PathBuf,
    /// Log more
    #[arg(long, env = "COPEPOD_DEBUG")]
    pub(crate) debug: bool,
    /// Server to join, as https://HOST:6443
    #[arg(short = 's', long, env = "COPEPOD_URL")]
    pub(crate) server: Option<String>,
    /// Token that lets this node join; needed the first time only
    #[arg(short = 't', long, env = "COPEPOD_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// File that holds the token
    #[arg(long, env = "COPEPOD_TOKEN_FILE", conflicts_with = "token")]
    pub(crate) token_file: Option<PathBuf>,
    /// Folder that holds the state
    #[arg(short = 'd', long, env = "COPEPOD_DATA_DIR", default_value = "/var/lib/copepod")]
    pub(crate) data_dir: PathBuf,
    #[command(flatten)]
    pub(crate) node: Node,
}

/// What the node agent takes, alone or within the server.
#[derive(Clone, Debug, Args)]
pub(crate) struct Node {
    /// Name of the node; the host name when not given
    #[arg(long, env = "COPEPOD_NODE_NAME")]
    pub(crate) node_name: Option<String>,
    /// Address of the node; that of the default route when not given
    #[arg(short = 'i', long)]
    pub(crate) node_ip: Option<IpAddr>,
    /// Add a number to the node's name that is made once and kept
    #[arg(long)]
    pub(crate) with_node_id: bool,
    /// Link to the other nodes; that of the node's address when not given
    #[arg(long)]
    pub(crate) flannel_iface: Option<String>,
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
    /// A file that is there while the machine goes down: pods are stopped then, too
    #[arg(long, hide = true, default_value = init::MACHINE_ENDS_FILE)]
    pub(crate) machine_ends_file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Token {
    #[command(subcommand)]
    pub(crate) command: TokenCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Create a bootstrap token on the server
    Create {
        #[command(flatten)]
        access: Access,
        /// The token as <id>.<secret>; made up when not given
        token: Option<String>,
        /// What the token is for
        #[arg(long, default_value = "")]
        description: String,
        /// Extra groups of whoever uses the token
        #[arg(long, value_delimiter = ',')]
        groups: Vec<String>,
        /// How long the token lives, such as 1s, 2m or 3h; 0 for ever
        #[arg(long, default_value = "24h")]
        ttl: String,
        /// What the token can be used for: signing, authentication
        #[arg(long, value_delimiter = ',')]
        usages: Vec<String>,
    },
    /// Delete bootstrap tokens on the server
    Delete {
        #[command(flatten)]
        access: Access,
        /// Tokens, or their ids
        #[arg(required = true)]
        tokens: Vec<String>,
    },
    /// Make up and print a bootstrap token without creating it on the server
    Generate,
    /// List the bootstrap tokens of the server
    List {
        #[command(flatten)]
        access: Access,
        /// Form of the list: text, json or yaml
        #[arg(short = 'o', long, default_value = "text")]
        output: String,
    },
    /// Replace the server's token; nodes that have joined stay
    Rotate {
        #[command(flatten)]
        access: Access,
        /// The new token; made up when not given
        #[arg(long)]
        new_token: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Upgrade {
    #[command(flatten)]
    pub(crate) access: Access,
    /// Node of the cluster to update; this machine's when not given
    #[arg(long)]
    pub(crate) node: Option<String>,
    /// Take a version older than the one that runs
    #[arg(long)]
    pub(crate) allow_downgrade: bool,
    /// Only ask; do not wait for the end
    #[arg(long, requires = "node")]
    pub(crate) no_wait: bool,
    /// The bundle as the node reaches it: URL, oci://REGISTRY/NAME:TAG, or absolute path of a file
    pub(crate) source: String,
}

/// How the server is reached.
#[derive(Debug, Args)]
pub(crate) struct Access {
    /// Administrator's kubeconfig
    #[arg(long, env = "KUBECONFIG", default_value = "/etc/copepod/copepod.yaml")]
    pub(crate) kubeconfig: PathBuf,
}

/// A range of ports, as in the flag.
#[derive(Clone, Debug)]
pub(crate) struct Ports(pub(crate) RangeInclusive<u16>);

impl std::fmt::Display for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.0.start(), self.0.end())
    }
}

/// Reads `LOW-HIGH`.
pub(crate) fn parse_ports(text: &str) -> Result<Ports, String> {
    let ports = text
        .split_once('-')
        .and_then(|(low, high)| Some((low.trim().parse().ok()?, high.trim().parse().ok()?)));
    match ports {
        Some((low, high)) if 0 < low && low <= high => Ok(Ports(low..=high)),
        _ => Err(format!("expected LOW-HIGH such as 30000-32767, not {text:?}")),
    }
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
