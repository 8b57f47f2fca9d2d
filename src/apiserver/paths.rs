//! Paths that name no resource: version, health, discovery, OpenAPI, keys of the token issuer.

use crate::answer::{json_response, status_response, text_response};
use crate::request::Query;
use crate::{ApiServer, Body, discovery};
use api::Status;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

const JWKS: HeaderValue = HeaderValue::from_static("application/jwk-set+json");
pub(crate) const GIT_VERSION: &str = concat!("v1.36.0+copepod", env!("CARGO_PKG_VERSION"));

pub(crate) async fn answer(
    server: &Arc<ApiServer>,
    path: &str,
    query: &Query,
    headers: &HeaderMap,
) -> Response<Body> {
    let aggregated = discovery::wants_aggregated(headers.get(ACCEPT));
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    let found = match segments.as_slice() {
        [] => Some(json!({"paths": discovery::root_paths()})),
        ["version"] => Some(version()),
        ["healthz" | "livez" | "readyz", rest @ ..] => {
            return health(server, segments[0], rest, query).await;
        }
        ["api" | "apis"] if aggregated => return aggregated_response(segments[0] == "api"),
        ["api"] => Some(discovery::core_versions(&server.advertised().to_string())),
        ["apis"] => Some(discovery::groups()),
        ["apis", group] => discovery::group(group),
        ["api", version] => discovery::resources("", version),
        ["apis", group, version] => discovery::resources(group, version),
        ["openapi", "v2"] => return server.openapi.v2(headers),
        ["openapi", "v3"] => return server.openapi.v3_index(headers),
        ["openapi", "v3", "api", version] => return server.openapi.v3("", version, headers),
        ["openapi", "v3", "apis", group, version] => {
            return server.openapi.v3(group, version, headers);
        }
        [".well-known", "openid-configuration"] => Some(issuer(server)),
        ["openid", "v1", "jwks"] => {
            let keys = server.config.service_account_keys.jwks().to_string();
            let mut response = json_response(StatusCode::OK, keys);
            response.headers_mut().insert(CONTENT_TYPE, JWKS);
            return response;
        }
        _ => None,
    };
    match found {
        Some(value) => json_response(StatusCode::OK, value.to_string()),
        None => status_response(&Status::no_such_resource()),
    }
}

/// How others check service-account tokens.
fn issuer(server: &ApiServer) -> Value {
    json!({
        "issuer": server.config.service_account_keys.issuer(),
        "jwks_uri": format!("https://{}/openid/v1/jwks", server.advertised()),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

fn version() -> Value {
    let platform = match std::env::consts::ARCH {
        "x86_64" => "linux/amd64",
        "aarch64" => "linux/arm64",
        other => {
            return json!({"major": "1", "minor": "36", "gitVersion": GIT_VERSION, "platform": format!("linux/{other}")});
        }
    };
    json!({
        "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean", "buildDate": "",
        "goVersion": "", "compiler": "rustc", "platform": platform,
    })
}

/// `/readyz`, `/readyz?verbose`, and single checks like `/readyz/store`.
async fn health(server: &ApiServer, name: &str, rest: &[&str], query: &Query) -> Response<Body> {
    let store = server.config.store.get("/registry/health").await;
    let closing = *server.closing().borrow();
    let mut checks = vec![("ping", true), ("store", store.is_ok())];
    if name == "readyz" {
        checks.push(("shutdown", !closing));
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    checks.retain(|(check, _)| !excluded.contains(check));
    if let [wanted] = rest {
        checks.retain(|(check, _)| check == wanted);
    }
    if rest.len() > 1 || (rest.len() == 1 && checks.is_empty()) {
        return status_response(&Status::no_such_resource());
    }
    let healthy = checks.iter().all(|(_, ok)| *ok);
    let code = if healthy { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    if healthy && !query.flag("verbose") {
        return text_response(code, "ok");
    }
    let mut text: String = checks
        .iter()
        .map(|(check, ok)| {
            if *ok {
                format!("[+]{check} ok\n")
            } else {
                format!("[-]{check} failed: reason withheld\n")
            }
        })
        .collect();
    text += &format!("{name} check {}\n", if healthy { "passed" } else { "failed" });
    text_response(code, text)
}

fn aggregated_response(core: bool) -> Response<Body> {
    let mut response = json_response(StatusCode::OK, discovery::aggregated(core).to_string());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(discovery::AGGREGATED));
    response
}
