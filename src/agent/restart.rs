//! Whether a container that has ended is started again: its restart rules, its own policy, the pod's.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule};

/// The policy where nothing else is said.
const DEFAULT: &str = "Always";

/// `init` is an init container that is no sidecar: it is done when it succeeds.
pub(crate) fn again(container: &Container, pods: Option<&str>, init: bool, code: i32) -> bool {
    let rules = container.restart_policy_rules.iter().flatten();
    if rules.into_iter().any(|rule| restarts(rule, code)) {
        return true;
    }
    match container.restart_policy.as_deref().or(pods).unwrap_or(DEFAULT) {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => !init || code != 0,
    }
}

fn restarts(rule: &ContainerRestartRule, code: i32) -> bool {
    let Some(codes) = rule.exit_codes.as_ref().filter(|_| rule.action == "Restart") else {
        return false;
    };
    let listed = codes.values.iter().flatten().any(|value| *value == code);
    match codes.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn rules_come_before_policies() {
        let rule = |operator: &str, values: &[i32]| json!([{"action": "Restart", "exitCodes": {"operator": operator, "values": values}}]);
        let cases: [(Value, &str, bool, [bool; 3]); 9] = [
            // spec, the pod's policy, init, whether exit codes 0, 1 and 42 lead to a restart
            (json!({}), "Always", false, [true, true, true]),
            (json!({}), "Always", true, [false, true, true]),
            (json!({}), "OnFailure", false, [false, true, true]),
            (json!({}), "Never", false, [false, false, false]),
            (json!({"restartPolicy": "Never"}), "Always", false, [false, false, false]),
            (json!({"restartPolicy": "Always"}), "Never", false, [true, true, true]),
            (
                json!({"restartPolicy": "Never", "restartPolicyRules": rule("In", &[42])}),
                "Always",
                false,
                [false, false, true],
            ),
            (
                json!({"restartPolicy": "Never", "restartPolicyRules": rule("NotIn", &[0, 1])}),
                "Never",
                true,
                [false, false, true],
            ),
            (
                json!({"restartPolicy": "OnFailure", "restartPolicyRules": rule("In", &[0])}),
                "Never",
                false,
                [true, true, true],
            ),
        ];
        for (mut spec, pods, init, wanted) in cases {
            spec["name"] = json!("a");
            let container: Container = serde_json::from_value(spec.clone()).expect("a container");
            let got = [0, 1, 42].map(|code| again(&container, Some(pods), init, code));
            assert_eq!(got, wanted, "{spec} in a pod with {pods}");
        }
    }
}
