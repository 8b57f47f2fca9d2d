//! What a request asks for: the resource, name and verb in its path, and its query parameters. Pure text work.

use api::{RESOURCES, Resource};
use http::Method;

/// Path segments beyond this are no API path.
const SEGMENTS_MAX: usize = 16;
/// Query parameters beyond this are refused.
const PARAMETERS_MAX: usize = 256;

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Resource(Target),
    /// A path that names no resource, such as `/version`.
    Path(String),
}

/// A resource request taken apart as upstream's RequestInfo does. The texts are kept also for resources that are not
/// served, because authorization comes before "not found".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub verb: &'static str,
    pub group: String,
    pub version: String,
    pub plural: String,
    pub namespace: String,
    pub name: String,
    pub subresource: String,
    /// What follows the subresource (only proxies use it).
    pub rest: String,
    pub resource: Option<&'static Resource>,
}

/// Takes a path apart; `None` if it is not valid text.
pub(crate) fn route(method: &Method, path: &str, query: &Query) -> Option<Route> {
    let segments: Vec<String> = path
        .split('/')
        .filter(|s| !s.is_empty())
        .take(SEGMENTS_MAX)
        .map(|s| decode(s, false))
        .collect::<Option<_>>()?;
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    let target = match parts.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => target(method, "", version, rest, query),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => {
            target(method, group, version, rest, query)
        }
        _ => return Some(Route::Path(format!("/{}", parts.join("/")))),
    };
    Some(Route::Resource(target))
}

fn target(method: &Method, group: &str, version: &str, rest: &[&str], query: &Query) -> Target {
    let (watch_path, rest) = match rest {
        ["watch", more @ ..] if !more.is_empty() => (true, more),
        _ => (false, rest),
    };
    let (namespace, rest) = match rest {
        // A namespace itself, or one of its subresources.
        ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => ("", rest),
        ["namespaces", namespace, more @ ..] if !more.is_empty() => (*namespace, more),
        _ => ("", rest),
    };
    let at = |index: usize| rest.get(index).map(|s| (*s).to_owned()).unwrap_or_default();
    let (plural, name, subresource) = (at(0), at(1), at(2));
    let resource =
        RESOURCES.iter().find(|r| r.group == group && r.version == version && r.plural == plural);
    // On the path of one object the parameter means nothing, as upstream.
    let watch = watch_path || (name.is_empty() && query.flag("watch"));
    Target {
        verb: verb(method, !name.is_empty(), watch && subresource.is_empty()),
        group: group.to_owned(),
        version: version.to_owned(),
        plural,
        namespace: namespace.to_owned(),
        name,
        subresource,
        rest: rest.get(3..).unwrap_or_default().join("/"),
        resource,
    }
}

fn verb(method: &Method, named: bool, watch: bool) -> &'static str {
    match *method {
        Method::GET | Method::HEAD if watch => "watch",
        Method::GET | Method::HEAD if named => "get",
        Method::GET | Method::HEAD => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if named => "delete",
        Method::DELETE => "deletecollection",
        _ => "",
    }
}

/// Query parameters in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// `None` if the text is not valid.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut pairs = Vec::new();
        for pair in text.split('&').filter(|p| !p.is_empty()) {
            if pairs.len() == PARAMETERS_MAX {
                return None;
            }
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.push((decode(key, true)?, decode(value, true)?));
        }
        Some(Self(pairs))
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }

    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    pub(crate) fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|v| matches!(v, "1" | "t" | "T" | "true" | "TRUE" | "True"))
            || self.0.iter().any(|(k, v)| k == key && v.is_empty())
    }
}

/// Percent-decoding; `plus` also turns `+` into a space, as in queries. `None` if the result is not UTF-8.
pub(crate) fn decode(text: &str, plus: bool) -> Option<String> {
    if !text.contains(['%', '+']) {
        return Some(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            b'+' if plus => b' ',
            byte => byte,
        });
    }
    String::from_utf8(out).ok()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

/// Encodes what may not stand in a query value or path segment.
pub(crate) fn encode(text: &str, out: &mut String) {
    use std::fmt::Write;
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte))
            }
            byte => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}
