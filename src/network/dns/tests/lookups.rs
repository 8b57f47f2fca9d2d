//! The lookup against golden cases: a question per block, its answer indented below.

use std::fmt::Write as _;
use std::path::Path;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::{empty_index, full_index, query};
use crate::dns::answer::{Answer, answer};

fn render(found: Option<Answer>) -> String {
    let Some(found) = found else { return "  not ours\n".to_owned() };
    let mut text = format!("  {:?}\n", found.code);
    for (section, records) in
        [("", found.answers), ("authority ", found.authorities), ("additional ", found.additionals)]
    {
        for record in records {
            writeln!(text, "  {section}{record}").unwrap();
        }
    }
    if let Some(next) = found.next {
        writeln!(text, "  next {next}").unwrap();
    }
    text
}

#[test]
fn answers_are_as_written() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("dns/cases/lookups.txt");
    let expected = std::fs::read_to_string(&path).unwrap();
    let index = full_index();
    let mut actual = String::new();
    for line in expected.lines().filter(|line| !line.starts_with(' ')) {
        let (name, kind) = line.split_once(' ').unwrap();
        let found = answer(&index, &query(name, kind.parse().unwrap()));
        write!(actual, "{line}\n{}", render(found)).unwrap();
    }
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, actual).unwrap();
    } else {
        assert_eq!(actual, expected);
    }
}

#[test]
fn fails_rather_than_denies_before_the_caches_are_filled() {
    let mut index = empty_index();
    let question = query("web.shop.svc.cluster.local.", RecordType::A);
    assert_eq!(answer(&index, &question).unwrap().code, ResponseCode::ServFail);
    index.reset_services(super::cluster().services);
    assert_eq!(answer(&index, &question).unwrap().answers.len(), 1, "what is known is said");
    let backend = query("db-0.db.shop.svc.cluster.local.", RecordType::A);
    assert_eq!(answer(&index, &backend).unwrap().code, ResponseCode::ServFail);
    index.reset_slices(super::cluster().slices);
    assert_eq!(answer(&index, &backend).unwrap().answers.len(), 1);
}

#[test]
fn rotation_lets_each_address_come_first() {
    let index = full_index();
    let first = |turn| {
        let mut found =
            answer(&index, &query("db.shop.svc.cluster.local.", RecordType::A)).unwrap();
        found.rotate(turn);
        found.answers[0].data.to_string()
    };
    assert_eq!([first(0), first(1), first(2)], ["10.42.0.20", "10.42.0.22", "10.42.0.20"]);
}
