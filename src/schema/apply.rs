//! Three-way apply: what an object becomes when a manifest is applied to it again.
//!
//! As with kubectl's client-side apply: what the manifest gives holds, what the manifest gave last time and gives no more
//! goes, everything else stays as others left it. Lists merge by the patch strategies and merge keys of the schema; the
//! result is the whole object instead of a patch.

use serde_json::{Map, Value};

use crate::facts::{Field, ListKind, Type};
use crate::patch_error::PatchError;
use crate::strategic::{arrange, check_size, inner_type, malformed};

type Object = Map<String, Value>;

/// Brings `manifest` into `live`, an object of type `ty` (`None`: of no known type, its lists are replaced). `last` is the
/// manifest applied before.
pub fn apply(
    ty: Option<&Type>,
    last: Option<&Value>,
    manifest: &Value,
    live: &mut Value,
) -> Result<(), PatchError> {
    let (Value::Object(manifest), Value::Object(live)) = (manifest, live) else {
        return Err(malformed("a manifest must be an object"));
    };
    object(ty, last.and_then(Value::as_object), manifest, live)
}

fn object(
    ty: Option<&Type>,
    last: Option<&Object>,
    manifest: &Object,
    live: &mut Object,
) -> Result<(), PatchError> {
    for key in last.into_iter().flat_map(Map::keys).filter(|key| !manifest.contains_key(*key)) {
        live.remove(key);
    }
    for (key, wanted) in manifest {
        let field = ty.and_then(|ty| ty.field(key));
        let last = last.and_then(|last| last.get(key));
        match value(field, last, wanted, live.remove(key))? {
            Value::Null => {}
            new => drop(live.insert(key.clone(), new)),
        }
    }
    Ok(())
}

/// What a field becomes; null when it is to go.
fn value(
    field: Option<&Field>,
    last: Option<&Value>,
    wanted: &Value,
    live: Option<Value>,
) -> Result<Value, PatchError> {
    match wanted {
        Value::Object(wanted) => {
            let has = |strategy| field.is_some_and(|field| field.strategy_has(strategy));
            let mut new = match live {
                Some(Value::Object(live)) if !has("replace") => live,
                _ => Object::new(),
            };
            let before = has("retainKeys").then(|| new.clone());
            let ty = inner_type(field.map(|field| &field.shape));
            object(ty, last.and_then(Value::as_object), wanted, &mut new)?;
            if before.is_some_and(|before| before != new) {
                new.retain(|key, _| wanted.contains_key(key));
            }
            Ok(Value::Object(new))
        }
        Value::Array(wanted) => {
            let Some(field) = field.filter(|field| field.strategy_has("merge")) else {
                return Ok(Value::Array(wanted.clone()));
            };
            let last = last.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let live = match live {
                Some(Value::Array(live)) => live,
                _ => Vec::new(),
            };
            check_size(field.name, last.len() + wanted.len() + live.len())?;
            list(field, last, wanted, live).map(Value::Array)
        }
        scalar => Ok(scalar.clone()),
    }
}

fn list(
    field: &Field,
    last: &[Value],
    wanted: &[Value],
    live: Vec<Value>,
) -> Result<Vec<Value>, PatchError> {
    let Some(key) = field.merge_key else {
        let mut new = live;
        new.retain(|item| !last.contains(item) || wanted.contains(item));
        let missing: Vec<Value> = wanted.iter().filter(|w| !new.contains(w)).cloned().collect();
        new.extend(missing);
        return Ok(new);
    };
    let keys = match &field.list {
        Some(ListKind::Map(keys)) if keys.contains(&key) => keys.as_slice(),
        _ => &[key],
    };
    let given = |items: &[Value], item: &Value| items.iter().position(|o| same(keys, o, item));
    let before = live.clone();
    let mut new = live;
    new.retain(|item| given(last, item).is_none() || given(wanted, item).is_some());
    for item in wanted {
        let Value::Object(wanted) = item else {
            return Err(malformed(format!("elements of {} must be objects", field.name)));
        };
        if !wanted.contains_key(key) {
            return Err(malformed(format!(
                "an element of {} has no {key}, which tells its elements apart",
                field.name
            )));
        }
        let last = given(last, item).and_then(|at| last.get(at)).and_then(Value::as_object);
        let ty = inner_type(Some(&field.shape));
        match new.iter_mut().find(|other| same(keys, other, item)) {
            Some(Value::Object(live)) => object(ty, last, wanted, live)?,
            _ => {
                let mut made = Object::new();
                object(ty, last, wanted, &mut made)?;
                new.push(Value::Object(made));
            }
        }
    }
    Ok(arrange(new, wanted, &before, &|a, b| same(keys, a, b)))
}

/// Whether two elements are the same one. Ports of one number are told apart by their protocol, which may be left out.
fn same(keys: &[&str], a: &Value, b: &Value) -> bool {
    let part = |item: &Value, key: &str| match item.get(key) {
        None if key == "protocol" => Value::from("TCP"),
        found => found.cloned().unwrap_or_default(),
    };
    keys.iter().all(|key| part(a, key) == part(b, key))
}
