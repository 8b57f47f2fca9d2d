//! Golden cases in text files. A file holds cases of the form
//!
//! ```text
//! === operation and its arguments
//! first input
//! ---
//! second input
//! ->
//! expected output
//! ```
//!
//! `UPDATE=1` rewrites the expected side.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

/// Runs every case of the files in `cases/` of the crate through `run(operation, inputs)`.
pub(crate) fn check(crate_dir: &str, run: impl Fn(&str, &[&str]) -> String) {
    let dir = PathBuf::from(crate_dir).join("cases");
    let mut files: Vec<PathBuf> = fs::read_dir(&dir)
        .expect("cases lie beside the sources")
        .flatten()
        .map(|e| e.path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no cases in {}", dir.display());
    let mut failures = String::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a case file is text");
        let mut rewritten = String::new();
        for case in text.split("=== ").skip(1) {
            let (title, rest) = case.split_once('\n').expect("a case has a title line");
            let (inputs, expected) = rest.split_once("->\n").unwrap_or((rest, ""));
            let parts: Vec<&str> =
                inputs.split("---\n").map(|part| part.trim_end_matches('\n')).collect();
            let actual = run(title, &parts);
            let (actual, expected) = (actual.trim_end(), expected.trim_end());
            if actual != expected {
                let _ = writeln!(
                    failures,
                    "{}: {title}\n{inputs}expected:\n{expected}\nactual:\n{actual}\n",
                    file.display()
                );
            }
            let _ = write!(rewritten, "=== {title}\n{inputs}->\n{actual}\n\n");
        }
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&file, rewritten.trim_end().to_owned() + "\n")
                .expect("case files can be rewritten");
        }
    }
    if std::env::var_os("UPDATE").is_none() {
        assert!(failures.is_empty(), "{failures}");
    }
}
