//! One rule: what it allows, what it covers of another, and how it reads.

use crate::authz::{Asked, Attributes, matches};
use crate::object;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;

/// Single rights that are compared before a role counts as too large to judge.
const ATOMS_MAX: usize = 100_000;

/// Texts that are kept for long, so without room to grow.
pub(crate) type Texts = Box<[Box<str>]>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    pub verbs: Texts,
    pub groups: Texts,
    pub resources: Texts,
    pub names: Texts,
    pub urls: Texts,
}

fn has(list: &[Box<str>], wanted: &str) -> bool {
    list.iter().any(|item| **item == *wanted)
}

fn all(list: &[Box<str>], wanted: &[Box<str>]) -> bool {
    has(list, "*") || wanted.iter().all(|item| has(list, item))
}

impl Rule {
    pub(crate) fn from_value(rule: &Value) -> Self {
        let texts = |field: &str| -> Texts {
            let items = rule.get(field).and_then(Value::as_array);
            items.into_iter().flatten().filter_map(Value::as_str).map(Box::from).collect()
        };
        Self {
            verbs: texts("verbs"),
            groups: texts("apiGroups"),
            resources: texts("resources"),
            names: texts("resourceNames"),
            urls: texts("nonResourceURLs"),
        }
    }

    pub(crate) fn to_value(&self) -> Value {
        let mut out = json!({});
        for (field, texts) in [
            ("apiGroups", &self.groups),
            ("nonResourceURLs", &self.urls),
            ("resourceNames", &self.names),
            ("resources", &self.resources),
            ("verbs", &self.verbs),
        ] {
            if !texts.is_empty() {
                out[field] = json!(texts);
            }
        }
        out
    }

    pub(crate) fn allows(&self, asked: &Asked<'_>) -> bool {
        let verb = |verb: &str| has(&self.verbs, "*") || has(&self.verbs, verb);
        match asked {
            Asked::Path { verb: wanted, path } => {
                verb(wanted) && self.urls.iter().any(|pattern| matches(pattern, path))
            }
            Asked::Resource(asked) => {
                verb(asked.verb)
                    && (has(&self.groups, "*") || has(&self.groups, asked.group))
                    && self.resources.iter().any(|item| names_resource(item, asked))
                    && (self.names.is_empty()
                        || (!asked.name.is_empty() && has(&self.names, asked.name)))
            }
        }
    }

    /// Whether this rule gives all of `wanted`, which is a single right.
    fn covers(&self, wanted: &Rule) -> bool {
        let url = |url: &str| {
            has(&self.urls, url)
                || self.urls.iter().any(|own| {
                    own.strip_suffix('*').is_some_and(|prefix| {
                        url.strip_suffix('*').unwrap_or(url).starts_with(prefix)
                    })
                })
        };
        let resource = |resource: &str| {
            has(&self.resources, resource)
                || resource
                    .split_once('/')
                    .is_some_and(|(_, sub)| has(&self.resources, &format!("*/{sub}")))
        };
        all(&self.verbs, &wanted.verbs)
            && all(&self.groups, &wanted.groups)
            && (has(&self.resources, "*") || wanted.resources.iter().all(|r| resource(r)))
            && (self.names.is_empty()
                || (!wanted.names.is_empty() && wanted.names.iter().all(|n| has(&self.names, n))))
            && wanted.urls.iter().all(|u| url(u))
    }

    /// The rule taken apart into rights of one verb on one thing.
    fn atoms(&self) -> impl Iterator<Item = Rule> + '_ {
        let one = |text: &str| -> Texts { Box::new([text.into()]) };
        let names: Vec<Option<&str>> = match self.names.is_empty() {
            true => vec![None],
            false => self.names.iter().map(|name| Some(&**name)).collect(),
        };
        let resources = self.groups.iter().flat_map(move |group| {
            let names = names.clone();
            self.resources.iter().flat_map(move |resource| {
                let names = names.clone();
                self.verbs.iter().flat_map(move |verb| {
                    names.clone().into_iter().map(move |name| Rule {
                        verbs: one(verb),
                        groups: one(group),
                        resources: one(resource),
                        names: name.map(one).unwrap_or_default(),
                        urls: Texts::default(),
                    })
                })
            })
        });
        let paths = self.urls.iter().flat_map(move |url| {
            self.verbs.iter().map(move |verb| Rule {
                verbs: one(verb),
                urls: one(url),
                ..Rule::default()
            })
        });
        resources.chain(paths)
    }
}

/// Whether an item of a rule's resources is the resource: `pods`, `pods/log`, `*/scale` or `*`.
fn names_resource(item: &str, asked: &Attributes<'_>) -> bool {
    match item.split_once('/') {
        _ if item == "*" => true,
        Some((plural, sub)) => {
            !asked.subresource.is_empty()
                && sub == asked.subresource
                && (plural == "*" || plural == asked.plural)
        }
        None => item == asked.plural && asked.subresource.is_empty(),
    }
}

/// What of `wanted` is not in `held`, put together for showing; `None` if there is too much to compare.
pub(crate) fn missing(held: &[Rule], wanted: &[Rule]) -> Option<Vec<Rule>> {
    let mut missing = Vec::new();
    for (count, atom) in wanted.iter().flat_map(Rule::atoms).enumerate() {
        if count == ATOMS_MAX {
            return None;
        }
        if !held.iter().any(|own| own.covers(&atom)) {
            missing.push(atom);
        }
    }
    Some(compact(missing))
}

/// Joins the verbs of rights on the same thing.
fn compact(atoms: Vec<Rule>) -> Vec<Rule> {
    let mut verbs: BTreeMap<(Texts, Texts, Texts, Texts), Vec<Box<str>>> = BTreeMap::new();
    for Rule { verbs: verb, groups, resources, names, urls } in atoms {
        let known = verbs.entry((groups, resources, names, urls)).or_default();
        known.extend(verb.into_iter().filter(|v| !known.contains(v)).collect::<Vec<_>>());
    }
    let rule = |((groups, resources, names, urls), verbs): ((_, _, _, _), Vec<Box<str>>)| Rule {
        verbs: verbs.into(),
        groups,
        resources,
        names,
        urls,
    };
    verbs.into_iter().map(rule).collect()
}

/// `{APIGroups:["apps"], Resources:["deployments"], Verbs:["get" "list"]}`
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (name, texts) in [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.urls),
            ("ResourceNames", &self.names),
            ("Verbs", &self.verbs),
        ] {
            if !texts.is_empty() {
                parts.push(format!("{name}:{}", quoted(texts.iter().map(|t| &**t))));
            }
        }
        write!(f, "{{{}}}", parts.join(", "))
    }
}

/// `["a" "b"]`
pub(crate) fn quoted<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = texts.map(|text| format!("{text:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

/// The rules of a role object.
pub(crate) fn rules(role: &Value) -> Vec<Rule> {
    let rules = object::at(role, &["rules"]).and_then(Value::as_array);
    rules.into_iter().flatten().map(Rule::from_value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        Rule::from_value(&serde_json::from_str(text).expect("rule"))
    }

    fn asked<'a>(verb: &'a str, plural: &'a str, subresource: &'a str, name: &'a str) -> Asked<'a> {
        Asked::Resource(Attributes { verb, plural, subresource, name, ..Attributes::default() })
    }

    #[test]
    fn rules_allow_what_they_name() {
        let pods = rule(r#"{"verbs":["get"],"apiGroups":[""],"resources":["pods","*/scale"]}"#);
        assert!(pods.allows(&asked("get", "pods", "", "x")));
        assert!(!pods.allows(&asked("get", "pods", "log", "x")));
        assert!(pods.allows(&asked("get", "anything", "scale", "x")));
        assert!(!pods.allows(&asked("list", "pods", "", "")));
        assert!(!pods.allows(&Asked::Path { verb: "get", path: "/" }));
        let named =
            rule(r#"{"verbs":["*"],"apiGroups":["*"],"resources":["*"],"resourceNames":["a"]}"#);
        assert!(named.allows(&asked("delete", "pods", "exec", "a")));
        assert!(!named.allows(&asked("delete", "pods", "", "b")));
        // A list names nothing, so it is not among the names.
        assert!(!named.allows(&asked("list", "pods", "", "")));
        let paths = rule(r#"{"verbs":["get"],"nonResourceURLs":["/api","/apis/*"]}"#);
        for (path, wanted) in [("/api", true), ("/api/v1", false), ("/apis/x", true)] {
            assert_eq!(paths.allows(&Asked::Path { verb: "get", path }), wanted, "{path}");
        }
        assert!(!paths.allows(&Asked::Path { verb: "post", path: "/api" }));
    }

    #[test]
    fn rights_are_covered_piece_by_piece() {
        let held = [
            rule(r#"{"verbs":["get","list"],"apiGroups":["","apps"],"resources":["pods"]}"#),
            rule(
                r#"{"verbs":["*"],"apiGroups":[""],"resources":["secrets"],"resourceNames":["a"]}"#,
            ),
            rule(r#"{"verbs":["get"],"nonResourceURLs":["/apis/*"]}"#),
            rule(r#"{"verbs":["get"],"apiGroups":["*"],"resources":["*/scale"]}"#),
        ];
        let shown = |wanted: &str| -> String {
            let missing = missing(&held, &[rule(wanted)]).expect("not too many");
            missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        for fine in [
            r#"{"verbs":["get"],"apiGroups":["apps",""],"resources":["pods"],"resourceNames":["x"]}"#,
            r#"{"verbs":["list","delete"],"apiGroups":[""],"resources":["secrets"],"resourceNames":["a"]}"#,
            r#"{"verbs":["get"],"nonResourceURLs":["/apis/x","/apis/x/*"]}"#,
            r#"{"verbs":["get"],"apiGroups":["apps"],"resources":["deployments/scale"]}"#,
        ] {
            assert_eq!(shown(fine), "", "{fine}");
        }
        assert_eq!(
            shown(r#"{"verbs":["get","watch","delete"],"apiGroups":[""],"resources":["pods"]}"#),
            r#"{APIGroups:[""], Resources:["pods"], Verbs:["watch" "delete"]}"#
        );
        assert_eq!(
            shown(r#"{"verbs":["get"],"apiGroups":[""],"resources":["secrets"]}"#),
            r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}"#
        );
        assert_eq!(
            shown(r#"{"verbs":["get"],"nonResourceURLs":["/api"]}"#),
            r#"{NonResourceURLs:["/api"], Verbs:["get"]}"#
        );
        assert_ne!(shown(r#"{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}"#), "");
    }

    #[test]
    fn too_much_to_compare_is_said() {
        let many = (0..400).map(|n| format!("{n}").into()).collect::<Texts>();
        let wide =
            Rule { verbs: many.clone(), groups: many.clone(), resources: many, ..Rule::default() };
        assert_eq!(missing(&[], &[wide]), None);
    }
}
