//! Everything a server needs below one directory: what exists is used, what is missing is made, and what no longer
//! fits (other names, soon expired, another authority) is issued again.

use crate::authority::DAY;
use crate::facts::Facts;
use crate::{Authority, Error, Identity, Request, ServiceAccountKeys, Subject, files};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How long certificates of servers, components and nodes live unless the operator says otherwise.
pub const LEAF_SECONDS: i64 = 365 * DAY;

/// A certificate with less than this part of its life left is issued again.
const RENEW_PART: i64 = 4;

/// What the server may be called; its certificate names exactly these.
#[derive(Clone, Debug)]
pub struct ServerNames {
    pub node_name: String,
    pub cluster_domain: String,
    /// The ClusterIP of the Service `kubernetes`.
    pub service_ip: IpAddr,
    /// Addresses of the host; loopback is added.
    pub ips: Vec<IpAddr>,
    /// Further names or addresses the operator gave.
    pub extra: Vec<String>,
    /// How long certificates live; [`LEAF_SECONDS`] normally.
    pub leaf_seconds: i64,
}

/// The credentials of a server.
pub struct ServerPki {
    pub directory: PathBuf,
    pub server_authority: Authority,
    pub client_authority: Authority,
    pub server: Identity,
    pub admin: Identity,
    pub kubelet: Identity,
    pub controller_manager: Identity,
    pub scheduler: Identity,
    pub service_account: Arc<ServiceAccountKeys>,
}

/// Loads or makes all credentials below `dir` (DATA/server/tls). `now` is seconds since 1970.
pub fn ensure(dir: &Path, names: &ServerNames, now: i64) -> Result<ServerPki, Error> {
    files::make_directory(dir)?;
    let server_authority =
        Authority::ensure(dir, "server-ca", &format!("copepod-server-ca@{now}"), now)?;
    let client_authority =
        Authority::ensure(dir, "client-ca", &format!("copepod-client-ca@{now}"), now)?;
    let server =
        leaf(dir, "serving-kube-apiserver", &server_authority, server_request(names), now)?;
    let client = |file: &str, user: &str, group: Option<&str>| {
        leaf(dir, file, &client_authority, client_request(user, group, names.leaf_seconds), now)
    };
    let admin = client("client-admin", "system:admin", Some("system:masters"))?;
    let kubelet = client(
        "client-kubelet",
        &format!("system:node:{}", names.node_name),
        Some("system:nodes"),
    )?;
    let controller_manager = client("client-controller", "system:kube-controller-manager", None)?;
    let scheduler = client("client-scheduler", "system:kube-scheduler", None)?;
    let issuer = format!("https://kubernetes.default.svc.{}", names.cluster_domain);
    let service_account = Arc::new(ServiceAccountKeys::ensure(&dir.join("service.key"), &issuer)?);
    Ok(ServerPki {
        directory: dir.to_owned(),
        server_authority,
        client_authority,
        server,
        admin,
        kubelet,
        controller_manager,
        scheduler,
        service_account,
    })
}

fn server_request(names: &ServerNames) -> Request {
    let domain = &names.cluster_domain;
    let mut dns_names: Vec<String> =
        ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
            .map(str::to_owned)
            .into_iter()
            .chain([format!("kubernetes.default.svc.{domain}"), names.node_name.clone()])
            .collect();
    let mut ips =
        vec![IpAddr::from([127, 0, 0, 1]), std::net::Ipv6Addr::LOCALHOST.into(), names.service_ip];
    ips.extend(&names.ips);
    for extra in &names.extra {
        match extra.parse() {
            Ok(ip) => ips.push(ip),
            Err(_) => dns_names.push(extra.clone()),
        }
    }
    dns_names.sort();
    dns_names.dedup();
    ips.sort();
    ips.dedup();
    let subject =
        Subject { common_name: "kube-apiserver".into(), organization: None, dns_names, ips };
    Request { subject, server: true, client: false, seconds: names.leaf_seconds }
}

fn client_request(user: &str, group: Option<&str>, seconds: i64) -> Request {
    let subject = Subject {
        common_name: user.into(),
        organization: group.map(str::to_owned),
        ..Default::default()
    };
    Request { subject, server: false, client: true, seconds }
}

fn leaf(
    dir: &Path,
    file: &str,
    authority: &Authority,
    request: Request,
    now: i64,
) -> Result<Identity, Error> {
    let (crt, key) = (dir.join(format!("{file}.crt")), dir.join(format!("{file}.key")));
    if let (Some(certificate), Some(key)) = (files::read_private(&crt)?, files::read_private(&key)?)
        && fits(&certificate, &key, authority, &request, now)
    {
        return Ok(Identity { certificate, key });
    }
    let identity = authority.issue(&request, now)?;
    files::write_private(&key, identity.key.as_bytes())?;
    files::write_public(&crt, identity.certificate.as_bytes())?;
    Ok(identity)
}

/// Whether a certificate on disk still says what it should: same subject and names, this authority's signature, its
/// own key, and time left. Anything unreadable does not fit: leaves are cheap to make again.
fn fits(certificate: &str, key: &str, authority: &Authority, request: &Request, now: i64) -> bool {
    let (Ok(facts), Ok(key)) = (Facts::of_pem(certificate), rcgen::KeyPair::from_pem(key)) else {
        return false;
    };
    facts.common_name == request.subject.common_name
        && facts.organizations.iter().eq(request.subject.organization.iter())
        && facts.names == wanted_names(&request.subject)
        && facts.issued_by(authority.certificate_pem())
        && facts.public_key.ends_with(rcgen::PublicKeyData::der_bytes(&key))
        && facts.not_after > now + request.seconds / RENEW_PART
}

fn wanted_names(subject: &Subject) -> Vec<String> {
    let mut names: Vec<String> = subject
        .dns_names
        .iter()
        .cloned()
        .chain(subject.ips.iter().map(IpAddr::to_string))
        .collect();
    names.sort();
    names
}
