//! What a node's own user may do: the node authorizer decides before the roles, from the pods bound to the node; the
//! restriction looks at the objects a node writes. Both as upstream's Node authorizer and NodeRestriction, with one
//! difference: nodes read all Nodes, because each of them lays the overlay to the others.

mod authorizer;
mod pods;
mod restriction;

pub(crate) use authorizer::{Opinion, authorize};
pub(crate) use pods::{Pods, RANGE};
pub(crate) use restriction::{check, check_delete, check_token};

use crate::User;

const USER_PREFIX: &str = "system:node:";

/// The node a user is, if it is one.
pub(crate) fn node_of(user: &User) -> Option<&str> {
    let member = user.groups.iter().any(|g| g == "system:nodes");
    user.name.strip_prefix(USER_PREFIX).filter(|name| member && !name.is_empty())
}
