//! All roles and bindings in memory, and the walk over the rules that a user has somewhere.

use super::rule::{Rule, rules};
use super::{GROUP, RANGE};
use crate::follow::View;
use crate::{User, object};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use store::Entry;

/// Roles and bindings that are looked at; more are not, so that they allow nothing.
const OBJECTS_MAX: usize = 20_000;

/// The view of [`super::RANGE`].
#[derive(Default)]
pub(crate) struct Policy {
    /// By namespace ("" for ClusterRoles) and name.
    roles: HashMap<Box<str>, Roles>,
    /// By namespace ("" for ClusterRoleBindings) and name.
    bindings: HashMap<Box<str>, BTreeMap<Box<str>, Binding>>,
    count: usize,
}

type Roles = HashMap<Box<str>, Arc<[Rule]>>;

struct Binding {
    /// Whether the role is a ClusterRole.
    cluster: bool,
    role: Box<str>,
    subjects: Box<[Subject]>,
}

#[derive(Debug, PartialEq, Eq)]
enum Subject {
    User(Box<str>),
    Group(Box<str>),
    Account { namespace: Box<str>, name: Box<str> },
}

/// Where a rule comes from: `ClusterRoleBinding "a" of ClusterRole "b" to Group "c"`.
pub(crate) struct Source<'a> {
    name: &'a str,
    namespace: &'a str,
    binding: &'a Binding,
    subject: &'a Subject,
}

/// What a walk finds.
pub(crate) enum Found<'a> {
    Rule(Source<'a>, &'a Rule),
    /// A binding names a role that does not exist.
    Missing(String),
}

impl Policy {
    /// Shows the rules of a user in a namespace ("": in the whole cluster only) until `visit` says false.
    pub(crate) fn visit(
        &self,
        user: &User,
        namespace: &str,
        mut visit: impl FnMut(Found<'_>) -> bool,
    ) {
        let scopes: &[&str] = if namespace.is_empty() { &[""] } else { &["", namespace] };
        for scope in scopes {
            for (name, binding) in self.bindings.get(*scope).into_iter().flatten() {
                let Some(subject) = binding.subjects.iter().find(|s| s.is(user, scope)) else {
                    continue;
                };
                match self.rules(binding.cluster, scope, &binding.role) {
                    Some(rules) => {
                        for rule in rules {
                            let source = Source { name, namespace: scope, binding, subject };
                            if !visit(Found::Rule(source, rule)) {
                                return;
                            }
                        }
                    }
                    None if !visit(Found::Missing(not_found(binding.cluster, &binding.role))) => {
                        return;
                    }
                    None => {}
                }
            }
        }
    }

    /// All rules of a user in a namespace, and the roles that are missing.
    pub(crate) fn rules_of(&self, user: &User, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let (mut rules, mut missing) = (Vec::new(), Vec::new());
        self.visit(user, namespace, |found| {
            match found {
                Found::Rule(_, rule) => rules.push(rule.clone()),
                Found::Missing(role) => missing.push(role),
            }
            true
        });
        (rules, missing)
    }

    /// The rules of a role that a binding in the namespace names.
    pub(crate) fn rules(&self, cluster: bool, namespace: &str, role: &str) -> Option<&[Rule]> {
        let namespace = if cluster { "" } else { namespace };
        self.roles.get(namespace)?.get(role).map(|rules| &**rules)
    }

    fn has_room(&mut self, key: &str) -> bool {
        if self.count == OBJECTS_MAX {
            tracing::warn!(
                key,
                limit = OBJECTS_MAX,
                "too many roles and bindings, this one is not used"
            );
            return false;
        }
        self.count += 1;
        true
    }
}

/// How upstream's listers tell it.
pub(crate) fn not_found(cluster: bool, name: &str) -> String {
    let kind = if cluster { "clusterrole" } else { "role" };
    format!("{kind}.{GROUP} {name:?} not found")
}

/// Plural, namespace ("" if there is none) and name in a key.
fn parts(key: &str) -> Option<(&str, &str, &str)> {
    let (plural, rest) = key.strip_prefix(RANGE)?.split_once('/')?;
    let (namespace, name) = rest.split_once('/').unwrap_or(("", rest));
    Some((plural, namespace, name))
}

impl View for Policy {
    fn put(&mut self, entry: &Entry) {
        let Some((plural, namespace, name)) = parts(&entry.key) else { return };
        // A stored object that cannot be read allows nothing.
        let value = object::decode(&entry.value).unwrap_or_default();
        self.delete(&entry.key);
        if !self.has_room(&entry.key) {
            return;
        }
        match plural {
            "roles" | "clusterroles" => {
                let of = self.roles.entry(namespace.into()).or_default();
                of.insert(name.into(), rules(&value).into());
            }
            _ => {
                let of = self.bindings.entry(namespace.into()).or_default();
                of.insert(name.into(), Binding::from_value(&value));
            }
        }
    }

    fn delete(&mut self, key: &str) {
        let Some((plural, namespace, name)) = parts(key) else { return };
        let removed = match plural {
            "roles" | "clusterroles" => {
                let Some(of) = self.roles.get_mut(namespace) else { return };
                let removed = of.remove(name).is_some();
                if of.is_empty() {
                    self.roles.remove(namespace);
                }
                removed
            }
            _ => {
                let Some(of) = self.bindings.get_mut(namespace) else { return };
                let removed = of.remove(name).is_some();
                if of.is_empty() {
                    self.bindings.remove(namespace);
                }
                removed
            }
        };
        self.count -= usize::from(removed);
    }
}

impl Binding {
    fn from_value(binding: &Value) -> Self {
        let subjects = binding.get("subjects").and_then(Value::as_array);
        Self {
            cluster: object::text(binding, &["roleRef", "kind"]) == "ClusterRole",
            role: object::text(binding, &["roleRef", "name"]).into(),
            subjects: subjects.into_iter().flatten().filter_map(Subject::from_value).collect(),
        }
    }
}

impl Subject {
    fn from_value(subject: &Value) -> Option<Self> {
        let name = object::text(subject, &["name"]);
        match object::text(subject, &["kind"]) {
            "User" => Some(Self::User(name.into())),
            "Group" => Some(Self::Group(name.into())),
            "ServiceAccount" => {
                let namespace = object::text(subject, &["namespace"]).into();
                Some(Self::Account { namespace, name: name.into() })
            }
            _ => None,
        }
    }

    fn is(&self, user: &User, scope: &str) -> bool {
        match self {
            Self::User(name) => user.name == **name,
            Self::Group(name) => user.groups.iter().any(|group| *group == **name),
            Self::Account { namespace, name } => {
                let namespace = if namespace.is_empty() { scope } else { namespace };
                let account = user.name.strip_prefix("system:serviceaccount:");
                account.and_then(|account| account.split_once(':'))
                    == Some((namespace, &**name)).filter(|(namespace, _)| !namespace.is_empty())
            }
        }
    }
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, namespace, binding, subject } = self;
        let kind = if binding.cluster { "ClusterRole" } else { "Role" };
        let role = &binding.role;
        match *namespace {
            "" => write!(f, "ClusterRoleBinding {name:?} of {kind} {role:?} to ")?,
            namespace => {
                write!(f, "RoleBinding \"{name}/{namespace}\" of {kind} {role:?} to ")?;
            }
        }
        match subject {
            Subject::User(name) => write!(f, "User {name:?}"),
            Subject::Group(name) => write!(f, "Group {name:?}"),
            Subject::Account { namespace: own, name } => {
                let namespace = if own.is_empty() { namespace } else { &**own };
                write!(f, "ServiceAccount \"{name}/{namespace}\"")
            }
        }
    }
}
