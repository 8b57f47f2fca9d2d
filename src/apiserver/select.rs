//! Label and field selection over encoded objects: reads the labels and the selected fields, skips the rest.

use api::{FieldSelector, LabelSelector, Resource, Status};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

use crate::request::Query;

/// Which objects a list, watch or collection deletion covers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
    exact_name: Option<String>,
    /// Dotted paths to read from an object.
    paths: Vec<String>,
}

impl Selection {
    pub(crate) fn from_query(res: &Resource, query: &Query) -> Result<Self, Status> {
        let labels = match query.get("labelSelector") {
            Some(text) => LabelSelector::parse(text)
                .map_err(|e| Status::bad_request(format!("{e} (labelSelector {text:?})")))?,
            None => LabelSelector::everything(),
        };
        let fields = match query.get("fieldSelector") {
            Some(text) => {
                FieldSelector::parse(text).map_err(|e| Status::bad_request(e.to_string()))?
            }
            None => FieldSelector::everything(),
        };
        fields.check(res).map_err(|e| Status::bad_request(e.to_string()))?;
        let mut paths: Vec<String> = fields.terms().iter().map(|t| path(res, &t.field)).collect();
        if !labels.is_everything() {
            paths.push("metadata.labels".to_owned());
        }
        Ok(Self { labels, fields, exact_name: None, paths })
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.paths.is_empty()
    }

    /// The one name that can match, if a term asks for it.
    pub(crate) fn name(&self) -> Option<&str> {
        self.exact_name.as_deref().or_else(|| self.fields.required("metadata.name"))
    }

    /// Narrows the selection to the object a path names.
    pub(crate) fn require_name(&mut self, name: &str) {
        self.exact_name = Some(name.to_owned());
    }

    pub(crate) fn namespace(&self) -> Option<&str> {
        self.fields.required("metadata.namespace")
    }

    pub(crate) fn matches(&self, res: &Resource, object: &[u8]) -> bool {
        if self.is_everything() {
            return true;
        }
        let mut found = BTreeMap::new();
        let seed = Fields { prefix: String::new(), paths: &self.paths, found: &mut found };
        if seed.deserialize(&mut serde_json::Deserializer::from_slice(object)).is_err() {
            return false;
        }
        let label = |key: &str| found.get(&format!("metadata.labels\n{key}")).map(String::as_str);
        let field = |field: &str| {
            found.get(&path(res, field)).map(String::as_str).or_else(|| absent(field))
        };
        self.labels.matches_with(label) && self.fields.matches(field)
    }
}

/// Where a selectable field is found in the object.
fn path(res: &Resource, field: &str) -> String {
    match (res.kind, field) {
        ("Event", "source") => "source.component".to_owned(),
        // Both Event kinds are stored in the core form.
        ("Event", "reportingController") => "reportingComponent".to_owned(),
        ("Event", field) => field.replacen("regarding.", "involvedObject.", 1),
        (_, field) => field.to_owned(),
    }
}

/// The text of a field that an object leaves out, where it is not the empty text.
fn absent(field: &str) -> Option<&'static str> {
    match field {
        "spec.hostNetwork" | "spec.unschedulable" => Some("false"),
        "status.replicas" => Some("0"),
        _ => None,
    }
}

/// Collects the wanted scalar fields below `prefix`; labels go in as `metadata.labels`, a line feed, and the key.
struct Fields<'a> {
    prefix: String,
    paths: &'a [String],
    found: &'a mut BTreeMap<String, String>,
}

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Fields<'_> {
    fn keep(self, value: impl fmt::Display) {
        self.found.insert(self.prefix, value.to_string());
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let labels = self.prefix == "metadata.labels";
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            let prefix = match self.prefix.as_str() {
                "" => key.into_owned(),
                prefix if labels => format!("{prefix}\n{key}"),
                prefix => format!("{prefix}.{key}"),
            };
            let wanted = labels
                || self.paths.iter().any(|p| {
                    p.strip_prefix(prefix.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
                });
            if wanted {
                map.next_value_seed(Fields { prefix, paths: self.paths, found: self.found })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.keep(value);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.keep(value);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.keep(value);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.keep(value);
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.keep(value);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}
