//! The table of facts: which fields the built-in types have, and how lists in them merge.
//!
//! `facts.txt` holds a block per type. Its first line is `type NAME [kind=GROUP/VERSION/KIND] [atomic]`, each further
//! line a field: `NAME SHAPE [required] [keeps-empty] [list=KIND[:KEYS]] [merge=KEY] [patch=STRATEGY]`. A shape is a
//! scalar's name, a type's name, `[SHAPE]` or `{SHAPE}` for a map with string keys.

use std::collections::HashMap;
use std::sync::LazyLock;

/// What a value may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    String,
    /// Base64 text.
    Bytes,
    Time,
    MicroTime,
    Int32,
    Int64,
    Number,
    Bool,
    Quantity,
    IntOrString,
    /// Any JSON object, kept as it is.
    Any,
    Object(usize),
    List(Box<Shape>),
    Map(Box<Shape>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListKind {
    Atomic,
    Set,
    Map(Vec<&'static str>),
}

#[derive(Clone, Debug)]
pub struct Field {
    pub name: &'static str,
    pub shape: Shape,
    pub required: bool,
    /// An empty text or list is kept, for it differs from absence.
    pub keeps_empty: bool,
    pub list: Option<ListKind>,
    /// `x-kubernetes-map-type: atomic` on the field.
    pub atomic_map: bool,
    pub merge_key: Option<&'static str>,
    /// `merge`, `replace`, `retainKeys` or `merge,retainKeys`.
    pub patch_strategy: Option<&'static str>,
}

impl Field {
    pub fn strategy_has(&self, strategy: &str) -> bool {
        self.patch_strategy.is_some_and(|s| s.split(',').any(|s| s == strategy))
    }
}

#[derive(Clone, Debug)]
pub struct Type {
    /// As in `core.v1.PodSpec`.
    pub name: &'static str,
    pub kind: Option<(&'static str, &'static str, &'static str)>,
    pub atomic: bool,
    /// Sorted by name.
    pub fields: Vec<Field>,
}

impl Type {
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.binary_search_by(|f| f.name.cmp(name)).ok().and_then(|i| self.fields.get(i))
    }

    /// `PodSpec` of `core.v1.PodSpec`.
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// `v1.PodSpec`, as Go prints it.
    pub fn go_name(&self) -> String {
        let mut parts = self.name.rsplit('.');
        let (name, version) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        format!("{version}.{name}")
    }

    /// Upstream's full definition name.
    pub fn definition(&self) -> String {
        match self.name.starts_with("meta.") {
            true => format!("io.k8s.apimachinery.pkg.apis.{}", self.name),
            false => format!("io.k8s.api.{}", self.name),
        }
    }
}

impl Shape {
    /// As Go names the type in decoding errors.
    pub fn go_name(&self) -> String {
        match self {
            Self::String => "string".to_owned(),
            Self::Bytes => "[]uint8".to_owned(),
            Self::Time => "v1.Time".to_owned(),
            Self::MicroTime => "v1.MicroTime".to_owned(),
            Self::Int32 => "int32".to_owned(),
            Self::Int64 => "int64".to_owned(),
            Self::Number => "float64".to_owned(),
            Self::Bool => "bool".to_owned(),
            Self::Quantity => "resource.Quantity".to_owned(),
            Self::IntOrString => "intstr.IntOrString".to_owned(),
            Self::Any => "map[string]interface {}".to_owned(),
            Self::Object(index) => type_at(*index).go_name(),
            Self::List(item) => format!("[]{}", item.go_name()),
            Self::Map(item) => format!("map[string]{}", item.go_name()),
        }
    }
}

struct Facts {
    types: Vec<Type>,
    by_name: HashMap<&'static str, usize>,
    by_kind: HashMap<(&'static str, &'static str, &'static str), usize>,
}

static FACTS: LazyLock<Facts> = LazyLock::new(|| parse(include_str!("facts.txt")));

/// The type of a kind, whether it is served by itself or only as a body of a subresource.
pub fn builtin(group: &str, version: &str, kind: &str) -> Option<&'static Type> {
    let index = *FACTS.by_kind.get(&(group, version, kind))?;
    FACTS.types.get(index)
}

/// By the table's own name.
pub(crate) fn named(name: &str) -> Option<&'static Type> {
    let index = *FACTS.by_name.get(name)?;
    FACTS.types.get(index)
}

/// The type a shape refers to.
pub fn type_at(index: usize) -> &'static Type {
    &FACTS.types[index]
}

fn parse(text: &'static str) -> Facts {
    let lines = || text.lines().filter(|line| !line.starts_with('#'));
    let heads = lines().filter_map(|line| line.strip_prefix("type "));
    let by_name: HashMap<&str, usize> =
        heads.enumerate().map(|(i, head)| (head.split(' ').next().unwrap_or(head), i)).collect();
    let mut types: Vec<Type> = Vec::with_capacity(by_name.len());
    for line in lines() {
        match (line.strip_prefix("type "), types.last_mut()) {
            (Some(head), _) => types.push(parse_head(head)),
            (None, Some(last)) => last.fields.push(parse_field(line.trim_start(), &by_name)),
            (None, None) => {}
        }
    }
    let by_kind = types.iter().enumerate().filter_map(|(i, ty)| Some((ty.kind?, i))).collect();
    Facts { types, by_name, by_kind }
}

fn parse_head(head: &'static str) -> Type {
    let mut words = head.split(' ');
    let mut ty = Type {
        name: words.next().unwrap_or_default(),
        kind: None,
        atomic: false,
        fields: Vec::new(),
    };
    for word in words {
        if let Some(kind) = word.strip_prefix("kind=") {
            let mut parts = kind.split('/');
            let mut part = || parts.next().unwrap_or_default();
            ty.kind = Some((part(), part(), part()));
        }
        ty.atomic |= word == "atomic";
    }
    ty
}

fn parse_field(line: &'static str, by_name: &HashMap<&'static str, usize>) -> Field {
    let mut words = line.split(' ');
    let name = words.next().unwrap_or_default();
    let mut field = Field {
        name,
        shape: parse_shape(words.next().unwrap_or_default(), by_name),
        required: false,
        keeps_empty: false,
        list: None,
        atomic_map: false,
        merge_key: None,
        patch_strategy: None,
    };
    for word in words {
        match word.split_once('=') {
            Some(("list", list)) => field.list = Some(parse_list(list)),
            Some(("map", kind)) => field.atomic_map = kind == "atomic",
            Some(("merge", key)) => field.merge_key = Some(key),
            Some(("patch", strategy)) => field.patch_strategy = Some(strategy),
            _ => {
                field.required |= word == "required";
                field.keeps_empty |= word == "keeps-empty";
            }
        }
    }
    field
}

fn parse_list(text: &'static str) -> ListKind {
    match text.split_once(':') {
        Some(("map", keys)) => ListKind::Map(keys.split(',').collect()),
        _ if text == "set" => ListKind::Set,
        _ => ListKind::Atomic,
    }
}

fn parse_shape(text: &str, by_name: &HashMap<&'static str, usize>) -> Shape {
    let inner = |open, close| text.strip_prefix(open).and_then(|t| t.strip_suffix(close));
    if let Some(item) = inner('[', ']') {
        return Shape::List(Box::new(parse_shape(item, by_name)));
    }
    if let Some(item) = inner('{', '}') {
        return Shape::Map(Box::new(parse_shape(item, by_name)));
    }
    match text {
        "string" => Shape::String,
        "bytes" => Shape::Bytes,
        "time" => Shape::Time,
        "microtime" => Shape::MicroTime,
        "int32" => Shape::Int32,
        "int64" => Shape::Int64,
        "number" => Shape::Number,
        "bool" => Shape::Bool,
        "quantity" => Shape::Quantity,
        "int-or-string" => Shape::IntOrString,
        name => by_name.get(name).map_or(Shape::Any, |&index| Shape::Object(index)),
    }
}
