//! What a cluster has before anyone asks, and gets back when it is deleted: the system namespaces and the Service
//! `kubernetes` with its endpoints.

use crate::registry::{Change, create_object, modify};
use crate::{ApiServer, Error, User};
use api::{Resource, Status};
use serde_json::{Value, json};
use std::sync::{Arc, Weak};
use std::time::Duration;
use store::{EventKind, Revision, Store};

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];
/// Pause before another attempt to bring something back.
const RETRY: Duration = Duration::from_secs(10);

/// An object that must exist.
struct Wanted {
    res: &'static Resource,
    object: Value,
    /// What is brought up to date if the object exists already.
    fields: &'static [&'static str],
}

/// Makes what is missing, and goes on to do so when something is deleted.
pub(crate) async fn run(server: &Arc<ApiServer>) -> Result<(), Error> {
    for wanted in all(server)? {
        let store = server.config.store.clone();
        let seen = store.revision();
        wanted.ensure(server).await?;
        server.spawn(keep(Arc::downgrade(server), store, wanted.key(), seen));
    }
    Ok(())
}

/// Makes what is missing, and brings up to date what depends on the server's address.
pub(crate) async fn ensure(server: &Arc<ApiServer>) -> Result<(), Error> {
    for wanted in all(server)? {
        wanted.ensure(server).await?;
    }
    Ok(())
}

fn all(server: &ApiServer) -> Result<Vec<Wanted>, Error> {
    let mut all = Vec::new();
    for name in NAMESPACES {
        all.push(Wanted::new("", "namespaces", json!({"metadata": {"name": name}}), &[])?);
    }
    let address = server.advertised();
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
    all.push(Wanted::new("", "services", service, &["spec"])?);
    let endpoint_port = json!({"name": "https", "port": address.port(), "protocol": "TCP"});
    let endpoints = json!({
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{"addresses": [{"ip": address.ip().to_string()}], "ports": [endpoint_port]}],
    });
    all.push(Wanted::new("", "endpoints", endpoints, &["subsets"])?);
    let slice = json!({
        "metadata": {
            "name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [address.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [endpoint_port],
    });
    let fields = &["endpoints", "ports"];
    all.push(Wanted::new("discovery.k8s.io", "endpointslices", slice, fields)?);
    Ok(all)
}

/// Brings an object back whenever it is deleted after the revision `seen`, for as long as the server lives.
async fn keep(server: Weak<ApiServer>, store: Store, key: String, mut seen: Revision) {
    loop {
        match deleted(&store, &key, seen).await {
            Ok(()) => {}
            Err(store::Error::Closed) => return,
            Err(error) => {
                // Whether it was deleted cannot be said, so it is looked for.
                tracing::debug!(%key, %error, "cannot watch what every cluster has");
                tokio::time::sleep(RETRY).await;
            }
        }
        seen = store.revision();
        loop {
            let Some(server) = server.upgrade() else { return };
            let Err(error) = ensure(&server).await else { break };
            drop(server);
            tracing::warn!(%key, %error, "cannot bring back what every cluster has");
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Waits until the key is deleted after the revision `after`.
async fn deleted(store: &Store, key: &str, after: Revision) -> Result<(), store::Error> {
    let mut changes = store.watch(key, after)?;
    loop {
        if changes.next().await?.iter().any(|event| event.kind == EventKind::Delete) {
            return Ok(());
        }
    }
}

impl Wanted {
    fn new(
        group: &str,
        plural: &str,
        mut object: Value,
        fields: &'static [&'static str],
    ) -> Result<Self, Error> {
        let res = api::find(group, "v1", plural).ok_or_else(|| Error::Bootstrap {
            what: plural.to_owned(),
            status: Status::no_such_resource().to_string(),
        })?;
        object["kind"] = res.kind.into();
        object["apiVersion"] = res.api_version().into();
        Ok(Self { res, object, fields })
    }

    fn key(&self) -> String {
        self.res.key(crate::object::namespace(&self.object), crate::object::name(&self.object))
    }

    /// Creates the object, or brings the named fields of an existing one up to date.
    async fn ensure(&self, server: &Arc<ApiServer>) -> Result<(), Error> {
        let Self { res, object, fields } = self;
        let failed = |status: Status| Error::Bootstrap {
            what: res.plural.to_owned(),
            status: status.to_string(),
        };
        let user = User::component("system:apiserver", &["system:masters"]);
        match create_object(server, &user, res, object.clone(), false, &mut Vec::new()).await {
            Ok(_) => Ok(()),
            Err(status) if status.is_reason("AlreadyExists") && fields.is_empty() => Ok(()),
            Err(status) if status.is_reason("AlreadyExists") => {
                let change = Change {
                    server,
                    user: &user,
                    res,
                    namespace: crate::object::namespace(object),
                    name: crate::object::name(object),
                    subresource: "",
                    dry: false,
                };
                let update = modify(&change, |old| {
                    let mut new = old.clone();
                    for field in *fields {
                        new[*field] = object[*field].clone();
                    }
                    Ok(new)
                });
                update.await.map(|_| ()).map_err(failed)
            }
            Err(status) => Err(failed(status)),
        }
    }
}
