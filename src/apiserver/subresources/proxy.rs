//! `pods/NAME/proxy/PATH` and `services/NAME/proxy/PATH`: HTTP to a port of a pod, for who may use the subresource. The
//! pod is reached over the pod network of the server's machine.

use super::kubelet::{self, Exchange};
use super::node_proxy;
use crate::answer::{self, Answer, Result};
use crate::request::Target;
use crate::{ApiServer, Body, object};
use api::Status;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, LOCATION, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// How long a pod may take to be reached and to begin its answer.
const POD_TIMEOUT: Duration = Duration::from_secs(30);
/// Where HTTP is spoken if neither the request nor the pod says it.
const HTTP_PORT: u16 = 80;
/// `/api/v1/namespaces/NAMESPACE/KIND/NAME` comes before `/proxy`.
const SEGMENTS_BEFORE: usize = 6;
/// What concerns one connection only; hyper writes its own.
const OF_CONNECTION: &[HeaderName] =
    &[CONNECTION, UPGRADE, TE, TRAILER, TRANSFER_ENCODING, CONTENT_LENGTH, HOST];

/// Answers a request to a pod's or a service's HTTP server.
pub(super) async fn proxy(
    server: &Arc<ApiServer>,
    target: &Target,
    mut parts: Parts,
    body: Body,
) -> Result<Answer> {
    let permit = server.stream_permit()?;
    let (prefix, location) = node_proxy::split(&parts, SEGMENTS_BEFORE);
    let Some(location) = location else {
        return Ok(Answer::Response(redirect(&prefix, parts.uri.query())?));
    };
    let wanted = Wanted::parse(&target.name).ok_or_else(|| {
        let kind = target.plural.trim_end_matches('s');
        Status::bad_request(format!("invalid {kind} request {:?}", target.name))
    })?;
    let address = match target.plural.as_str() {
        "pods" => of_pod(server, target, &wanted).await?,
        _ => of_service(server, target, &wanted).await?,
    };
    if !may_be_proxied(address.ip()) {
        return Err(Status::bad_request("address not allowed"));
    }
    let unreachable =
        |why: &str| Status::service_unavailable(format!("error trying to reach service: {why}"));
    let dial = tokio::time::timeout(POD_TIMEOUT, TcpStream::connect(address)).await;
    let stream = dial
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        .map_err(|e| unreachable(&format!("dial tcp {address}: connect: {}", cause(&e))))?;
    let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let request = request(&parts, address, &prefix, &location, body)?;
    let exchanged = kubelet::exchange(server, stream, request, upgrade, permit, POD_TIMEOUT).await;
    Ok(Answer::Response(match exchanged.map_err(|why| unreachable(&why))? {
        Exchange::Upgraded(response) => response,
        Exchange::Answered(response, permit) => {
            let mut headers = response.headers().clone();
            let mut answer = kubelet::pass(server, response, permit);
            forget_connection(&mut headers, false);
            point_back(&mut headers, address, &prefix);
            *answer.headers_mut() = headers;
            answer
        }
    }))
}

/// The parts of `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`.
#[derive(Debug, PartialEq, Eq)]
struct Wanted<'a> {
    name: &'a str,
    port: &'a str,
}

impl<'a> Wanted<'a> {
    /// `None` for other forms, and for HTTPS, which is not spoken to pods.
    fn parse(text: &'a str) -> Option<Self> {
        let (name, port) = match text.split(':').collect::<Vec<_>>().as_slice() {
            [name] => (*name, ""),
            [name, port] | ["" | "http", name, port] => (*name, *port),
            _ => return None,
        };
        (!name.is_empty()).then_some(Self { name, port })
    }
}

async fn of_pod(server: &ApiServer, target: &Target, wanted: &Wanted<'_>) -> Result<SocketAddr> {
    let res = target.resource.ok_or_else(Status::no_such_resource)?;
    let pod = object::decode(&server.load(res, &target.namespace, wanted.name).await?.value)?;
    let address = object::text(&pod, &["status", "podIP"]).parse();
    let address: IpAddr = address.map_err(|_| Status::bad_request("address not allowed"))?;
    let invalid = || Status::bad_request(format!("invalid pod request {:?}", target.name));
    let port = match wanted.port {
        "" => first_port(&pod).unwrap_or(HTTP_PORT),
        port => port.parse().map_err(|_| invalid())?,
    };
    Ok(SocketAddr::new(address, port))
}

/// The first port that the pod's containers declare.
fn first_port(pod: &Value) -> Option<u16> {
    let containers = object::at(pod, &["spec", "containers"])?.as_array()?;
    let mut ports = containers.iter().filter_map(|c| c["ports"].get(0)?["containerPort"].as_u64());
    u16::try_from(ports.next()?).ok()
}

async fn of_service(
    server: &ApiServer,
    target: &Target,
    wanted: &Wanted<'_>,
) -> Result<SocketAddr> {
    let res = target.resource.ok_or_else(Status::no_such_resource)?;
    let service = object::decode(&server.load(res, &target.namespace, wanted.name).await?.value)?;
    let port = port_name(&service, wanted)?;
    let none = || {
        let why = format!("no endpoints available for service {:?}", wanted.name);
        Status::service_unavailable(why)
    };
    let endpoints = api::find_kind("", "v1", "Endpoints").ok_or_else(Status::no_such_resource)?;
    let found = server.find(endpoints, &target.namespace, wanted.name).await?.ok_or_else(none)?;
    let mut addresses = addresses(&object::decode(&found.value)?, &port);
    if addresses.is_empty() {
        return Err(none());
    }
    let random = object::random_bytes(1)?.first().copied().unwrap_or_default();
    let index = usize::from(random) % addresses.len();
    Ok(addresses.swap_remove(index))
}

/// A number stands for the service's port that has it.
fn port_name(service: &Value, wanted: &Wanted<'_>) -> Result<String> {
    let Ok(number) = wanted.port.parse::<u64>() else { return Ok(wanted.port.to_owned()) };
    let ports = object::at(service, &["spec", "ports"]).and_then(Value::as_array);
    let port = ports.into_iter().flatten().find(|p| p["port"].as_u64() == Some(number));
    port.map(|p| object::text(p, &["name"]).to_owned()).ok_or_else(|| {
        let why = format!("no service port {number} found for service {:?}", wanted.name);
        Status::service_unavailable(why)
    })
}

/// The ready addresses that have a port of this name.
fn addresses(endpoints: &Value, port: &str) -> Vec<SocketAddr> {
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let mut all = Vec::new();
    for subset in list(endpoints, "subsets") {
        let ports = list(&subset, "ports");
        let port = ports.iter().find(|p| object::text(p, &["name"]) == port);
        let Some(Ok(port)) = port.and_then(|p| p["port"].as_u64()).map(u16::try_from) else {
            continue;
        };
        let ips = list(&subset, "addresses");
        let ips = ips.iter().filter_map(|a| object::text(a, &["ip"]).parse().ok());
        all.extend(ips.map(|ip: IpAddr| SocketAddr::new(ip, port)));
    }
    all
}

/// Addresses that mean the server's own machine or its link are not for clients.
fn may_be_proxied(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            !(ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_unspecified()
                || ip == Ipv4Addr::BROADCAST)
        }
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_multicast() || ip.is_unspecified()),
    }
}

/// Links of a page are relative to a folder.
fn redirect(prefix: &str, query: Option<&str>) -> Result<Response<Body>> {
    let query = query.map(|q| format!("?{q}")).unwrap_or_default();
    let place = HeaderValue::try_from(format!("{prefix}/{query}"));
    let place = place.map_err(|_| Status::bad_request("the path is not valid text"))?;
    let mut response = answer::text_response(StatusCode::MOVED_PERMANENTLY, "");
    response.headers_mut().insert(LOCATION, place);
    Ok(response)
}

/// The request as the pod gets it: without the client's credentials, and told where it came in.
fn request(
    parts: &Parts,
    address: SocketAddr,
    prefix: &str,
    location: &str,
    body: Body,
) -> Result<Request<Body>> {
    let malformed = |e: &dyn std::fmt::Display| {
        Status::bad_request(format!("cannot form the request to the pod: {e}"))
    };
    let mut headers = parts.headers.clone();
    let upgrading = headers.contains_key(UPGRADE);
    forget_connection(&mut headers, upgrading);
    headers.remove(AUTHORIZATION);
    let path = location.split('?').next().unwrap_or_default();
    let outside = parts.uri.authority().map(|a| a.as_str().as_bytes());
    let outside = outside.or_else(|| parts.headers.get(HOST).map(HeaderValue::as_bytes));
    let told = [
        (HOST, address.to_string().into_bytes()),
        (HeaderName::from_static("x-forwarded-uri"), format!("{prefix}{path}").into_bytes()),
        (HeaderName::from_static("x-forwarded-host"), outside.unwrap_or_default().to_vec()),
        (HeaderName::from_static("x-forwarded-proto"), b"https".to_vec()),
    ];
    for (name, value) in told {
        headers.insert(name, HeaderValue::from_bytes(&value).map_err(|e| malformed(&e))?);
    }
    let mut request = Request::builder()
        .method(parts.method.clone())
        .uri(location)
        .body(body)
        .map_err(|e| malformed(&e))?;
    *request.headers_mut() = headers;
    Ok(request)
}

fn forget_connection(headers: &mut HeaderMap, upgrading: bool) {
    for name in OF_CONNECTION {
        if !(upgrading && [CONNECTION, UPGRADE].contains(name)) {
            headers.remove(name);
        }
    }
}

/// Redirections to places of the pod's server lead through the proxy again.
fn point_back(headers: &mut HeaderMap, address: SocketAddr, prefix: &str) {
    let Some(place) = headers.get(LOCATION).and_then(|v| v.to_str().ok()) else { return };
    let own = format!("http://{address}");
    let path = place.strip_prefix(&own).unwrap_or(place);
    if path.starts_with('/')
        && !path.starts_with("//")
        && let Ok(through) = HeaderValue::try_from(format!("{prefix}{path}"))
    {
        headers.insert(LOCATION, through);
    }
}

/// In Go's words, which users search for.
fn cause(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        std::io::ErrorKind::TimedOut => "connection timed out".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;
    use serde_json::json;

    #[test]
    fn names_ports_and_places() {
        for (text, wanted) in [
            ("web", Some(("web", ""))),
            ("web:http", Some(("web", "http"))),
            ("http:web:80", Some(("web", "80"))),
            ("http:web:", Some(("web", ""))),
            ("https:web:443", None),
            ("ftp:web:1", None),
            (":80", None),
            ("a:b:c:d", None),
        ] {
            let parsed = Wanted::parse(text).map(|w| (w.name, w.port));
            assert_eq!(parsed, wanted, "{text}");
        }
        let service = json!({"spec": {"ports": [{"name": "web", "port": 80}, {"port": 81}]}});
        for (port, wanted) in [("80", Ok("web")), ("81", Ok("")), ("web", Ok("web")), ("", Ok(""))]
        {
            let name = port_name(&service, &Wanted { name: "s", port }).map_err(|s| s.message);
            assert_eq!(name.as_deref(), wanted.as_deref().map_err(|e: &String| e), "{port}");
        }
        let refused = port_name(&service, &Wanted { name: "s", port: "9" }).expect_err("unknown");
        assert_eq!(refused.message, "no service port 9 found for service \"s\"");
        let endpoints = json!({"subsets": [
            {"addresses": [{"ip": "10.42.0.2"}], "ports": [{"name": "web", "port": 8080}]},
            {"notReadyAddresses": [{"ip": "10.42.0.3"}], "ports": [{"name": "web", "port": 8080}]},
            {"addresses": [{"ip": "10.42.0.4"}], "ports": [{"port": 81}]},
        ]});
        for (port, wanted) in [("web", "10.42.0.2:8080"), ("", "10.42.0.4:81"), ("none", "")] {
            let found: Vec<String> =
                addresses(&endpoints, port).iter().map(ToString::to_string).collect();
            assert_eq!(found.join(" "), wanted, "{port}");
        }
        for (ip, allowed) in
            [("10.42.0.2", true), ("127.0.0.1", false), ("169.254.169.254", false), ("::1", false)]
        {
            assert_eq!(may_be_proxied(ip.parse().expect("address")), allowed, "{ip}");
        }
    }

    #[test]
    fn redirections_lead_back() {
        let address = "10.42.0.2:80".parse().expect("address");
        for (place, wanted) in [
            ("/login?a=b", "/p/proxy/login?a=b"),
            ("http://10.42.0.2:80/x", "/p/proxy/x"),
            ("https://example.com/", "https://example.com/"),
            ("//example.com/", "//example.com/"),
            ("next", "next"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(LOCATION, HeaderValue::from_static(place));
            point_back(&mut headers, address, "/p/proxy");
            assert_eq!(headers[LOCATION], wanted);
        }
    }

    #[test]
    fn credentials_stay_here() {
        let (parts, ()) = Request::put("https://board:6443/p/proxy/x?y=z")
            .header("authorization", "Bearer secret")
            .header("connection", "close")
            .header("cookie", "a=b")
            .body(())
            .expect("request")
            .into_parts();
        let address = "10.42.0.2:80".parse().expect("address");
        let request =
            request(&parts, address, "/p/proxy", "/x?y=z", Body::default()).expect("request");
        let headers: Vec<String> = request
            .headers()
            .iter()
            .map(|(k, v)| format!("{k}: {}", v.to_str().expect("text")))
            .collect();
        assert_eq!(
            (request.method(), request.uri().to_string()),
            (&Method::PUT, "/x?y=z".to_owned())
        );
        for there in [
            "cookie: a=b",
            "host: 10.42.0.2:80",
            "x-forwarded-uri: /p/proxy/x",
            "x-forwarded-host: board:6443",
        ] {
            assert!(headers.iter().any(|h| h == there), "{there} in {headers:?}");
        }
        assert!(
            !headers.iter().any(|h| h.contains("secret") || h.contains("close")),
            "{headers:?}"
        );
    }
}
