//! Role-based access control: the rules that Roles and ClusterRoles hold and bindings give to users.
//!
//! [`Policy`] is the view of all four kinds in memory; `rule.rs` decides what one rule allows; `escalation.rs` keeps
//! users from granting what they do not hold; `bootstrap.rs` brings the roles every cluster has; `aggregate.rs` fills
//! in roles that are made of others.

mod aggregate;
mod bootstrap;
mod escalation;
mod policy;
mod rule;

pub(crate) use aggregate::run as aggregate;
use aggregate::settle;
pub(crate) use bootstrap::{reconcile, rules_of_role};
pub(crate) use escalation::check as check_escalation;
pub(crate) use policy::{Found, Policy};
pub(crate) use rule::Rule;

pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";
/// All keys of the four kinds begin with it.
pub(crate) const RANGE: &str = "/registry/rbac.authorization.k8s.io/";
