//! The configuration file: K3s' way, a mapping of flag names to values that stands before the command line's own flags.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

pub(crate) const DEFAULT_FILE: &str = "/etc/copepod/config.yaml";

/// The largest configuration file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Puts the flags of the configuration file and of its drop-in folder (`config.yaml.d/*.yaml`, by name) before those of the
/// command line, so that the command line wins. A missing default file is no error, a missing named one is.
pub(crate) fn with_file(
    args: Vec<OsString>,
    environment: Option<OsString>,
) -> Result<Vec<OsString>> {
    let Some(position) = args.iter().position(|a| a == "server" || a == "agent") else {
        return Ok(args);
    };
    let named = named_file(&args).or(environment).map(PathBuf::from);
    let file = named.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
    let mut flags = Vec::new();
    if named.is_some() || file.exists() {
        flags.extend(read_flags(&file)?);
    }
    for drop_in in drop_ins(&file)? {
        flags.extend(read_flags(&drop_in)?);
    }
    let (before, after) = args.split_at(position + 1);
    Ok([before, &flags, after].concat())
}

fn named_file(args: &[OsString]) -> Option<OsString> {
    let mut found = None;
    for (i, arg) in args.iter().enumerate() {
        let text = arg.to_string_lossy();
        if text == "--config" || text == "-c" {
            found = args.get(i + 1).cloned();
        } else if let Some(path) = text.strip_prefix("--config=") {
            found = Some(path.into());
        }
    }
    found
}

fn drop_ins(file: &Path) -> Result<Vec<PathBuf>> {
    let mut folder = file.as_os_str().to_owned();
    folder.push(".d");
    let folder = PathBuf::from(folder);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(&folder)
        .with_context(|| format!("reading folder {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "yaml" || e == "yml"))
        .collect();
    files.sort();
    Ok(files)
}

fn read_flags(file: &Path) -> Result<Vec<OsString>> {
    let size = std::fs::metadata(file)
        .with_context(|| format!("reading configuration file {}", file.display()))?
        .len();
    if size > FILE_BYTES_MAX {
        bail!("configuration file {} has {size} bytes, more than {FILE_BYTES_MAX}", file.display());
    }
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("reading configuration file {}", file.display()))?;
    flags(&text).with_context(|| format!("in configuration file {}", file.display()))
}

fn flags(text: &str) -> Result<Vec<OsString>> {
    if text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
        return Ok(Vec::new());
    }
    let values: serde_json::Map<String, Value> =
        serde_saphyr::from_str(text).context("expected a mapping of flag names to values")?;
    let mut flags = Vec::new();
    for (key, value) in &values {
        let items = match value {
            Value::Array(items) => items.as_slice(),
            other => std::slice::from_ref(other),
        };
        for item in items {
            flags.extend(flag(key.trim_end_matches('+'), item)?);
        }
    }
    Ok(flags)
}

fn flag(key: &str, value: &Value) -> Result<Option<OsString>> {
    Ok(match value {
        Value::Bool(true) => Some(format!("--{key}").into()),
        Value::Bool(false) | Value::Null => None,
        Value::String(text) => Some(format!("--{key}={text}").into()),
        Value::Number(number) => Some(format!("--{key}={number}").into()),
        Value::Array(_) | Value::Object(_) => {
            bail!("key {key:?}: expected a string, number, boolean or a list of them")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let got: Vec<String> =
            flags(text).unwrap().iter().map(|f| f.to_string_lossy().into_owned()).collect();
        assert_eq!(got, expected, "{text}");
    }

    #[test]
    fn yaml_becomes_flags() {
        check("", &[]);
        check("# nothing\n", &[]);
        check("token: abc\n", &["--token=abc"]);
        check("disable-agent: true\ndebug: false\n", &["--disable-agent"]);
        check("https-listen-port: 7443\n", &["--https-listen-port=7443"]);
        check(
            "tls-san:\n- a.example\n- 10.0.0.1\n",
            &["--tls-san=a.example", "--tls-san=10.0.0.1"],
        );
        check("node-label+:\n- a=b\n", &["--node-label=a=b"]);
    }

    #[test]
    fn mistakes_name_the_key() {
        let error = format!("{:#}", flags("token:\n  a: 1\n").unwrap_err());
        assert!(error.contains("\"token\""), "{error}");
        assert!(flags("- a\n").is_err());
    }

    #[test]
    fn command_line_wins_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, "node-name: one\n").unwrap();
        std::fs::create_dir(folder.path().join("config.yaml.d")).unwrap();
        std::fs::write(folder.path().join("config.yaml.d/10.yaml"), "node-name: two\n").unwrap();
        let args =
            ["copepod", "server", "--config", file.to_str().unwrap(), "--node-name", "three"];
        let got = with_file(args.iter().map(OsString::from).collect(), None).unwrap();
        let got: Vec<_> = got.iter().map(|a| a.to_str().unwrap()).collect();
        let config = file.to_str().unwrap();
        let expected = [
            "copepod",
            "server",
            "--node-name=one",
            "--node-name=two",
            "--config",
            config,
            "--node-name",
            "three",
        ];
        assert_eq!(got, expected);
    }
}
