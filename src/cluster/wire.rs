//! What both halves agree on: paths, headers, bounds, and the settings that agents take from the server.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub(crate) const CA_CERTS: &str = "/cacerts";
pub(crate) const PING: &str = "/ping";
pub(crate) const PREFIX: &str = "/v1-copepod/";
pub(crate) const SERVING_CERTIFICATE: &str = "/v1-copepod/serving-kubelet.crt";
pub(crate) const CLIENT_CERTIFICATE: &str = "/v1-copepod/client-kubelet.crt";
pub(crate) const CLIENT_CA: &str = "/v1-copepod/client-ca.crt";
pub(crate) const API_SERVERS: &str = "/v1-copepod/apiservers";
pub(crate) const CONFIG: &str = "/v1-copepod/config";
pub(crate) const CONNECT: &str = "/v1-copepod/connect";
/// Where the server's token is replaced.
pub const TOKEN_PATH: &str = "/v1-copepod/token";

/// Names the node that asks.
pub(crate) const NODE_NAME: &str = "copepod-node-name";
/// Proves that a name belongs to the node that took it first.
pub(crate) const NODE_PASSWORD: &str = "copepod-node-password";
/// The node's addresses, separated by commas.
pub(crate) const NODE_IP: &str = "copepod-node-ip";
/// The node's own certificate, which TLS no longer takes, as base64 of DER.
pub(crate) const NODE_CERTIFICATE: &str = "copepod-node-certificate";
/// How many seconds a certificate in an answer lives from now on, so that the node need not ask its clock.
pub(crate) const CERTIFICATE_SECONDS: &str = "copepod-certificate-seconds";

/// Largest body of a request to the supervisor; a signing request has a few hundred bytes.
pub(crate) const REQUEST_BYTES_MAX: usize = 16 * 1024;
/// Largest answer an agent reads.
pub(crate) const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Addresses a node may name.
pub(crate) const NODE_IPS_MAX: usize = 8;
/// Bytes of random numbers in a node's password.
pub(crate) const NODE_PASSWORD_BYTES: usize = 16;

pub(crate) const NODES_GROUP: &str = "system:nodes";
pub(crate) const NODE_USER_PREFIX: &str = "system:node:";

/// Settings of the cluster that every node must share; served by the server, kept by the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shared {
    pub cluster_cidr: String,
    pub service_cidr: String,
    pub cluster_dns: IpAddr,
    pub cluster_domain: String,
    pub flannel_backend: String,
    pub service_node_port_range: String,
    #[serde(default)]
    pub disable_kube_proxy: bool,
}
