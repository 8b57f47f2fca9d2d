//! List: whole or in pages, newest or at a revision, all or selected.

use super::{Context, store_error};
use crate::answer::{Answer, List, Result};
use crate::request::Query;
use crate::select::Selection;
use api::{FieldError, Resource, Status};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use serde_json::{Value, json};
use store::{Entry, ListOptions, Revision};

/// Entries read at a time while a selective list looks for enough matches.
const SCAN_PAGE: usize = 500;
pub(super) const MATCH: &str = "resourceVersionMatch";
const TOO_OLD: &str = "The provided continue parameter is too old to display a consistent list result. You must start a new list without the continue parameter.";

pub(super) async fn list(cx: &Context<'_>) -> Result<Answer> {
    let selection = Selection::from_query(cx.res, cx.query)?;
    let range = range(cx.res, &cx.target.namespace, &selection);
    let limit = number(cx.query, "limit")?.map_or(0, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let (after, at) = position(cx.query, cx.res)?;
    if let (None, Some(asked)) = (&after, asked_revision(cx.query)?)
        && asked > cx.server.config.store.revision()
    {
        let current = cx.server.config.store.revision();
        return Err(store_error(&store::Error::Future { requested: asked, current }));
    }
    let found = scan(cx, &range, &selection, after, at, limit).await?;
    Ok(Answer::List(found))
}

/// The refusal of parameters that contradict each other.
pub(super) fn invalid_options(error: FieldError) -> Status {
    Status::invalid_in("meta.k8s.io", "ListOptions", "", &[error])
}

/// Where to go on, and at which revision.
fn position(query: &Query, res: &Resource) -> Result<(Option<String>, Option<Revision>)> {
    let exact = match (query.get("resourceVersionMatch"), query.get("resourceVersion")) {
        (None | Some("NotOlderThan"), _) => None,
        (Some(_), None) => {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            return Err(invalid_options(FieldError::forbidden(MATCH, why)));
        }
        (Some("Exact"), Some("0")) => {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            return Err(invalid_options(FieldError::forbidden(MATCH, why)));
        }
        (Some("Exact"), Some(_)) => asked_revision(query)?,
        (Some(other), _) => {
            let supported = &["Exact", "NotOlderThan"];
            return Err(invalid_options(FieldError::not_supported(MATCH, other, supported)));
        }
    };
    match query.get("continue") {
        None => Ok((None, exact)),
        Some(_) if asked_revision(query)?.is_some_and(|v| v > 0) => Err(Status::bad_request(
            "specifying resource version is not allowed when using continue",
        )),
        Some(token) => {
            let (start, revision) = read_token(token)?;
            Ok((Some(res.key_prefix() + &start), Some(revision)))
        }
    }
}

/// The key range a request covers; an exact key where only one object can match.
pub(super) fn range(res: &Resource, namespace: &str, selection: &Selection) -> String {
    let namespace = match namespace {
        "" => selection.namespace().unwrap_or_default(),
        given => given,
    };
    match selection.name() {
        Some(name) if !name.contains('/') && (!res.namespaced || !namespace.is_empty()) => {
            res.key(namespace, name)
        }
        _ if namespace.is_empty() => res.key_prefix(),
        _ => format!("{}{namespace}/", res.key_prefix()),
    }
}

async fn scan(
    cx: &Context<'_>,
    range: &str,
    selection: &Selection,
    mut after: Option<String>,
    mut at: Option<Revision>,
    limit: usize,
) -> Result<List> {
    let mut list = List::default();
    let mut last: Option<Entry>;
    loop {
        let page_limit = if selection.is_everything() || limit == 0 { limit } else { SCAN_PAGE };
        let options = ListOptions { after: after.take(), limit: page_limit, at };
        let page = cx.server.config.store.list(range, options).await.map_err(|e| match e {
            store::Error::Compacted { .. } => Status::expired(TOO_OLD),
            other => store_error(&other),
        })?;
        list.revision = page.revision;
        at = Some(page.revision);
        last = page.entries.last().cloned();
        let mut rest = page.remaining;
        let total = page.entries.len();
        for (index, entry) in page.entries.into_iter().enumerate() {
            if selection.matches(cx.res, &entry.value) {
                list.items.push(entry.value.clone());
                if limit > 0 && list.items.len() == limit {
                    rest += (total - index - 1) as u64;
                    last = Some(entry);
                    break;
                }
            }
        }
        let full = limit > 0 && list.items.len() >= limit;
        if rest == 0 {
            return Ok(list);
        }
        let Some(entry) = last.as_ref() else { return Ok(list) };
        if full {
            let start = entry.key.strip_prefix(&cx.res.key_prefix()).unwrap_or_default();
            list.next = write_token(start, list.revision);
            list.remaining = selection.is_everything().then_some(rest);
            return Ok(list);
        }
        after = Some(entry.key.to_string());
    }
}

fn write_token(start: &str, revision: Revision) -> String {
    B64.encode(json!({"v": "meta.k8s.io/v1", "rv": revision, "start": start}).to_string())
}

fn read_token(token: &str) -> Result<(String, Revision)> {
    let broken = |why: &str| Status::bad_request(format!("continue key is not valid: {why}"));
    let bytes = B64.decode(token).map_err(|_| broken("it is not base64"))?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|_| broken("it is not JSON"))?;
    match (value["v"].as_str(), value["start"].as_str(), value["rv"].as_u64()) {
        (Some("meta.k8s.io/v1"), Some(start), Some(revision)) if !start.is_empty() => {
            Ok((start.to_owned(), revision))
        }
        _ => Err(broken("it was not made by this server")),
    }
}

/// `resourceVersion` as a number; `None` if absent.
pub(super) fn asked_revision(query: &Query) -> Result<Option<Revision>> {
    query
        .get("resourceVersion")
        .map(|text| {
            text.parse().map_err(|_| {
                Status::bad_request(format!(
                    "resourceVersion: Invalid value: {text:?}: it is not a revision"
                ))
            })
        })
        .transpose()
}

pub(super) fn number(query: &Query, key: &str) -> Result<Option<u64>> {
    query
        .get(key)
        .map(|text| {
            text.parse().map_err(|_| {
                Status::bad_request(format!(
                    "{key}: Invalid value: {text:?}: must be a number of at least 0"
                ))
            })
        })
        .transpose()
}
