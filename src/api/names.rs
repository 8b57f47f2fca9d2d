//! Checks of names, labels, keys and ports. Each returns the problems with upstream's texts; none means valid.

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;
const PORT_NAME_MAX: usize = 15;
const CONFIG_KEY_MAX: usize = 253;

const LABEL_TEXT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035_TEXT: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_TEXT: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE_TEXT: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY_TEXT: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const ENV_TEXT: &str = "a valid environment variable name must consist only of printable ASCII characters other than '='";

pub fn too_long(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn edges_and_middle(text: &str, edge: impl Fn(u8) -> bool, middle: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => {
            edge(first) && edge(last) && bytes.iter().all(|&b| edge(b) || middle(b))
        }
        _ => false,
    }
}

fn lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    edges_and_middle(text, lower_alnum, |b| b == b'-')
}

fn is_qualified_part(text: &str) -> bool {
    edges_and_middle(text, |b| b.is_ascii_alphanumeric(), |b| matches!(b, b'-' | b'_' | b'.'))
}

fn checked(text: &str, max: usize, valid: bool, message: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > max {
        problems.push(too_long(max));
    }
    if !valid {
        problems.push(message.to_owned());
    }
    problems
}

pub fn dns1123_label(text: &str) -> Vec<String> {
    checked(text, LABEL_MAX, is_label(text), LABEL_TEXT)
}

pub fn dns1123_subdomain(text: &str) -> Vec<String> {
    checked(text, SUBDOMAIN_MAX, text.split('.').all(is_label), SUBDOMAIN_TEXT)
}

pub fn dns1035_label(text: &str) -> Vec<String> {
    let valid = is_label(text) && text.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
    checked(text, LABEL_MAX, valid, LABEL_1035_TEXT)
}

/// Label keys, taint keys, resource names: an optional DNS prefix and a name.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut parts = text.split('/');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => name,
        (Some(prefix), Some(name), None) => {
            match prefix {
                "" => problems.push("prefix part must be non-empty".to_owned()),
                prefix => problems.extend(
                    dns1123_subdomain(prefix).into_iter().map(|p| format!("prefix part {p}")),
                ),
            }
            name
        }
        _ => {
            let tail = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a qualified name {QUALIFIED_TEXT} {tail}")];
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        problems.push(format!("name part {}", too_long(LABEL_MAX)));
    }
    if !is_qualified_part(name) {
        problems.push(format!("name part {QUALIFIED_TEXT}"));
    }
    problems
}

pub fn label_value(text: &str) -> Vec<String> {
    checked(text, LABEL_MAX, text.is_empty() || is_qualified_part(text), LABEL_VALUE_TEXT)
}

/// Keys of ConfigMaps and Secrets: they become file names.
pub fn config_key(text: &str) -> Vec<String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let valid = !text.is_empty() && text.bytes().all(allowed);
    let mut problems = checked(text, CONFIG_KEY_MAX, valid, CONFIG_KEY_TEXT);
    problems.extend(dot_names(text));
    problems
}

pub fn env_name(text: &str) -> Vec<String> {
    let valid = !text.is_empty() && text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=');
    checked(text, usize::MAX, valid, ENV_TEXT)
}

fn dot_names(text: &str) -> Option<String> {
    match text {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        text if text.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

pub fn port_name(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > PORT_NAME_MAX {
        problems.push(too_long(PORT_NAME_MAX));
    }
    if text.is_empty() || !text.bytes().all(|b| lower_alnum(b) || b == b'-') {
        problems.push(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned(),
        );
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        problems.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        problems.push("must not begin or end with a hyphen".to_owned());
    }
    problems
}

pub fn port_number(port: i64) -> Vec<String> {
    in_range(port, 1, 65535)
}

pub fn in_range(value: i64, low: i64, high: i64) -> Vec<String> {
    match (low..=high).contains(&value) {
        true => Vec::new(),
        false => vec![format!("must be between {low} and {high}, inclusive")],
    }
}

/// Names that appear as one segment of a URL path.
pub fn path_segment(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if matches!(text, "." | "..") {
        return vec![format!("may not be '{text}'")];
    }
    for illegal in ['/', '%'] {
        if text.contains(illegal) {
            problems.push(format!("may not contain '{illegal}'"));
        }
    }
    problems
}
