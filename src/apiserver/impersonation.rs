//! Acting as somebody else: who may impersonate a user, his groups and the rest can be judged as him.

use crate::answer::Result;
use crate::authz::{Asked, Attributes};
use crate::{ApiServer, User, request};
use api::Status;
use http::{HeaderMap, HeaderName};
use std::borrow::Cow;

const PREFIX: &str = "impersonate-";
const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const ANONYMOUS: &str = "system:anonymous";
const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";

/// The user that a request counts for. The headers that name it go no further.
pub(crate) async fn effective<'a>(
    server: &ApiServer,
    user: &'a User,
    headers: &mut HeaderMap,
) -> Result<Cow<'a, User>> {
    let names: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with(PREFIX)).cloned().collect();
    if names.is_empty() {
        return Ok(Cow::Borrowed(user));
    }
    let wanted = wanted(headers, &names)?;
    for name in &names {
        headers.remove(name);
    }
    let Some(mut wanted) = wanted else { return Ok(Cow::Borrowed(user)) };
    for asked in rights(&wanted) {
        let asked = Attributes { verb: "impersonate", ..asked.attributes() };
        server.require(user, &Asked::Resource(asked)).await?;
    }
    add_groups(&mut wanted);
    Ok(Cow::Owned(wanted))
}

/// A thing that one must be allowed to impersonate.
struct Right<'a> {
    group: &'static str,
    plural: &'static str,
    subresource: &'a str,
    namespace: &'a str,
    name: &'a str,
}

impl Right<'_> {
    fn attributes(&self) -> Attributes<'_> {
        let Self { group, plural, subresource, namespace, name } = *self;
        Attributes { group, plural, subresource, namespace, name, ..Attributes::default() }
    }
}

fn rights(wanted: &User) -> Vec<Right<'_>> {
    const OF_USERS: &str = "authentication.k8s.io";
    let right = |group, plural, name| Right { group, plural, subresource: "", namespace: "", name };
    let mut rights = vec![match service_account(&wanted.name) {
        Some((namespace, name)) => Right { namespace, ..right("", "serviceaccounts", name) },
        None => right("", "users", wanted.name.as_str()),
    }];
    rights.extend(wanted.groups.iter().map(|group| right("", "groups", group.as_str())));
    rights.extend(wanted.uid.iter().map(|uid| right(OF_USERS, "uids", uid.as_str())));
    for (key, values) in &wanted.extra {
        rights.extend(values.iter().map(|value| Right {
            subresource: key.as_str(),
            ..right(OF_USERS, "userextras", value.as_str())
        }));
    }
    rights
}

fn wanted(headers: &HeaderMap, names: &[HeaderName]) -> Result<Option<User>> {
    let mut user = User {
        name: values(headers, USER)?.into_iter().next().unwrap_or_default(),
        groups: values(headers, GROUP)?,
        uid: values(headers, UID)?.into_iter().next(),
        ..User::default()
    };
    for name in names {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            let key = request::decode(key, false).unwrap_or_else(|| key.to_owned());
            user.extra.entry(key).or_default().extend(values(headers, name.as_str())?);
        }
    }
    if user.name.is_empty() {
        return match user.groups.is_empty() && user.uid.is_none() && user.extra.is_empty() {
            true => Ok(None),
            false => Err(Status::bad_request(
                "requested groups, uid or extra values without impersonating a user",
            )),
        };
    }
    Ok(Some(user))
}

/// The values of a header that are not empty.
fn values(headers: &HeaderMap, name: &str) -> Result<Vec<String>> {
    let text = |value: &http::HeaderValue| {
        std::str::from_utf8(value.as_bytes())
            .map(str::to_owned)
            .map_err(|_| Status::bad_request(format!("the header {name} is not valid text")))
    };
    let all: Vec<String> = headers.get_all(name).iter().map(text).collect::<Result<_>>()?;
    Ok(all.into_iter().filter(|value| !value.is_empty()).collect())
}

fn service_account(name: &str) -> Option<(&str, &str)> {
    let (namespace, name) = name.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// The groups that the user would have had after logging in.
fn add_groups(user: &mut User) {
    if let Some((namespace, _)) = service_account(&user.name)
        && user.groups.is_empty()
    {
        user.groups = vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
        ];
    }
    if !user.groups.iter().any(|group| matches!(group.as_str(), AUTHENTICATED | UNAUTHENTICATED)) {
        let group = if user.name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
        user.groups.push(group.to_owned());
    }
}
