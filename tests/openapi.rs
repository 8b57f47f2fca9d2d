//! What kubectl does with the API's description: validation of lists, unknown fields, kinds that are not served, explain.

use testkit::Machine;

fn config_map(name: &str, extra: &str) -> String {
    format!(
        "- apiVersion: v1\n  kind: ConfigMap\n  metadata:\n    name: {name}\n{extra}  data:\n    key: value\n"
    )
}

fn list(items: &[String]) -> String {
    format!("apiVersion: v1\nkind: List\nitems:\n{}", items.concat())
}

#[test]
fn lists_and_kinds_are_checked_by_the_client() {
    let mut m = Machine::bare();
    m.start(&["--disable-agent"]);
    let both = list(&[config_map("one", ""), config_map("two", "")]);
    let out = m.apply(&both).expect("a list is applied");
    assert_eq!(out, "configmap/one created\nconfigmap/two created\n");
    let out = m.apply(&both).expect("a list is applied again");
    assert_eq!(out, "configmap/one unchanged\nconfigmap/two unchanged\n");
    m.ok(&["delete", "configmap", "one", "two"]);

    let odd = list(&[config_map("one", ""), config_map("two", "  dta: {}\n")]);
    let refused = m.with_file("create", &odd).expect_err("an unknown field in a list");
    assert!(refused.contains("unknown field \"dta\""), "{refused}");
    assert!(m.refused(&["get", "configmap", "two"]).contains("not found"));

    let unserved = "apiVersion: example.com/v1\nkind: Widget\nmetadata:\n  name: w\n";
    let refused = m.apply(unserved).expect_err("a kind that is not served");
    assert!(
        refused.contains("resource mapping not found for name: \"w\"")
            && refused.contains("no matches for kind \"Widget\" in version \"example.com/v1\"")
            && refused.contains("ensure CRDs are installed first"),
        "{refused}"
    );

    let explained = m.ok(&["explain", "pod.spec"]);
    assert!(
        explained.contains("KIND:       Pod") && explained.contains("containers"),
        "{explained}"
    );
    let missing = m.refused(&["explain", "pod.spec.nothing"]);
    assert!(missing.contains("field \"nothing\" does not exist"), "{missing}");
}
