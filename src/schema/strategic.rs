//! Strategic merge patch: lists of objects merge by the key the schema names, steered by directives in the patch.

use std::mem;

use serde_json::{Map, Value};

use crate::facts::{Field, Shape, Type, type_at};
use crate::patch_error::PatchError;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

/// Elements of one list, old and new together, that are merged by key or value.
const MERGED_MAX: usize = 5_000;

type Object = Map<String, Value>;

/// Merges `patch` into `target`, an object of type `ty`.
pub fn strategic_merge(ty: &Type, target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let (Value::Object(target), Value::Object(patch)) = (target, patch) else {
        return Err(malformed("a strategic merge patch must be an object"));
    };
    merge_object(Some(ty), target, patch.clone())
}

pub(crate) fn check_size(name: &str, elements: usize) -> Result<(), PatchError> {
    match elements > MERGED_MAX {
        true => Err(malformed(format!(
            "{name} has more than {MERGED_MAX} elements to merge; replace it as a whole"
        ))),
        false => Ok(()),
    }
}

pub(crate) fn malformed(text: impl Into<String>) -> PatchError {
    PatchError::Malformed(text.into())
}

fn merge_object(
    ty: Option<&Type>,
    original: &mut Object,
    mut patch: Object,
) -> Result<(), PatchError> {
    match patch.remove(PATCH) {
        None => {}
        Some(Value::String(directive)) => match directive.as_str() {
            "replace" => {
                *original = patch;
                return Ok(());
            }
            "delete" => {
                original.clear();
                return Ok(());
            }
            "merge" => {}
            other => return Err(malformed(format!("unknown patch type: {other}"))),
        },
        Some(other) => return Err(malformed(format!("unknown patch type: {other}"))),
    }
    retain_keys(original, &mut patch)?;
    apply_orders(ty, original, &mut patch)?;
    for (key, value) in patch {
        merge_field(ty, original, key, value)?;
    }
    Ok(())
}

fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let Some(list) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keep) = list else {
        return Err(malformed(format!("{RETAIN_KEYS} must be a list")));
    };
    let kept = |key: &str| keep.iter().any(|k| k.as_str() == Some(key));
    let lost =
        |(key, value): &(&String, &Value)| !value.is_null() && !key.starts_with('$') && !kept(key);
    if let Some((key, _)) = patch.iter().find(lost) {
        return Err(malformed(format!(
            "{RETAIN_KEYS} does not list {key:?}, which the patch holds"
        )));
    }
    original.retain(|key, _| kept(key));
    Ok(())
}

/// The lists whose order the patch gives: merged and sorted here, then taken out of the patch.
fn apply_orders(
    ty: Option<&Type>,
    original: &mut Object,
    patch: &mut Object,
) -> Result<(), PatchError> {
    let keys: Vec<String> = patch.keys().filter(|key| key.starts_with(ORDER)).cloned().collect();
    for key in keys {
        let (Some(Value::Array(order)), Some(name)) = (patch.remove(&key), key.strip_prefix(ORDER))
        else {
            return Err(malformed(format!("{key} must be a list")));
        };
        let field = ty.and_then(|ty| ty.field(name));
        let merge_key = field.and_then(|f| f.merge_key);
        let patch_list = take_list(patch, name)?;
        if let Some(list) = &patch_list {
            check_order(list, &order, merge_key)?;
        }
        let before = original.get(name).and_then(Value::as_array).cloned();
        check_size(name, order.len() + before.as_ref().map_or(0, Vec::len))?;
        let merged = match (before.clone(), patch_list) {
            (None, None) => continue,
            (Some(list), None) => list,
            (list, Some(patch)) => merge_list(field, list.unwrap_or_default(), patch)?,
        };
        let same = |a: &Value, b: &Value| same(a, b, merge_key);
        let sorted = arrange(merged, &order, &before.unwrap_or_default(), &same);
        original.insert(name.to_owned(), Value::Array(sorted));
    }
    Ok(())
}

fn take_list(patch: &mut Object, name: &str) -> Result<Option<Vec<Value>>, PatchError> {
    match patch.get_mut(name) {
        None => Ok(None),
        Some(Value::Array(list)) => {
            let list = mem::take(list);
            patch.remove(name);
            Ok(Some(list))
        }
        Some(Value::Null) => Ok(None),
        Some(_) => Err(malformed(format!("{name} must be a list, for {ORDER}{name} orders it"))),
    }
}

/// The elements of the patch must come in the order that the directive gives.
fn check_order(list: &[Value], order: &[Value], merge_key: Option<&str>) -> Result<(), PatchError> {
    let mut rest = order.iter();
    for item in list.iter().filter(|item| item.get(PATCH).is_none()) {
        if !rest.any(|o| same(item, o, merge_key)) {
            let text = Value::Array(list.to_vec());
            return Err(malformed(format!(
                "the order in patch list: {text} doesn't match {}",
                Value::Array(order.to_vec())
            )));
        }
    }
    Ok(())
}

fn merge_field(
    ty: Option<&Type>,
    original: &mut Object,
    key: String,
    value: Value,
) -> Result<(), PatchError> {
    if let Some(name) = key.strip_prefix(DELETE) {
        return delete_from(original, name, value);
    }
    let field = ty.and_then(|ty| ty.field(&key));
    match value {
        Value::Null => {
            original.remove(&key);
        }
        Value::Object(patch) => {
            let whole = field.is_some_and(|f| f.strategy_has("replace"));
            let mut inner = match original.remove(&key) {
                Some(Value::Object(inner)) if !whole => inner,
                _ => Object::new(),
            };
            merge_object(inner_type(field.map(|f| &f.shape)), &mut inner, patch)?;
            original.insert(key, Value::Object(inner));
        }
        Value::Array(patch) => {
            let before = match original.get_mut(&key) {
                Some(Value::Array(list)) => mem::take(list),
                _ => Vec::new(),
            };
            let merged = merge_list(field, before.clone(), patch.clone())?;
            let merge_key = field.and_then(|f| f.merge_key);
            let list = match field.is_some_and(|f| f.strategy_has("merge")) {
                true => arrange(merged, &patch, &before, &|a, b| same(a, b, merge_key)),
                false => merged,
            };
            original.insert(key, Value::Array(list));
        }
        scalar => {
            original.insert(key, scalar);
        }
    }
    Ok(())
}

/// The type of the elements or of the object behind a shape.
pub(crate) fn inner_type(shape: Option<&Shape>) -> Option<&'static Type> {
    match shape? {
        Shape::Object(index) => Some(type_at(*index)),
        Shape::List(item) | Shape::Map(item) => inner_type(Some(item)),
        _ => None,
    }
}

fn delete_from(original: &mut Object, name: &str, value: Value) -> Result<(), PatchError> {
    let Value::Array(gone) = value else {
        return Err(malformed(format!("{DELETE}{name} must be a list")));
    };
    if let Some(Value::Array(list)) = original.get_mut(name) {
        check_size(name, gone.len() + list.len())?;
        list.retain(|item| !gone.contains(item));
    }
    Ok(())
}

fn merge_list(
    field: Option<&Field>,
    original: Vec<Value>,
    patch: Vec<Value>,
) -> Result<Vec<Value>, PatchError> {
    let Some(field) = field.filter(|f| f.strategy_has("merge")) else {
        return Ok(patch);
    };
    check_size(field.name, original.len() + patch.len())?;
    match field.merge_key {
        Some(merge_key) => merge_objects(field, merge_key, original, patch),
        None => {
            let mut merged = original;
            for item in patch {
                if !merged.contains(&item) {
                    merged.push(item);
                }
            }
            Ok(merged)
        }
    }
}

fn merge_objects(
    field: &Field,
    key: &str,
    mut merged: Vec<Value>,
    patch: Vec<Value>,
) -> Result<Vec<Value>, PatchError> {
    let replaces =
        patch.iter().any(|item| item.get(PATCH).and_then(Value::as_str) == Some("replace"));
    if replaces {
        merged.clear();
    }
    let ty = inner_type(Some(&field.shape));
    for item in patch {
        let Value::Object(item) = item else {
            return Err(malformed(format!("elements of {} must be objects", field.name)));
        };
        let directive = item.get(PATCH).and_then(Value::as_str).unwrap_or_default();
        if directive == "replace" {
            continue;
        }
        let Some(value) = item.get(key).cloned() else {
            let text = Value::Object(item);
            return Err(malformed(format!(
                "map: {text} does not contain declared merge key: {key}"
            )));
        };
        match directive {
            "" | "merge" => merge_element(ty, key, &value, &mut merged, item)?,
            "delete" => merged.retain(|other| other.get(key) != Some(&value)),
            other => return Err(malformed(format!("unknown patch type: {other}"))),
        }
    }
    Ok(merged)
}

fn merge_element(
    ty: Option<&Type>,
    key: &str,
    value: &Value,
    merged: &mut Vec<Value>,
    item: Object,
) -> Result<(), PatchError> {
    match merged.iter_mut().find(|other| other.get(key) == Some(value)) {
        Some(Value::Object(found)) => merge_object(ty, found, item),
        _ => {
            let mut new = Object::new();
            merge_object(ty, &mut new, item)?;
            merged.push(Value::Object(new));
            Ok(())
        }
    }
}

fn same(a: &Value, b: &Value, merge_key: Option<&str>) -> bool {
    match merge_key {
        Some(key) => a.get(key).is_some() && a.get(key) == b.get(key),
        None => a == b,
    }
}

/// Sorts a merged list: what the patch names in the order of the patch, the rest as it was, and where both were
/// there before, by where they were.
pub(crate) fn arrange(
    merged: Vec<Value>,
    order: &[Value],
    before: &[Value],
    same: &dyn Fn(&Value, &Value) -> bool,
) -> Vec<Value> {
    let at = |list: &[Value], item: &Value| list.iter().position(|other| same(item, other));
    let (mut named, mut rest): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| at(order, item).is_some());
    named.sort_by_cached_key(|item| at(order, item));
    rest.sort_by_cached_key(|item| at(before, item));
    let mut out = Vec::with_capacity(named.len() + rest.len());
    let (mut named, mut rest) = (named.into_iter().peekable(), rest.into_iter().peekable());
    loop {
        let rest_first = match (rest.peek(), named.peek()) {
            (Some(left), Some(right)) => {
                matches!((at(before, left), at(before, right)), (Some(l), Some(r)) if l < r)
            }
            (left, _) => left.is_some(),
        };
        match if rest_first { rest.next() } else { named.next() } {
            Some(item) => out.push(item),
            None => return out,
        }
    }
}
