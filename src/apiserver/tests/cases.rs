//! Case files: requests in order, with what the answers must hold.
//!
//! A case file is a list of blocks between blank lines. A block is `METHOD PATH`, then optional lines `User: name groups...`,
//! `Type: media type`, `Accept: media type`, `Header: name: value`, then the body on lines without a key, then `= CODE`, and on the following lines
//! JSON that the answer must contain, or `! text` that its message must contain, or `~ text` for a warning. `$name` in a
//! path or body is what an earlier block saved by `Save: name /json/pointer`.

use super::support::{admin, json, request, server};
use crate::User;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

#[tokio::test]
async fn case_files() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let mut files: Vec<_> =
        std::fs::read_dir(dir).expect("cases").map(|e| e.expect("entry").path()).collect();
    files.sort();
    let mut failures = Vec::new();
    for file in &files {
        run(file, &mut failures).await;
    }
    assert!(files.len() >= 5, "case files are missing");
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

async fn run(file: &Path, failures: &mut Vec<String>) {
    let text = std::fs::read_to_string(file).expect("case file");
    let server = server().await;
    let mut saved: BTreeMap<String, String> = BTreeMap::new();
    for service_account in ["default", "kube-system"] {
        let path = format!("/api/v1/namespaces/{service_account}/serviceaccounts");
        server.handle(admin(), request("POST", &path, r#"{"metadata":{"name":"default"}}"#)).await;
    }
    for block in text.split("\n\n").map(str::trim).filter(|b| !b.is_empty()) {
        if block.lines().all(|l| l.starts_with('#')) {
            continue;
        }
        let block =
            saved.iter().rev().fold(block.to_owned(), |b, (k, v)| b.replace(&format!("${k}"), v));
        let case = Case::parse(&block);
        let response = server.handle(case.user.clone(), case.request()).await;
        let warnings: Vec<String> = response
            .headers()
            .get_all("warning")
            .iter()
            .map(|w| String::from_utf8_lossy(w.as_bytes()).into_owned())
            .collect();
        let (code, answer) = json(response).await;
        if let Err(why) = case.check(code, &answer, &warnings) {
            let file = file.file_name().unwrap_or_default().to_string_lossy();
            failures.push(format!(
                "{file}: {} {}: {why}\n  answer {code}: {answer}",
                case.method, case.path
            ));
        }
        for (name, pointer) in &case.save {
            let value =
                answer.pointer(pointer).map(|v| v.as_str().map_or(v.to_string(), str::to_owned));
            saved.insert(name.clone(), value.unwrap_or_default());
        }
    }
}

#[derive(Default)]
struct Case {
    method: String,
    path: String,
    user: User,
    content_type: String,
    accept: String,
    headers: Vec<(String, String)>,
    body: String,
    code: u16,
    expected: String,
    messages: Vec<String>,
    warnings: Vec<String>,
    save: Vec<(String, String)>,
}

impl Case {
    fn parse(block: &str) -> Self {
        let mut case = Self { user: admin(), ..Self::default() };
        let mut lines = block.lines().filter(|l| !l.starts_with('#'));
        let (method, path) = lines.next().and_then(|l| l.split_once(' ')).expect("METHOD PATH");
        (case.method, case.path) = (method.to_owned(), path.to_owned());
        let mut answering = false;
        for line in lines {
            if let Some(user) = line.strip_prefix("User: ") {
                let mut words = user.split(' ');
                let name = words.next().unwrap_or_default();
                case.user = User::component(name, &words.collect::<Vec<_>>());
            } else if let Some(kind) = line.strip_prefix("Type: ") {
                case.content_type = kind.to_owned();
            } else if let Some(kind) = line.strip_prefix("Accept: ") {
                case.accept = kind.to_owned();
            } else if let Some(header) = line.strip_prefix("Header: ") {
                let (name, value) = header.split_once(": ").expect("Header: name: value");
                case.headers.push((name.to_owned(), value.to_owned()));
            } else if let Some(save) = line.strip_prefix("Save: ") {
                let (name, pointer) = save.split_once(' ').expect("Save: name pointer");
                case.save.push((name.to_owned(), pointer.to_owned()));
            } else if let Some(code) = line.strip_prefix("= ") {
                case.code = code.trim().parse().expect("status code");
                answering = true;
            } else if let Some(text) = line.strip_prefix("! ") {
                case.messages.push(text.to_owned());
            } else if let Some(text) = line.strip_prefix("~ ") {
                case.warnings.push(text.to_owned());
            } else if answering {
                case.expected += line;
            } else {
                case.body += line;
            }
        }
        case
    }

    fn request(&self) -> http::Request<crate::Body> {
        let body = match self.body.strip_prefix("repeat ") {
            Some(count) => "x".repeat(count.parse().expect("count")),
            None => self.body.clone(),
        };
        let mut request = request(&self.method, &self.path, &body);
        for (name, value) in [("content-type", &self.content_type), ("accept", &self.accept)] {
            if !value.is_empty() {
                request.headers_mut().insert(name, value.parse().expect("header"));
            }
        }
        for (name, value) in &self.headers {
            let name = http::HeaderName::try_from(name).expect("header name");
            request.headers_mut().append(name, value.parse().expect("header"));
        }
        request
    }

    fn check(&self, code: u16, answer: &Value, warnings: &[String]) -> Result<(), String> {
        if code != self.code {
            return Err(format!("expected {}", self.code));
        }
        let message = answer["message"].as_str().unwrap_or_default();
        for wanted in &self.messages {
            if !message.contains(wanted.as_str()) {
                return Err(format!("message lacks {wanted:?}"));
            }
        }
        for wanted in &self.warnings {
            if !warnings.iter().any(|w| w.contains(wanted.as_str())) {
                return Err(format!("no warning {wanted:?} among {warnings:?}"));
            }
        }
        if self.expected.is_empty() {
            return Ok(());
        }
        let expected: Value = serde_json::from_str(&self.expected)
            .map_err(|e| format!("expectation is no JSON: {e}"))?;
        contains(answer, &expected, "")
    }
}

/// Whether `found` has all that `wanted` has; `"*"` is any value, `null` is absence. Lists must be of equal length.
fn contains(found: &Value, wanted: &Value, path: &str) -> Result<(), String> {
    match (found, wanted) {
        (Value::Null, Value::String(any)) if any == "*" => Err(format!("{path} is missing")),
        (_, Value::String(any)) if any == "*" => Ok(()),
        (Value::Object(found), Value::Object(wanted)) => {
            wanted.iter().try_for_each(|(key, value)| {
                contains(found.get(key).unwrap_or(&Value::Null), value, &format!("{path}/{key}"))
            })
        }
        (Value::Array(found), Value::Array(wanted)) if found.len() == wanted.len() => found
            .iter()
            .zip(wanted)
            .enumerate()
            .try_for_each(|(i, (f, w))| contains(f, w, &format!("{path}/{i}"))),
        (found, wanted) if found == wanted => Ok(()),
        (found, wanted) => Err(format!("{path} is {found}, expected {wanted}")),
    }
}
