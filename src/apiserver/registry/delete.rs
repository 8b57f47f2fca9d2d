//! Delete: at once, or by marking where grace or finalizers ask for it; one object or a selection of them.

use super::{Context, metadata, store_error};
use crate::answer::{Answer, List, Result};
use crate::request::Query;
use crate::select::Selection;
use crate::{ApiServer, User, body, nodes, object, strategies};
use api::{FieldError, Resource, Status, Strategy};
use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;
use std::sync::Arc;
use store::{Expect, ListOptions};

const ATTEMPTS_MAX: usize = 20;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub grace: Option<i64>,
    pub uid: Option<String>,
    pub revision: Option<String>,
    /// `Orphan`, `Foreground` or `Background`.
    pub propagation: Option<String>,
    pub dry: bool,
}

/// What became of an object.
pub(crate) enum Deleted {
    /// Gone; the text of its last state.
    Gone(Bytes),
    /// Marked, or marked before.
    Marked(Bytes),
}

enum Plan {
    Remove,
    Mark(Value),
    Nothing,
}

pub(super) async fn delete(cx: &mut Context<'_>, bytes: &[u8]) -> Result<Answer> {
    let options = DeleteOptions::read(cx.query, cx.headers, bytes)?;
    let Context { server, user, res, target, .. } = cx;
    match delete_object(server, user, res, &target.namespace, &target.name, &options).await? {
        Deleted::Marked(bytes) => Ok(Answer::Object { code: StatusCode::OK, bytes }),
        Deleted::Gone(bytes) if matches!(res.kind, "Pod" | "Service" | "ServiceAccount") => {
            Ok(Answer::Object { code: StatusCode::OK, bytes })
        }
        Deleted::Gone(bytes) => {
            let uid = object::uid(&object::decode(&bytes)?).to_owned();
            Ok(Answer::Status(Box::new(Status::success(res, &target.name, &uid))))
        }
    }
}

pub(super) async fn delete_collection(cx: &mut Context<'_>, bytes: &[u8]) -> Result<Answer> {
    let options = DeleteOptions::read(cx.query, cx.headers, bytes)?;
    let selection = Selection::from_query(cx.res, cx.query)?;
    let range = super::list::range(cx.res, &cx.target.namespace, &selection);
    let page = cx
        .server
        .config
        .store
        .list(&range, ListOptions::default())
        .await
        .map_err(|e| store_error(&e))?;
    let mut list = List { revision: page.revision, ..List::default() };
    for entry in page.entries.into_iter().filter(|e| selection.matches(cx.res, &e.value)) {
        let found = object::decode(&entry.value)?;
        let (namespace, name) = (object::namespace(&found), object::name(&found));
        match delete_object(cx.server, cx.user, cx.res, namespace, name, &options).await {
            Ok(Deleted::Gone(bytes) | Deleted::Marked(bytes)) => list.items.push(bytes),
            Err(status) if status.is_reason("NotFound") => {}
            Err(status) => return Err(status),
        }
    }
    Ok(Answer::List(list))
}

/// Deletes one object, or begins to.
pub(crate) async fn delete_object(
    server: &Arc<ApiServer>,
    user: &User,
    res: &'static Resource,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> Result<Deleted> {
    strategies::admit_delete(res, name)?;
    let form = object::storage_form(res);
    for _ in 0..ATTEMPTS_MAX {
        let entry = server.load(res, namespace, name).await?;
        let old = object::decode(&entry.value)?;
        nodes::check_delete(user, form, &old, "delete")?;
        options.check(res, &old, name)?;
        let expect = Expect::Modified(entry.modified);
        match plan(form, &old, options, jiff::Timestamp::now()) {
            Plan::Nothing => return Ok(Deleted::Marked(entry.value)),
            Plan::Remove if options.dry => return Ok(Deleted::Gone(entry.value)),
            Plan::Mark(new) if options.dry => return Ok(Deleted::Marked(new.to_string().into())),
            Plan::Remove => match server.config.store.delete(&entry.key, expect).await {
                Ok((last, revision)) => {
                    return Ok(Deleted::Gone(object::restamp(form, &last.value, revision)));
                }
                Err(store::Error::Conflict { .. }) => {}
                Err(other) => return Err(store_error(&other)),
            },
            Plan::Mark(new) => {
                match server.config.store.put(&entry.key, expect, object::encode(form, &new)?).await
                {
                    Ok(entry) => return Ok(Deleted::Marked(entry.value)),
                    Err(store::Error::Conflict { .. }) => {}
                    Err(other) => return Err(store_error(&other)),
                }
            }
        }
    }
    Err(Status::conflict(res, name))
}

/// Decides what a deletion does to an object in this state.
fn plan(
    res: &'static Resource,
    old: &Value,
    options: &DeleteOptions,
    now: jiff::Timestamp,
) -> Plan {
    let grace = strategies::grace_period(res, old, options.grace);
    let finalizers = finalizers_after(old, options.propagation.as_deref());
    let held = !finalizers.is_empty() || strategies::holds(res, old);
    let running =
        object::at(old, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64);
    if !held && grace == 0 {
        return Plan::Remove;
    }
    let mut new = old.clone();
    if finalizers.is_empty() {
        object::remove(&mut new, &["metadata", "finalizers"]);
    } else {
        object::set(&mut new, &["metadata", "finalizers"], finalizers);
    }
    if !object::is_deleting(old) {
        metadata::mark_deleted(&mut new, now, grace);
        if metadata::has_generation(res) {
            let generation =
                object::at(old, &["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0);
            object::set(&mut new, &["metadata", "generation"], generation + 1);
        }
    } else if let Some(running) = running.filter(|running| grace < *running) {
        // The end moves forward by what the new period is shorter.
        let end =
            api::time::parse(object::text(old, &["metadata", "deletionTimestamp"])).unwrap_or(now);
        let begun = end.checked_sub(jiff::SignedDuration::from_secs(running)).unwrap_or(now);
        metadata::mark_deleted(&mut new, begun, grace);
    }
    if res.strategy == Strategy::Namespace {
        object::set(&mut new, &["status", "phase"], "Terminating");
    }
    if new == *old { Plan::Nothing } else { Plan::Mark(new) }
}

fn finalizers_after(old: &Value, propagation: Option<&str>) -> Vec<String> {
    let mut finalizers = object::finalizers(old);
    let wanted = match propagation {
        Some("Orphan") => Some(ORPHAN),
        Some("Foreground") => Some(FOREGROUND),
        Some(_) => None,
        None => return finalizers,
    };
    finalizers.retain(|f| (f != ORPHAN && f != FOREGROUND) || Some(f.as_str()) == wanted);
    if let Some(wanted) = wanted.filter(|w| !finalizers.iter().any(|f| f == w)) {
        finalizers.push(wanted.to_owned());
    }
    finalizers
}

impl DeleteOptions {
    /// From the body if there is one, else from the query.
    fn read(query: &Query, headers: &http::HeaderMap, bytes: &[u8]) -> Result<Self> {
        let mut options = Self { dry: body::dry_run(query)?, ..Self::default() };
        if bytes.is_empty() {
            options.grace = query
                .get("gracePeriodSeconds")
                .map(|t| {
                    t.parse().map_err(|_| {
                        Status::bad_request(format!("invalid gracePeriodSeconds {t:?}"))
                    })
                })
                .transpose()?;
            options.propagation = query.get("propagationPolicy").map(str::to_owned);
        } else {
            body::require_json(headers)?;
            let (value, _) = schema::decode(bytes)
                .map_err(|e| Status::bad_request(format!("error decoding delete options: {e}")))?;
            options.merge(&value)?;
        }
        options.check_propagation()?;
        Ok(options)
    }

    /// Takes over a DeleteOptions object.
    pub(crate) fn merge(&mut self, value: &Value) -> Result<()> {
        let kind = object::text(value, &["kind"]);
        if !matches!(kind, "" | "DeleteOptions") || !value.is_object() {
            return Err(Status::bad_request(format!(
                "decoded object cannot be converted to DeleteOptions: {kind:?}"
            )));
        }
        match value.get("gracePeriodSeconds") {
            None | Some(Value::Null) => {}
            Some(grace) => {
                let wrong = || {
                    Status::bad_request("gracePeriodSeconds of DeleteOptions must be an integer")
                };
                self.grace = Some(grace.as_i64().ok_or_else(wrong)?);
            }
        }
        let given =
            |path: &[&str]| Some(object::text(value, path).to_owned()).filter(|s| !s.is_empty());
        self.uid = given(&["preconditions", "uid"]).or(self.uid.take());
        self.revision = given(&["preconditions", "resourceVersion"]).or(self.revision.take());
        self.propagation = given(&["propagationPolicy"])
            .or_else(|| match value.get("orphanDependents").and_then(Value::as_bool) {
                Some(true) => Some("Orphan".to_owned()),
                Some(false) => Some("Background".to_owned()),
                None => None,
            })
            .or(self.propagation.take());
        self.dry |= object::strings(value.get("dryRun")).iter().any(|v| v == "All");
        Ok(())
    }

    fn check_propagation(&self) -> Result<()> {
        match self.propagation.as_deref() {
            None | Some("Orphan" | "Foreground" | "Background") => Ok(()),
            Some(other) => {
                let supported = ["Foreground", "Background", "Orphan", "nil"];
                let error = FieldError::not_supported("propagationPolicy", other, &supported);
                Err(Status::invalid_in("meta.k8s.io", "DeleteOptions", "", &[error]))
            }
        }
    }

    fn check(&self, res: &Resource, old: &Value, name: &str) -> Result<()> {
        let differs = |what: &str, wanted: &Option<String>, found: &str| match wanted {
            Some(wanted) if wanted != found => Err(Status::conflict_because(
                res,
                name,
                &format!(
                    "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"
                ),
            )),
            _ => Ok(()),
        };
        differs("UID", &self.uid, object::uid(old))?;
        differs(
            "ResourceVersion",
            &self.revision,
            object::text(old, &["metadata", "resourceVersion"]),
        )
    }
}
