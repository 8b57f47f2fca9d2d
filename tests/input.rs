//! Bad input gets the right code and a message that says what and where; nothing crashes, nothing is lost.

use std::fs;

use testkit::NAMES;
use testkit::Machine;

/// A request with the administrator's certificate by curl: status code and body.
struct Curl<'a> {
    machine: &'a Machine,
}

impl Curl<'_> {
    fn send(&self, method: &str, path: &str, credentials: bool, body: Option<(&str, &[u8])>) -> (u16, String) {
        let m = self.machine;
        let mut args = vec!["-sk".to_owned(), "-X".into(), method.into(), "-w".into(), "\n%{http_code}".into()];
        if credentials {
            args.extend(["--cert".into(), text(m.path("admin.crt")), "--key".into(), text(m.path("admin.key"))]);
        }
        if let Some((content_type, bytes)) = body {
            fs::write(m.path("body"), bytes).expect("body");
            args.extend(["-H".into(), format!("Content-Type: {content_type}"), "-H".into(), "Expect:".into()]);
            args.extend(["--data-binary".into(), format!("@{}", text(m.path("body")))]);
        }
        args.push(format!("https://127.0.0.1:6443{path}"));
        let out = m.run("curl", &args.iter().map(String::as_str).collect::<Vec<_>>()).expect("curl");
        let (body, code) = out.rsplit_once('\n').expect("code");
        (code.parse().expect("number"), body.to_owned())
    }
}

fn text(path: std::path::PathBuf) -> String {
    path.into_os_string().into_string().expect("path in UTF-8")
}

fn curl(m: &Machine) -> Curl<'_> {
    for (field, file) in [("client-certificate-data", "admin.crt"), ("client-key-data", "admin.key")] {
        let path = format!("jsonpath={{.users[0].user.{field}}}");
        let data = m.ok(&["config", "view", "--raw", "-o", &path]);
        fs::write(m.path("encoded"), data).expect("file");
        let decoded = m.run("base64", &["-d", &text(m.path("encoded"))]).expect("base64");
        fs::write(m.path(file), decoded).expect("file");
    }
    Curl { machine: m }
}

#[test]
fn requests() {
    let m = Machine::ready();
    let curl = curl(&m);
    let maps = "/api/v1/namespaces/default/configmaps";
    let json = "application/json";
    let long = format!(r#"{{"metadata":{{"name":"a"}},"data":{{"a":"{}"}}}}"#, "x".repeat(4 << 20));
    let cases: &[(&str, &str, bool, Option<(&str, &[u8])>, u16, &str)] = &[
        ("GET", maps, false, None, 401, "Unauthorized"),
        ("GET", "/livez", false, None, 200, "ok"),
        ("GET", "/api/v1/nothing", true, None, 404, "the server could not find the requested resource"),
        ("GET", "/apis/none.example/v1/things", true, None, 404, "the server could not find the requested resource"),
        ("GET", "/api/v1/namespaces/default/configmaps/none", true, None, 404, r#"configmaps \"none\" not found"#),
        ("POST", maps, true, Some((json, b"{\"metadata\":")), 400, "BadRequest"),
        ("POST", maps, true, Some((json, b"[]")), 400, "BadRequest"),
        ("POST", maps, true, Some((json, b"{\"metadata\":{\"name\":\"a\"},\"data\":{\"a\":1}}")), 400, "data"),
        ("POST", maps, true, Some((json, b"{\"kind\":\"Secret\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"a\"}}")), 400, "Secret"),
        ("POST", maps, true, Some((json, b"{\"metadata\":{\"name\":\"UPPER\"}}")), 422, "metadata.name: Invalid value"),
        ("POST", maps, true, Some((json, b"{\"metadata\":{}}")), 422, "name or generateName is required"),
        ("POST", maps, true, Some(("text/plain", b"hello")), 415, "UnsupportedMediaType"),
        ("POST", maps, true, Some((json, long.as_bytes())), 413, "Request entity too large"),
        ("POST", "/api/v1/namespaces/none/configmaps", true, Some((json, b"{\"metadata\":{\"name\":\"a\"}}")), 404, r#"namespaces \"none\" not found"#),
        ("DELETE", "/api/v1/namespaces/default", true, None, 403, "this namespace may not be deleted"),
        ("PATCH", "/api/v1/namespaces/default", true, Some((json, b"{}")), 415, "application/strategic-merge-patch+json"),
        ("GET", "/api/v1/pods?labelSelector=a%20in", true, None, 400, "labelSelector"),
        ("GET", "/api/v1/pods?fieldSelector=spec.nothing%3Da", true, None, 400, "spec.nothing"),
        ("GET", "/api/v1/pods?limit=x", true, None, 400, "limit"),
        ("GET", "/api/v1/pods?watch=1&resourceVersion=x", true, None, 400, "resourceVersion"),
    ];
    for (method, path, credentials, body, code, message) in cases {
        let (got, answer) = curl.send(method, path, *credentials, *body);
        assert_eq!(got, *code, "{method} {path}: {answer}");
        assert!(answer.contains(message), "{method} {path}: {answer}");
    }
    let strict = format!("{maps}?fieldValidation=Strict");
    let (code, answer) = curl.send("POST", &strict, true, Some((json, br#"{"metadata":{"name":"a","colour":1},"dada":{}}"#)));
    assert_eq!(code, 400);
    assert!(answer.contains(r#"unknown field \"dada\""#) && answer.contains(r#"unknown field \"metadata.colour\""#), "{answer}");
    let (code, _) = curl.send("GET", "/readyz", true, None);
    assert_eq!(code, 200);
    assert_eq!(m.ok(&["get", "configmaps", "-o", "name"]).trim(), "configmap/kube-root-ca.crt");
}

#[test]
fn manifests() {
    let m = Machine::ready();
    let pod = |spec: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: bad}}\nspec: {spec}\n");
    let image = NAMES[0];
    let cases = [
        (pod("{containers: []}"), "spec.containers: Required value"),
        (pod(&format!("{{containers: [{{name: a, image: {image}}}, {{name: a, image: {image}}}]}}")), "spec.containers[1].name: Duplicate value: \"a\""),
        (pod(&format!("{{containers: [{{name: A_b, image: {image}}}]}}")), "spec.containers[0].name: Invalid value: \"A_b\""),
        (pod(&format!("{{restartPolicy: Sometimes, containers: [{{name: a, image: {image}}}]}}")), "spec.restartPolicy: Unsupported value: \"Sometimes\""),
        (pod(&format!("{{containers: [{{name: a, image: {image}, ports: [{{containerPort: 70000}}]}}]}}")), "must be between 1 and 65535"),
        (pod(&format!("{{containers: [{{name: a, image: {image}, volumeMounts: [{{name: none, mountPath: /x}}]}}]}}")), "spec.containers[0].volumeMounts[0].name: Not found: \"none\""),
        (pod(&format!("{{containers: [{{name: a, image: {image}, resources: {{limits: {{memory: lots}}}}}}]}}")), "quantities must match the regular expression"),
        (pod(&format!("{{containers: [{{name: a, image: {image}, replicas: 3}}]}}")), "unknown field \"spec.containers[0].replicas\""),
    ];
    for (manifest, expected) in cases {
        let message = m.with_file("create", &manifest).expect_err("refused");
        assert!(message.contains(expected), "{expected}: {message}");
    }
    m.apply(&pod(&format!("{{containers: [{{name: a, image: {image}, command: [sleep, \"3600\"]}}]}}"))).expect("a good pod");
    let change = m.apply(&pod(&format!("{{containers: [{{name: a, image: {image}, command: [sleep, \"1\"]}}]}}")));
    let message = change.expect_err("refused");
    assert!(message.contains("Forbidden: pod updates may not change fields other than"), "{message}");
    assert!(m.refused(&["create", "deployment", "bad", "--image=x", "--replicas=-1"]).contains("replicas"));
}

#[test]
fn broken_archives_are_named_and_do_not_stop_the_node() {
    let mut m = Machine::new();
    fs::write(m.path("data/agent/images/broken.tar"), b"this is no archive").expect("file");
    let whole = fs::read(m.path("data/agent/images/busybox.tar")).expect("archive");
    fs::write(m.path("data/agent/images/half.tar"), &whole[..whole.len() / 2]).expect("file");
    m.start(&[]);
    m.wait_node_ready();
    let log = fs::read_to_string(m.path("server.log")).expect("log");
    assert!(log.contains("broken.tar") && log.contains("half.tar"), "{log}");
    m.ok(&["run", "good", "--image", NAMES[0], "--restart=Never", "--", "true"]);
    m.wait("the good image runs", |m| {
        m.ok(&["get", "pod", "good", "-o", "jsonpath={.status.phase}"]) == "Succeeded"
    });
}

#[test]
fn flags_and_files() {
    let m = Machine::new();
    let binary = testkit::binary();
    let binary = binary.to_str().expect("path");
    let config = m.path("config.yaml");
    let run = |args: &[&str]| m.run(binary, args).expect_err("refused");
    fs::write(&config, "colour: green\n").expect("file");
    assert!(run(&["server", "--config", config.to_str().expect("path")]).contains("--colour"));
    fs::write(&config, "token: {a: b}\n").expect("file");
    let message = run(&["server", "--config", config.to_str().expect("path")]);
    assert!(message.contains("config.yaml") && message.contains("\"token\""), "{message}");
    assert!(run(&["server", "--cluster-cidr", "10.0.0/99"]).contains("--cluster-cidr"));
    assert!(run(&["server", "--write-kubeconfig-mode", "abc"]).contains("octal"));
    assert!(run(&["server", "--config", "/no/such/file"]).contains("/no/such/file"));
}
