//! Cases as data, and properties of what parses foreign text.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::Value;

use crate::case_files::check;
use crate::{FieldError, FieldSelector, LabelSelector, Quantity, RESOURCES, Status, names, time};

#[test]
fn cases() {
    check(env!("CARGO_MANIFEST_DIR"), |operation, inputs| {
        let lines = inputs.iter().flat_map(|input| input.lines());
        lines.map(|line| format!("{line} => {}\n", run(operation, line))).collect()
    });
}

type Check = fn(&str) -> Vec<String>;

fn run(operation: &str, line: &str) -> String {
    match operation {
        "quantity" => match Quantity::parse(line) {
            Ok(q) => format!("{q} value {} milli {}", q.value(), q.milli_value()),
            Err(error) => error.to_string(),
        },
        "label selector" => {
            LabelSelector::parse(line).map_or_else(|e| e.to_string(), |s| s.to_string())
        }
        "label selector value" => {
            let value: Value = serde_json::from_str(line).expect("a case is JSON");
            LabelSelector::from_value(&value).map_or_else(|e| e.to_string(), |s| s.to_string())
        }
        "label match" => {
            let (selector, labels) = line.split_once(" on ").expect("SELECTOR on LABELS");
            let labels: BTreeMap<String, String> = labels
                .split(',')
                .filter_map(|pair| pair.split_once('='))
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect();
            LabelSelector::parse(selector)
                .map_or_else(|e| e.to_string(), |s| s.matches(&labels).to_string())
        }
        "field selector" => {
            FieldSelector::parse(line).map_or_else(|e| e.to_string(), |s| s.to_string())
        }
        "field selector for" => {
            let (kind, selector) = line.split_once(' ').expect("KIND SELECTOR");
            let res = RESOURCES.iter().find(|r| r.kind == kind).expect("a served kind");
            let parsed = FieldSelector::parse(selector).and_then(|s| s.check(res));
            parsed.map_or_else(|e| e.to_string(), |()| "ok".to_owned())
        }
        "status" => status(line),
        "time" => time::parse(line).map_or_else(
            || "none".to_owned(),
            |t| format!("{} {}", time::rfc3339(t), time::rfc3339_micro(t)),
        ),
        name => {
            let checks: [(&str, Check); 8] = [
                ("dns label", names::dns1123_label),
                ("dns subdomain", names::dns1123_subdomain),
                ("dns 1035 label", names::dns1035_label),
                ("qualified name", names::qualified_name),
                ("label value", names::label_value),
                ("config key", names::config_key),
                ("env name", names::env_name),
                ("port name", names::port_name),
            ];
            let check = checks.iter().find(|(n, _)| *n == name).expect("a known operation").1;
            check(line).join("; ")
        }
    }
}

fn status(constructor: &str) -> String {
    let find = |kind: &str| RESOURCES.iter().find(|r| r.kind == kind).expect("a served kind");
    let (pods, deployments) = (find("Pod"), find("Deployment"));
    let required = FieldError::required("spec.containers", "");
    let status = match constructor {
        "not found" => Status::not_found(pods, "x"),
        "already exists" => Status::already_exists(deployments, "x"),
        "generate name" => Status::generate_name_conflict(pods, "x-abcde"),
        "conflict" => Status::conflict(pods, "x"),
        "invalid" => Status::invalid(pods, "x", &[required]),
        "invalid twice" => {
            let errors = [
                required,
                FieldError::not_supported("spec.restartPolicy", "Sometimes", &["Always", "Never"]),
            ];
            Status::invalid(deployments, "x", &errors)
        }
        "forbidden" => Status::forbidden(pods, "x", "no"),
        "unauthorized" => Status::unauthorized(),
        "bad request" => Status::bad_request("what"),
        "method" => Status::method_not_allowed(pods, "delete"),
        "expired" => Status::too_old_resource_version(1, 5),
        "too large" => Status::too_large(3_145_728),
        "media type" => Status::unsupported_media_type(&["application/json"]),
        "internal" => Status::internal("broken"),
        "timeout" => Status::timeout("late"),
        "no such" => Status::no_such_resource(),
        "success" => Status::success(pods, "x", "u"),
        other => unreachable!("no constructor {other}"),
    };
    String::from_utf8(status.to_bytes()).expect("a status is text")
}

#[test]
fn plurals_and_kinds_are_unique_in_a_group_version() {
    for (i, a) in RESOURCES.iter().enumerate() {
        for b in &RESOURCES[i + 1..] {
            let same_version = a.group == b.group && a.version == b.version;
            assert!(
                !same_version || (a.plural != b.plural && a.kind != b.kind),
                "{} twice",
                a.kind
            );
        }
    }
}

proptest! {
    #[test]
    fn a_printed_quantity_parses_to_itself(milli in any::<i64>(), bytes in any::<i64>()) {
        for quantity in [Quantity::from_milli(milli), Quantity::from_bytes(bytes), Quantity::from_value(bytes)] {
            prop_assert_eq!(Quantity::parse(&quantity.canonical()), Ok(quantity));
        }
    }

    #[test]
    fn parsing_never_panics(text in "[-+0-9.eEinumkKMGTP =!,()<>a-z\\\\]{0,60}", any in ".{0,60}") {
        for text in [text, any] {
            let _ = LabelSelector::parse(&text);
            let _ = FieldSelector::parse(&text);
            if let Ok(quantity) = Quantity::parse(&text) {
                let _ = (quantity.value(), quantity.milli_value(), quantity + quantity - quantity);
                let printed = quantity.canonical();
                prop_assert_eq!(Quantity::parse(&printed).map(|q| q.canonical()), Ok(printed));
            }
        }
    }
}
