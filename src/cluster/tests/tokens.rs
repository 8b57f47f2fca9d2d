//! The cluster's tokens and bootstrap tokens.

use std::time::Duration;

use crate::bootstrap::{BootstrapRecord, NewBootstrapToken, secret};
use crate::server::{Holder, Tokens};

const NOW: i64 = 1_795_000_000;

fn read(path: &std::path::Path) -> String {
    std::fs::read_to_string(path).expect("token file").trim().to_owned()
}

#[test]
fn server_and_agent_tokens() {
    let folder = tempfile::tempdir().expect("folder");
    let tokens = Tokens::ensure(folder.path(), "pem", Some("one"), None).expect("tokens");
    assert_eq!(tokens.check("server", "one"), Some(Holder::Server));
    assert_eq!(tokens.check("node", "one"), Some(Holder::Agent));
    for (user, password) in [("admin", "one"), ("node", ""), ("server", "two"), ("", "")] {
        assert_eq!(tokens.check(user, password), None, "{user}");
    }
    assert!(read(&folder.path().join("agent-token")).ends_with("::node:one"));
    tokens.rotate("two").expect("rotated");
    assert_eq!(tokens.check("server", "one"), None);
    assert_eq!(tokens.check("node", "two"), Some(Holder::Agent));
    assert!(read(&folder.path().join("token")).ends_with("::server:two"));

    let tokens = Tokens::ensure(folder.path(), "pem", None, Some("agents")).expect("tokens");
    assert_eq!(tokens.check("server", "two"), Some(Holder::Server));
    assert_eq!(tokens.check("node", "agents"), Some(Holder::Agent));
    assert_eq!(tokens.check("node", "two"), None, "the server's token is not the agents'");
    assert_eq!(tokens.check("server", "agents"), None, "the agents' token is not the server's");
    assert!(!format!("{tokens:?}").contains("agents\""), "secrets are not printed");
}

#[test]
fn bootstrap_tokens_live_and_end() {
    let token = pki::BootstrapToken::parse("abcdef.0123456789abcdef").expect("token");
    let new = NewBootstrapToken {
        description: "for the shop".into(),
        ttl: Some(Duration::from_secs(60)),
        ..Default::default()
    };
    let made = secret(&new, &token, NOW).expect("secret");
    assert_eq!(made.metadata.name.as_deref(), Some("bootstrap-token-abcdef"));
    assert_eq!(made.type_.as_deref(), Some("bootstrap.kubernetes.io/token"));
    let record = BootstrapRecord::of(&made).expect("record");
    assert_eq!(record.usages, ["authentication", "signing"]);
    assert_eq!(record.groups, ["system:bootstrappers:copepod:default-node-token"]);
    assert_eq!(record.seconds_left(NOW), Some(60));
    assert!(record.admits(&token, NOW + 59) && !record.admits(&token, NOW + 60));
    // A clock that was never set cannot say that a token has expired.
    assert!(record.admits(&token, 0));
    let wrong = pki::BootstrapToken::parse("abcdef.0123456789abcdee").expect("token");
    assert!(!record.admits(&wrong, NOW));

    let signing = NewBootstrapToken { usages: vec!["signing".into()], ..Default::default() };
    let record = BootstrapRecord::of(&secret(&signing, &token, NOW).expect("secret"));
    let record = record.expect("record");
    assert!(record.expires.is_none() && !record.admits(&token, NOW));

    let mut renamed = made.clone();
    renamed.metadata.name = Some("bootstrap-token-zzzzzz".into());
    assert!(BootstrapRecord::of(&renamed).is_none(), "the name must be that of the id");
    let mut opaque = made;
    opaque.type_ = Some("Opaque".into());
    assert!(BootstrapRecord::of(&opaque).is_none());
}

#[test]
fn bootstrap_wishes_are_checked() {
    let token = pki::BootstrapToken::random().expect("token");
    let refused = |new: NewBootstrapToken| {
        secret(&new, &token, NOW).expect_err("must be refused").to_string()
    };
    let usages = NewBootstrapToken { usages: vec!["all".into()], ..Default::default() };
    assert!(refused(usages).starts_with("--usages: expected signing or authentication"));
    let groups = NewBootstrapToken { groups: vec!["system:masters".into()], ..Default::default() };
    assert!(refused(groups).starts_with("--groups: expected a group that begins with"));
    let ttl = NewBootstrapToken { ttl: Some(Duration::MAX), ..Default::default() };
    assert!(refused(ttl).starts_with("--ttl"));
}
