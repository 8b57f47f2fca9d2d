//! What a cluster has before anyone asks: the system namespaces and the Service `kubernetes` with its endpoints.

use crate::registry::{Change, create_object, modify};
use crate::{ApiServer, Error, User};
use api::{Resource, Status};
use serde_json::{Value, json};
use std::sync::Arc;

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

pub(crate) async fn run(server: &Arc<ApiServer>) -> Result<(), Error> {
    for name in NAMESPACES {
        ensure(server, "", "namespaces", json!({"metadata": {"name": name}}), &[]).await?;
    }
    let address = server.config.advertise;
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let ports =
        json!([{"name": "https", "protocol": "TCP", "port": 443, "targetPort": address.port()}]);
    let service = json!({
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {
            "type": "ClusterIP", "clusterIP": server.network.first().to_string(), "ports": ports,
            "sessionAffinity": "None",
        },
    });
    ensure(server, "", "services", service, &["spec"]).await?;
    let endpoint_port = json!({"name": "https", "port": address.port(), "protocol": "TCP"});
    let endpoints = json!({
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{"addresses": [{"ip": address.ip().to_string()}], "ports": [endpoint_port]}],
    });
    ensure(server, "", "endpoints", endpoints, &["subsets"]).await?;
    let slice = json!({
        "metadata": {
            "name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [address.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [endpoint_port],
    });
    ensure(server, "discovery.k8s.io", "endpointslices", slice, &["endpoints", "ports"]).await
}

/// Creates an object, or brings the named fields of an existing one up to date.
async fn ensure(
    server: &Arc<ApiServer>,
    group: &str,
    plural: &str,
    mut object: Value,
    fields: &[&str],
) -> Result<(), Error> {
    let failed =
        |status: Status| Error::Bootstrap { what: plural.to_owned(), status: status.to_string() };
    let res: &'static Resource =
        api::find(group, "v1", plural).ok_or_else(|| failed(Status::no_such_resource()))?;
    object["kind"] = res.kind.into();
    object["apiVersion"] = res.api_version().into();
    let user = User::component("system:apiserver", &["system:masters"]);
    let name = crate::object::name(&object).to_owned();
    let namespace = crate::object::namespace(&object).to_owned();
    match create_object(server, &user, res, object.clone(), false, &mut Vec::new()).await {
        Ok(_) => Ok(()),
        Err(status) if status.is_reason("AlreadyExists") && fields.is_empty() => Ok(()),
        Err(status) if status.is_reason("AlreadyExists") => {
            let change = Change {
                server,
                user: &user,
                res,
                namespace: &namespace,
                name: &name,
                subresource: "",
                dry: false,
            };
            let update = modify(&change, |old| {
                let mut new = old.clone();
                for field in fields {
                    new[*field] = object[*field].clone();
                }
                Ok(new)
            });
            update.await.map(|_| ()).map_err(failed)
        }
        Err(status) => Err(failed(status)),
    }
}
