//! Nobody grants what he does not hold, unless he may `escalate` roles or `bind` the role in question.

use super::GROUP;
use super::policy::not_found;
use super::rule::{Rule, missing, quoted, rules};
use crate::answer::Result;
use crate::authz::{Asked, Attributes};
use crate::{ApiServer, User, object};
use api::{Resource, Status};
use serde_json::{Value, json};

/// Refuses the write of a role or binding that gives more than the writer has. `old` is absent when creating.
pub(crate) async fn check(
    server: &ApiServer,
    user: &User,
    res: &'static Resource,
    old: Option<&Value>,
    new: &Value,
) -> Result<()> {
    if user.is_master() || old.is_some_and(|old| only_releases(old, new)) {
        return Ok(());
    }
    match res.plural {
        "roles" | "clusterroles" => check_role(server, user, res, old, new).await,
        _ => check_binding(server, user, res, new).await,
    }
}

/// Whether the user holds every right there is.
fn may_grant_all(held: &[Rule]) -> bool {
    let all = json!({"rules": [
        {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}, {"verbs": ["*"], "nonResourceURLs": ["*"]},
    ]});
    missing(held, &rules(&all)).is_some_and(|missing| missing.is_empty())
}

/// Whether the change only lets go of the object, as garbage collection does.
fn only_releases(old: &Value, new: &Value) -> bool {
    const RELEASED: &[&str] =
        &["finalizers", "ownerReferences", "managedFields", "resourceVersion"];
    let rest = |object: &Value| {
        let mut object = object.clone();
        for field in RELEASED {
            object::remove(&mut object, &["metadata", field]);
        }
        object
    };
    rest(old) == rest(new)
}

async fn check_role(
    server: &ApiServer,
    user: &User,
    res: &'static Resource,
    old: Option<&Value>,
    new: &Value,
) -> Result<()> {
    let (namespace, name) = (object::namespace(new), object::name(new));
    if may(server, user, "escalate", res.plural, namespace, name).await? {
        return Ok(());
    }
    let (held, unresolved) = server.policy.look(|policy| policy.rules_of(user, namespace)).await?;
    let aggregates = |role: &Value| role.get("aggregationRule").is_some_and(|rule| !rule.is_null());
    if (aggregates(new) || old.is_some_and(aggregates)) && !may_grant_all(&held) {
        let why = "must have cluster-admin privileges to use an aggregationRule";
        return Err(Status::forbidden(res, name, why));
    }
    confirm(user, res, name, &held, &unresolved, &rules(new))
}

async fn check_binding(
    server: &ApiServer,
    user: &User,
    res: &'static Resource,
    new: &Value,
) -> Result<()> {
    let (namespace, role) = (object::namespace(new), object::text(new, &["roleRef", "name"]));
    let cluster = object::text(new, &["roleRef", "kind"]) == "ClusterRole";
    let plural = if cluster { "clusterroles" } else { "roles" };
    if may(server, user, "bind", plural, namespace, role).await? {
        return Ok(());
    }
    let looked = server.policy.look(|policy| {
        let granted = policy.rules(cluster, namespace, role).map(<[Rule]>::to_vec);
        (policy.rules_of(user, namespace), granted)
    });
    let ((held, unresolved), granted) = looked.await?;
    let Some(granted) = granted else {
        let mut status = Status::not_found_in(GROUP, plural, role);
        status.message = not_found(cluster, role);
        return Err(status);
    };
    confirm(user, res, object::name(new), &held, &unresolved, &granted)
}

async fn may(
    server: &ApiServer,
    user: &User,
    verb: &str,
    plural: &str,
    namespace: &str,
    name: &str,
) -> Result<bool> {
    let asked = Attributes { verb, group: GROUP, plural, namespace, name, ..Attributes::default() };
    Ok(server.decide(user, &Asked::Resource(asked)).await?.allowed)
}

fn confirm(
    user: &User,
    res: &'static Resource,
    name: &str,
    held: &[Rule],
    unresolved: &[String],
    granted: &[Rule],
) -> Result<()> {
    let Some(missing) = missing(held, granted) else {
        let why = "the role has more rules than can be compared with those of its writer";
        return Err(Status::forbidden(res, name, why));
    };
    if missing.is_empty() {
        return Ok(());
    }
    let mut shown: Vec<String> = missing.iter().map(ToString::to_string).collect();
    shown.sort();
    let mut why = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        quoted(user.groups.iter().map(String::as_str)),
        shown.join("\n")
    );
    if !unresolved.is_empty() {
        why += &format!("; resolution errors: [{}]", unresolved.join(" "));
    }
    Err(Status::forbidden(res, name, &why))
}
