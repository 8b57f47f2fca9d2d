//! Whether a toleration covers a taint: shared by those who place pods and those who evict them.

use k8s_openapi::api::core::v1::{Taint, Toleration};

/// An empty key, effect or operator stands for any, any and `Equal`.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if set(&toleration.effect).is_some_and(|effect| effect != taint.effect) {
        return false;
    }
    if set(&toleration.key).is_some_and(|key| key != taint.key) {
        return false;
    }
    let (wanted, value) =
        (toleration.value.as_deref().unwrap_or(""), taint.value.as_deref().unwrap_or(""));
    let compare = |holds: fn(&i64, &i64) -> bool| {
        let numbers = value.parse().ok().zip(wanted.parse().ok());
        numbers.is_some_and(|(value, limit)| holds(&value, &limit))
    };
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "" | "Equal" => wanted == value,
        "Exists" => true,
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}
