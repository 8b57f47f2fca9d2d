//! Who may do what. Administrators may everything; a node what the node authorizer lets it; then the roles decide.

use crate::answer::Result;
use crate::nodes;
use crate::rbac::Found;
use crate::request::{Query, Target};
use crate::{ApiServer, User};
use api::{FieldSelector, Status};
use serde_json::{Value, json};

const MASTERS: &str = "system:masters";

/// What even a client without credentials may ask; what it is told is up to the roles.
pub(crate) const PUBLIC: &[&str] =
    &["/healthz", "/healthz/*", "/livez", "/livez/*", "/readyz", "/readyz/*", "/version"];

/// What a decision is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked<'a> {
    Resource(Attributes<'a>),
    /// A path that names no resource; the verb is the method in lower case.
    Path {
        verb: &'a str,
        path: &'a str,
    },
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attributes<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    pub plural: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    /// The node that the field selector of a list or watch of pods demands.
    pub of_node: &'a str,
}

pub(crate) struct Decision {
    pub allowed: bool,
    /// Why, or why not; may be empty.
    pub reason: String,
}

impl User {
    pub(crate) fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }
}

/// The field selector of requests on many objects.
pub(crate) fn fields(target: &Target, query: &Query) -> FieldSelector {
    let many = matches!(target.verb, "list" | "watch" | "deletecollection");
    let text = query.get("fieldSelector").filter(|_| many);
    text.and_then(|text| FieldSelector::parse(text).ok()).unwrap_or_default()
}

impl<'a> Attributes<'a> {
    /// As upstream takes a request apart: a selector for one name names the object, and a namespace is in itself.
    pub(crate) fn of(target: &'a Target, fields: &'a FieldSelector) -> Self {
        let name = match target.name.as_str() {
            "" => fields.required("metadata.name").unwrap_or_default(),
            name => name,
        };
        let itself = target.group.is_empty() && target.plural == "namespaces";
        Self {
            verb: target.verb,
            group: &target.group,
            plural: &target.plural,
            subresource: &target.subresource,
            namespace: if itself { &target.name } else { &target.namespace },
            name,
            of_node: fields.required("spec.nodeName").unwrap_or_default(),
        }
    }
}

impl ApiServer {
    pub(crate) async fn decide(&self, user: &User, asked: &Asked<'_>) -> Result<Decision> {
        if user.is_master() {
            return Ok(Decision { allowed: true, reason: String::new() });
        }
        let mut reasons = Vec::new();
        if let Some(node) = nodes::node_of(user) {
            match nodes::authorize(self, node, asked).await? {
                nodes::Opinion::Allowed => {
                    return Ok(Decision { allowed: true, reason: String::new() });
                }
                nodes::Opinion::None(reason) if reason.is_empty() => {}
                nodes::Opinion::None(reason) => reasons.push(reason),
            }
        }
        let namespace = match asked {
            Asked::Resource(asked) => asked.namespace,
            Asked::Path { .. } => "",
        };
        let mut allowed = None;
        let mut missing = Vec::new();
        let walk = |policy: &crate::rbac::Policy| {
            policy.visit(user, namespace, |found| match found {
                Found::Rule(source, rule) if rule.allows(asked) => {
                    allowed = Some(format!("RBAC: allowed by {source}"));
                    false
                }
                Found::Rule(..) => true,
                Found::Missing(role) => {
                    missing.push(role);
                    true
                }
            });
        };
        self.policy.look(walk).await?;
        if let Some(reason) = allowed {
            return Ok(Decision { allowed: true, reason });
        }
        match missing.as_slice() {
            [] => {}
            [role] => reasons.push(format!("RBAC: {role}")),
            roles => reasons.push(format!("RBAC: [{}]", roles.join(", "))),
        }
        Ok(Decision { allowed: false, reason: reasons.join("\n") })
    }

    /// Refuses what the user may not do.
    pub(crate) async fn require(&self, user: &User, asked: &Asked<'_>) -> Result<()> {
        let decision = self.decide(user, asked).await?;
        match (decision.allowed, asked) {
            (true, _) => Ok(()),
            (false, Asked::Resource(asked)) => Err(forbidden(user, *asked, &decision.reason)),
            (false, Asked::Path { verb, path }) => {
                let why = format!("User {:?} cannot {verb} path {path:?}", user.name);
                Err(Status::forbidden_path(&with_reason(why, &decision.reason)))
            }
        }
    }

    /// The rules for a user in a namespace, as a rules review tells them.
    pub(crate) async fn rules_review(&self, user: &User, namespace: &str) -> Result<Value> {
        let (rules, missing) = self.policy.look(|policy| policy.rules_of(user, namespace)).await?;
        let shown = |paths: bool| -> Vec<Value> {
            let of =
                rules.iter().filter(|r| !if paths { &r.urls } else { &r.resources }.is_empty());
            of.map(|rule| rule.to_value()).collect()
        };
        let mut errors = missing;
        let node = nodes::node_of(user).is_some();
        if node {
            errors.push("node authorizer does not support user rule resolution".to_owned());
        }
        let mut status = json!({
            "resourceRules": shown(false), "nonResourceRules": shown(true), "incomplete": !errors.is_empty(),
        });
        match errors.as_slice() {
            [] => {}
            [error] => status["evaluationError"] = error.as_str().into(),
            errors => status["evaluationError"] = format!("[{}]", errors.join(", ")).into(),
        }
        Ok(status)
    }
}

/// Whether `path` is what `pattern` says, or below it if it ends with `*`.
pub(crate) fn matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

fn with_reason(text: String, reason: &str) -> String {
    if reason.is_empty() { text } else { format!("{text}: {reason}") }
}

/// The refusal, worded as upstream does.
pub(crate) fn forbidden(user: &User, asked: Attributes<'_>, reason: &str) -> Status {
    let resource = match asked.subresource {
        "" => asked.plural.to_owned(),
        sub => format!("{}/{sub}", asked.plural),
    };
    let scope = match asked.namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let Attributes { verb, group, name, .. } = asked;
    let qualified = api::status::qualified(group, asked.plural);
    let object = if name.is_empty() { String::new() } else { format!(" {name:?}") };
    let message = format!(
        "{qualified}{object} is forbidden: User {:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}",
        user.name
    );
    let mut status = Status::failure(403, "Forbidden", with_reason(message, reason));
    status.details = Some(api::StatusDetails {
        name: name.to_owned(),
        group: group.to_owned(),
        kind: asked.plural.to_owned(),
        ..Default::default()
    });
    status
}
