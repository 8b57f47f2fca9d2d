//! `$(VAR)` references in commands, arguments and variables, as Kubernetes expands them.

/// Replaces `$(NAME)` by what `lookup` knows; an unknown name stays as written, `$$` is a literal dollar sign.
pub(crate) fn expand(input: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = tail.strip_prefix('(').and_then(|t| t.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
            rest = tail;
        }
    }
    out.push_str(rest);
    out
}

/// The names of the references in `input` that `known` does not have.
pub(crate) fn unknown(input: &str, known: impl Fn(&str) -> bool) -> Vec<String> {
    let missing = std::cell::RefCell::new(Vec::new());
    expand(input, |name| {
        if !known(name) {
            missing.borrow_mut().push(name.to_owned());
        }
        None
    });
    missing.into_inner()
}
