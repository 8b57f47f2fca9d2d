//! Who may ask what of the supervisor, as one table, and whom certificates and claims name.

use http::Method;

use crate::server::{Caller, Denial, Endpoint, allowed, by_certificate, claim_of};

fn node(name: &str) -> Caller {
    Caller::Node(name.to_owned())
}

/// The answer to a caller who asks for `path` in the name of the node `a`.
fn code(caller: &Caller, method: &str, path: &str) -> u16 {
    let method: Method = method.parse().expect("method");
    let answer = Endpoint::of(&method, path).and_then(|e| allowed(caller, e, "a"));
    match answer {
        Ok(()) => 200,
        Err(Denial::Unauthorized) => 401,
        Err(Denial::Forbidden) => 403,
        Err(Denial::NotFound) => 404,
        Err(Denial::Method) => 405,
    }
}

#[test]
fn each_identity_may_do_its_part() {
    let callers = [
        ("anonymous", Caller::Anonymous),
        ("server", Caller::Server),
        ("agent", Caller::Agent),
        ("bootstrap", Caller::Bootstrapper),
        ("node-a", node("a")),
        ("node-b", node("b")),
        ("lapsed-a", Caller::Lapsed("a".into())),
        ("lapsed-b", Caller::Lapsed("b".into())),
        ("admin", Caller::Administrator),
        ("other", Caller::Other),
    ];
    let mut lines = include_str!("../cases/rights.txt").lines().filter(|l| !l.starts_with('#'));
    let header: Vec<&str> = lines.next().expect("header").split_whitespace().collect();
    let names: Vec<&str> = callers.iter().map(|(name, _)| *name).collect();
    assert_eq!(header, [&["METHOD", "PATH"], names.as_slice()].concat());
    let mut seen = 0;
    for line in lines.filter(|l| !l.trim().is_empty()) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        for ((name, caller), wanted) in callers.iter().zip(&fields[2..]) {
            let got = code(caller, fields[0], fields[1]).to_string();
            assert_eq!(&got, wanted, "{} {} as {name}", fields[0], fields[1]);
            seen += 1;
        }
    }
    assert!(seen >= 100, "the table is not read");
}

#[test]
fn certificates_name_callers() {
    let peer = |name: &str, groups: &[&str]| {
        by_certificate(&pki::PeerIdentity {
            common_name: name.to_owned(),
            organizations: groups.iter().map(|g| (*g).to_owned()).collect(),
        })
    };
    assert_eq!(peer("system:node:a", &["system:nodes"]), node("a"));
    assert_eq!(peer("system:node:a", &[]), Caller::Other);
    assert_eq!(peer("system:node:", &["system:nodes"]), Caller::Other);
    assert_eq!(peer("a", &["system:nodes"]), Caller::Other);
    assert_eq!(peer("system:admin", &["system:masters"]), Caller::Administrator);
}

#[test]
fn claims_are_read_strictly() {
    let password = "0123456789abcdef0123456789abcdef";
    let claim = |name: &str, password: &str, ips: &str| {
        claim_of(&[
            ("copepod-node-name", name),
            ("copepod-node-password", password),
            ("copepod-node-ip", ips),
        ])
    };
    let good = claim("board-1.shop", password, "10.0.0.5, fd00::5").expect("good");
    assert_eq!(good.ips.len(), 2);
    let serving = good.serving(60);
    assert_eq!(serving.subject.dns_names, ["board-1.shop", "localhost"]);
    let client = good.client(60);
    assert_eq!(client.subject.common_name, "system:node:board-1.shop");
    assert_eq!(client.subject.organization.as_deref(), Some("system:nodes"));
    let nine = ["10.0.0.1"; 9].join(",");
    for (name, password, ips, wanted) in [
        ("", password, "", "copepod-node-name: \"\" cannot name a node"),
        ("Board", password, "", "cannot name a node"),
        ("a/b", password, "", "cannot name a node"),
        ("a", "short", "", "copepod-node-password: expected 16 random bytes as hex"),
        ("a", "zz23456789abcdef0123456789abcdef", "", "as hex"),
        ("a", password, "10.0.0", "copepod-node-ip: \"10.0.0\" is no address"),
        ("a", password, nine.as_str(), "more than 8 addresses"),
    ] {
        let error = claim(name, password, ips).expect_err(name);
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn nobody_poses_as_the_server() {
    let server: Vec<String> =
        ["10.43.0.1", "127.0.0.1", "kubernetes", "localhost", "master"].map(String::from).to_vec();
    let password = "0123456789abcdef0123456789abcdef";
    let poses = |name: &str, ip: &str| {
        claim_of(&[
            ("copepod-node-name", name),
            ("copepod-node-password", password),
            ("copepod-node-ip", ip),
        ])
        .expect("claim")
        .poses_as(&server)
        .map(str::to_owned)
    };
    assert_eq!(poses("a", "10.0.0.5"), None);
    assert_eq!(poses("a", "127.0.0.1"), None);
    assert_eq!(poses("kubernetes", ""), Some("kubernetes".to_owned()));
    assert_eq!(poses("a", "10.43.0.1"), Some("10.43.0.1".to_owned()));
    assert_eq!(poses("master", ""), Some("master".to_owned()));
}
