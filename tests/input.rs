//! Bad input gets the right code and a message that says what and where; nothing crashes, nothing is lost.

use std::fs;

use testkit::Machine;
use testkit::NAMES;

/// A request with the administrator's certificate by curl: status code and body.
struct Curl<'a> {
    machine: &'a Machine,
}

impl Curl<'_> {
    fn send(
        &self,
        method: &str,
        path: &str,
        credentials: bool,
        body: Option<(&str, &[u8])>,
    ) -> (u16, String) {
        let m = self.machine;
        let mut args = vec![
            "-sk".to_owned(),
            "-X".into(),
            method.into(),
            "-w".into(),
            "\n%{http_code}".into(),
        ];
        if credentials {
            args.extend([
                "--cert".into(),
                text(m.path("admin.crt")),
                "--key".into(),
                text(m.path("admin.key")),
            ]);
        }
        if let Some((content_type, bytes)) = body {
            fs::write(m.path("body"), bytes).expect("body");
            args.extend([
                "-H".into(),
                format!("Content-Type: {content_type}"),
                "-H".into(),
                "Expect:".into(),
            ]);
            args.extend(["--data-binary".into(), format!("@{}", text(m.path("body")))]);
        }
        args.push(format!("https://127.0.0.1:6443{path}"));
        let out =
            m.run("curl", &args.iter().map(String::as_str).collect::<Vec<_>>()).expect("curl");
        let (body, code) = out.rsplit_once('\n').expect("code");
        (code.parse().expect("number"), body.to_owned())
    }
}

fn text(path: std::path::PathBuf) -> String {
    path.into_os_string().into_string().expect("path in UTF-8")
}

fn curl(m: &Machine) -> Curl<'_> {
    for (field, file) in
        [("client-certificate-data", "admin.crt"), ("client-key-data", "admin.key")]
    {
        let path = format!("jsonpath={{.users[0].user.{field}}}");
        let data = m.ok(&["config", "view", "--raw", "-o", &path]);
        fs::write(m.path("encoded"), data).expect("file");
        let decoded = m.run("base64", &["-d", &text(m.path("encoded"))]).expect("base64");
        fs::write(m.path(file), decoded).expect("file");
    }
    Curl { machine: m }
}

/// Lines of a case file, comments left out.
fn cases(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[test]
fn requests() {
    let m = Machine::ready();
    let curl = curl(&m);
    let large =
        format!(r#"{{"metadata":{{"name":"a"}},"data":{{"a":"{}"}}}}"#, "x".repeat(4 << 20));
    for case in cases(include_str!("cases/requests.txt")) {
        let fields: Vec<&str> = case.split(" | ").collect();
        let [request, credentials, content_type, body, code, message] = fields[..] else {
            panic!("a case has six fields: {case}");
        };
        let (method, path) = request.split_once(' ').expect("method and path");
        let path = path.replace("MAPS", "/api/v1/namespaces/default/configmaps");
        let body = if body == "LARGE" { large.as_str() } else { body };
        let body = (content_type != "-").then_some((content_type, body.as_bytes()));
        let (got, answer) = curl.send(method, &path, credentials != "-", body);
        assert_eq!(got.to_string(), code, "{case}: {answer}");
        assert!(answer.contains(message), "{case}: {answer}");
    }
    let left = m.ok(&["get", "configmaps", "-o", "name"]);
    assert_eq!(left.trim(), "configmap/kube-root-ca.crt", "nothing refused was stored");
}

#[test]
fn manifests() {
    let m = Machine::ready();
    let pod = |spec: &str| {
        let spec = spec.replace("IMAGE", NAMES[0]);
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: bad}}\nspec: {spec}\n")
    };
    for case in cases(include_str!("cases/manifests.txt")) {
        let (spec, expected) = case.split_once(" => ").expect("two sides");
        let message = m.with_file("create", &pod(spec)).expect_err("refused");
        assert!(message.contains(expected), "{expected}: {message}");
    }
    let good = "{containers: [{name: a, image: IMAGE, command: [sleep, \"3600\"]}]}";
    m.apply(&pod(good)).expect("a good pod");
    let message = m.apply(&pod(&good.replace("3600", "1"))).expect_err("refused");
    assert!(
        message.contains("Forbidden: pod updates may not change fields other than"),
        "{message}"
    );
    let unknown = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: bad}\nspec: {}\n";
    let message = m.apply(unknown).expect_err("refused");
    assert!(
        message.starts_with("error: resource mapping not found for name: \"bad\""),
        "{message}"
    );
    assert!(message.contains("no matches for kind \"Job\" in version \"batch/v1\""), "{message}");
    let message = m.refused(&["create", "deployment", "bad", "--image=x", "--replicas=-1"]);
    assert!(message.contains("replicas"), "{message}");
}

#[test]
fn broken_archives_are_named_and_do_not_stop_the_node() {
    let mut m = Machine::bare();
    fs::write(m.path("data/agent/images/broken.tar"), b"this is no archive").expect("file");
    let whole = fs::read(m.path("data/agent/images/busybox.tar")).expect("archive");
    fs::write(m.path("data/agent/images/half.tar"), &whole[..whole.len() / 2]).expect("file");
    m.start(&[]);
    m.wait_node_ready();
    let log = m.log();
    assert!(log.contains("broken.tar") && log.contains("half.tar"), "{log}");
    m.ok(&["run", "good", "--image", NAMES[0], "--restart=Never", "--", "true"]);
    m.wait("the good image runs", |m| {
        m.ok(&["get", "pod", "good", "-o", "jsonpath={.status.phase}"]) == "Succeeded"
    });
}

#[test]
fn flags_and_files() {
    let m = Machine::bare();
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
