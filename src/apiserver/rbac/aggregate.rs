//! Roles that are made of others: whenever a ClusterRole changes, those with an aggregationRule get the rules of all
//! that they select.

use super::{GROUP, RANGE};
use crate::answer::Result;
use crate::object;
use crate::registry::{Change, modify, store_error};
use crate::{ApiServer, User};
use api::{LabelSelector, Status};
use serde_json::{Value, json};
use std::sync::{Arc, Weak};
use std::time::Duration;
use store::{ListOptions, Store};

/// Pause before another attempt.
const RETRY: Duration = Duration::from_secs(10);

/// Roles made of roles made of roles: so often a start fills them in before it serves.
const ROUNDS_MAX: usize = 4;

/// Fills in aggregated roles before anybody asks.
pub(crate) async fn settle(server: &Arc<ApiServer>) -> Result<()> {
    for _ in 0..ROUNDS_MAX {
        if !fill(server, &range()).await? {
            break;
        }
    }
    Ok(())
}

fn range() -> String {
    format!("{RANGE}clusterroles/")
}

/// Keeps aggregated roles up to date for as long as the server lives.
pub(crate) async fn run(server: Weak<ApiServer>, store: Store) {
    let range = range();
    loop {
        let seen = store.revision();
        let result = match server.upgrade() {
            Some(server) => fill(&server, &range).await,
            None => return,
        };
        if let Err(error) = result {
            tracing::warn!(%error, "cannot fill in aggregated roles");
            tokio::time::sleep(RETRY).await;
            continue;
        }
        let changed = match store.watch(&range, seen) {
            Ok(mut changes) => changes.next().await.map(|_| ()),
            Err(error) => Err(error),
        };
        match changed {
            Ok(()) => {}
            Err(store::Error::Closed) => return,
            Err(error) => {
                tracing::debug!(%error, "cannot watch roles");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Whether something had to be filled in.
async fn fill(server: &Arc<ApiServer>, range: &str) -> Result<bool> {
    let page = server.config.store.list(range, ListOptions::default()).await;
    let page = page.map_err(|e| store_error(&e))?;
    let roles: Vec<Value> =
        page.entries.iter().map(|entry| object::decode(&entry.value)).collect::<Result<_>>()?;
    let res = api::find(GROUP, "v1", "clusterroles").ok_or_else(Status::no_such_resource)?;
    let user = User::component("system:apiserver", &["system:masters"]);
    let mut any = false;
    // Of roles made of aggregated roles the inner one is changed first; that change brings the task back here.
    for (role, rules) in roles.iter().filter_map(|role| Some((role, gathered(role, &roles)?))) {
        if role["rules"] == rules || (role["rules"].is_null() && rules == json!([])) {
            continue;
        }
        let name = object::name(role);
        let change =
            Change { server, user: &user, res, namespace: "", name, subresource: "", dry: false };
        let changed = modify(&change, |old| {
            let mut new = old.clone();
            new["rules"] = rules.clone();
            Ok(new)
        });
        match changed.await {
            Err(status) if !status.is_reason("NotFound") => return Err(status),
            _ => any = true,
        }
    }
    Ok(any)
}

/// The rules of all roles that an aggregated role selects, in the order of their names; `None` for other roles.
fn gathered(role: &Value, roles: &[Value]) -> Option<Value> {
    let selectors = role.get("aggregationRule")?["clusterRoleSelectors"].as_array()?;
    let selectors: Vec<LabelSelector> =
        selectors.iter().filter_map(|s| LabelSelector::from_value(s).ok()).collect();
    let mut rules: Vec<Value> = Vec::new();
    for selector in &selectors {
        let selected = roles.iter().filter(|other| {
            object::name(other) != object::name(role)
                && selector.matches_value(&other["metadata"]["labels"])
        });
        for rule in selected.flat_map(|other| other["rules"].as_array().into_iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    Some(rules.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_come_from_selected_roles_once() {
        let rule = |verb: &str| json!({"verbs": [verb], "apiGroups": [""], "resources": ["pods"]});
        let role = |name: &str, label: &str, rules: &[Value]| json!({"metadata": {"name": name, "labels": {label: "true"}}, "rules": rules});
        let mut all = vec![
            role("a", "x", &[rule("get"), rule("list")]),
            role("b", "x", &[rule("get")]),
            role("c", "y", &[rule("delete")]),
            role("sum", "x", &[rule("create")]),
        ];
        all[3]["aggregationRule"] =
            json!({"clusterRoleSelectors": [{"matchLabels": {"x": "true"}}]});
        assert_eq!(gathered(&all[3], &all), Some(json!([rule("get"), rule("list")])));
        assert_eq!(gathered(&all[0], &all), None);
    }
}
