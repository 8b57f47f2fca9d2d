//! The roles and bindings that every cluster has. Each start adds what is missing and leaves alone what was added;
//! the annotation `autoupdate: "false"` keeps an object as it is.

use super::GROUP;
use super::rule::{Rule, Texts, missing, rules};
use crate::answer::Result;
use crate::object;
use crate::registry::{Change, create_object, modify};
use crate::{ApiServer, Error, User};
use api::{Resource, Status};
use serde_json::{Value, json};
use std::sync::Arc;

const TABLE: &str = include_str!("bootstrap.txt");
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const READ: &[&str] = &["get", "list", "watch"];
const CHANGE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];

/// Creates what is missing and completes what is there.
pub(crate) async fn reconcile(server: &Arc<ApiServer>) -> std::result::Result<(), Error> {
    let objects = parse(TABLE);
    // Together they wait for the disk once instead of once each.
    let all = objects.iter().map(|(plural, object)| ensure(server, plural, object));
    for (result, (_, object)) in futures_util::future::join_all(all).await.into_iter().zip(&objects)
    {
        result.map_err(|status| Error::Bootstrap {
            what: format!("role or binding {}", object::name(object)),
            status: status.to_string(),
        })?;
    }
    super::settle(server).await.map_err(|status| Error::Bootstrap {
        what: "aggregated roles".to_owned(),
        status: status.to_string(),
    })
}

/// The rules of one of these roles.
pub(crate) fn rules_of_role(name: &str) -> Vec<Rule> {
    let all = parse(TABLE);
    let role = all.iter().find(|(kind, role)| *kind == ROLES && object::name(role) == name);
    role.map(|(_, role)| rules(role)).unwrap_or_default()
}

const ROLES: &str = "clusterroles";
const BINDINGS: &str = "clusterrolebindings";

async fn ensure(server: &Arc<ApiServer>, plural: &str, object: &Value) -> Result<()> {
    let res = api::find(GROUP, "v1", plural).ok_or_else(Status::no_such_resource)?;
    let user = User::component("system:apiserver", &["system:masters"]);
    let name = object::name(object);
    let Some(entry) = server.find(res, "", name).await? else {
        return create_object(server, &user, res, object.clone(), false, &mut Vec::new())
            .await
            .map(|_| ());
    };
    if completed(&object::decode(&entry.value)?, object).is_none() {
        return Ok(());
    }
    if other_role(&object::decode(&entry.value)?, object) {
        return replace(server, &user, res, object).await;
    }
    let change =
        Change { server, user: &user, res, namespace: "", name, subresource: "", dry: false };
    modify(&change, |old| Ok(completed(old, object).unwrap_or_else(|| old.clone())))
        .await
        .map(|_| ())
}

/// A binding cannot change its role, so it is made again.
async fn replace(
    server: &Arc<ApiServer>,
    user: &User,
    res: &'static Resource,
    object: &Value,
) -> Result<()> {
    let key = res.key("", object::name(object));
    let deleted = server.config.store.delete(&key, store::Expect::Any).await;
    deleted.map_err(|e| crate::registry::store_error(&e))?;
    create_object(server, user, res, object.clone(), false, &mut Vec::new()).await.map(|_| ())
}

fn other_role(old: &Value, wanted: &Value) -> bool {
    old.get("roleRef") != wanted.get("roleRef")
}

/// The object with everything that is wanted of it; `None` if it has that already, or is to be left alone.
fn completed(old: &Value, wanted: &Value) -> Option<Value> {
    if object::text(old, &["metadata", "annotations", AUTO_UPDATE]) != "true" {
        return None;
    }
    let mut new = old.clone();
    for part in ["labels", "annotations"] {
        let pairs = object::at(wanted, &["metadata", part]).and_then(Value::as_object);
        for (key, value) in pairs.into_iter().flatten() {
            object::set(&mut new, &["metadata", part, key], value.clone());
        }
    }
    match wanted.get("roleRef") {
        Some(role) => {
            new["roleRef"] = role.clone();
            for subject in wanted["subjects"].as_array().into_iter().flatten() {
                add_absent(&mut new, "subjects", subject);
            }
        }
        None if wanted.get("aggregationRule").is_some() => {
            new["aggregationRule"] = wanted["aggregationRule"].clone();
        }
        None => {
            for rule in missing(&rules(old), &rules(wanted)).unwrap_or_default() {
                add_absent(&mut new, "rules", &rule.to_value());
            }
        }
    }
    (new != *old).then_some(new)
}

fn add_absent(object: &mut Value, list: &str, item: &Value) {
    if !object[list].is_array() {
        object[list] = json!([]);
    }
    if let Some(items) = object[list].as_array_mut().filter(|items| !items.contains(item)) {
        items.push(item.clone());
    }
}

/// The objects of the table with their plurals.
fn parse(table: &str) -> Vec<(&'static str, Value)> {
    let mut all: Vec<(&'static str, Value)> = Vec::new();
    for line in table.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["role", name, options @ ..] => all.push((ROLES, role(name, options))),
            ["binding", name, options @ ..] => all.push((BINDINGS, binding(name, options))),
            words => {
                if let Some((plural, owner)) = all.last_mut() {
                    match (*plural, words) {
                        (BINDINGS, [kind, name]) => {
                            add_absent(owner, "subjects", &subject(kind, name));
                        }
                        _ => add_absent(owner, "rules", &rule(words).to_value()),
                    }
                }
            }
        }
    }
    all
}

fn role(name: &str, options: &[&str]) -> Value {
    let mut role = head("ClusterRole", name);
    for option in options {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{value}");
        match key {
            "aggregate" => {
                let selector = json!({"matchLabels": {label: "true"}});
                role["aggregationRule"] = json!({"clusterRoleSelectors": [selector]});
            }
            _ => object::set(&mut role, &["metadata", "labels", &label], "true"),
        }
    }
    role
}

fn binding(name: &str, options: &[&str]) -> Value {
    let role = options.iter().find_map(|option| option.strip_prefix("of=")).unwrap_or(name);
    let mut binding = head("ClusterRoleBinding", name);
    binding["roleRef"] = json!({"apiGroup": GROUP, "kind": "ClusterRole", "name": role});
    binding
}

fn head(kind: &str, name: &str) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": kind,
        "metadata": {
            "name": name,
            "annotations": {AUTO_UPDATE: "true"},
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        },
    })
}

fn subject(kind: &str, name: &str) -> Value {
    match name.split_once('/') {
        Some((namespace, name)) => json!({"kind": kind, "namespace": namespace, "name": name}),
        None => json!({"apiGroup": GROUP, "kind": kind, "name": name}),
    }
}

fn rule(words: &[&str]) -> Rule {
    let texts = |at: usize| -> Texts {
        let list = words.get(at).copied().unwrap_or_default();
        let item = |item: &str| if item == "core" { "".into() } else { item.into() };
        list.split(',').filter(|item| !item.is_empty()).map(item).collect()
    };
    let mut verbs: Vec<Box<str>> = Vec::new();
    for verb in texts(0) {
        match &*verb {
            "R" => verbs.extend(READ.iter().map(|verb| Box::from(*verb))),
            "C" => verbs.extend(CHANGE.iter().map(|verb| Box::from(*verb))),
            _ => verbs.push(verb),
        }
    }
    verbs.sort();
    let verbs = verbs.into();
    match words.get(1) {
        Some(&"url") => Rule { verbs, urls: texts(2), ..Rule::default() },
        _ => Rule {
            verbs,
            groups: texts(1),
            resources: texts(2),
            names: texts(3),
            ..Rule::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_complete() {
        let all = parse(TABLE);
        assert!(all.len() > 40, "{}", all.len());
        for (plural, object) in &all {
            let res = api::find(GROUP, "v1", plural).expect("row");
            assert_eq!(schema::validate(res, object, None), [], "{}", object::name(object));
            if *plural == BINDINGS {
                let role = object::text(object, &["roleRef", "name"]);
                assert!(all.iter().any(|(p, o)| *p == ROLES && object::name(o) == role), "{role}");
            }
        }
        let node = rules_of_role("system:node");
        assert!(node.iter().any(|rule| rule.to_string()
            == r#"{APIGroups:[""], Resources:["serviceaccounts/token"], Verbs:["create"]}"#));
    }

    #[test]
    fn what_was_added_stays_and_what_is_missing_comes_back() {
        let all = parse(TABLE);
        let (_, wanted) =
            all.iter().find(|(_, o)| object::name(o) == "system:basic-user").expect("role");
        assert_eq!(completed(wanted, wanted), None);
        let mut old = wanted.clone();
        let added = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]});
        old["rules"][0] = added.clone();
        let new = completed(&old, wanted).expect("a change");
        assert!(new["rules"].as_array().expect("rules").contains(&added));
        assert_eq!(missing(&rules(&new), &rules(wanted)), Some(Vec::new()));
        object::set(&mut old, &["metadata", "annotations", AUTO_UPDATE], "false");
        assert_eq!(completed(&old, wanted), None);
    }
}
