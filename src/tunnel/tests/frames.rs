//! Messages against golden bytes, and bytes that nobody meant.

use bytes::Bytes;
use proptest::prelude::*;

use crate::frame::{Body, Frame};
use crate::limits::{ADDRESS_MAX, ERROR_TEXT_MAX};

fn hex(text: &str) -> Bytes {
    let digits: String = text.split_whitespace().collect();
    let byte = |i: usize| u8::from_str_radix(&digits[i..i + 2], 16).expect("hex");
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn cases(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split_once(" = ").expect("a case has ' = '"))
}

#[test]
fn messages_are_what_peers_write() {
    for (bytes, said) in cases(include_str!("../cases/frames.txt")) {
        let (read_only, bytes) =
            bytes.strip_prefix('<').map_or((false, bytes), |rest| (true, rest));
        let bytes = hex(bytes);
        let frame = Frame::decode(bytes.clone()).expect(said);
        assert_eq!(format!("{} {} {:?}", frame.message, frame.stream, frame.body), said);
        if !read_only {
            assert_eq!(frame.encode(), bytes, "{said}");
        }
    }
}

#[test]
fn broken_messages_say_why() {
    for (bytes, why) in cases(include_str!("../cases/bad-frames.txt")) {
        let bad = Frame::decode(hex(bytes)).expect_err(why);
        assert_eq!(bad.to_string(), why, "{bytes}");
    }
}

#[test]
fn addresses_have_266_bytes_at_most() {
    let connect = |len: usize| {
        let address = "a".repeat(len - "tcp/".len());
        let body = Body::Connect { proto: "tcp".to_owned(), address };
        Frame { message: 1, stream: 2, body }
    };
    let longest = connect(ADDRESS_MAX);
    assert_eq!(Frame::decode(longest.encode()).expect("decoded"), longest);
    let longer = Frame::decode(connect(ADDRESS_MAX + 1).encode()).expect("decoded");
    assert_eq!(longer.body, Body::BadConnect("address is longer than 266 bytes"));
}

#[test]
fn texts_are_cut_between_characters() {
    let text = "ü".repeat(ERROR_TEXT_MAX);
    let frame = Frame { message: 1, stream: 2, body: Body::Error(Some(format!("a{text}"))) };
    let Body::Error(Some(cut)) = Frame::decode(frame.encode()).expect("decoded").body else {
        panic!("an error was written");
    };
    assert_eq!(cut, format!("a{}", "ü".repeat(49)));
}

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200).prop_map(|d| Body::Data(d.into())),
        ("[a-z]{1,8}", "[ -~]{0,200}")
            .prop_map(|(proto, address)| Body::Connect { proto, address }),
        proptest::option::of("[ -~]{0,100}")
            .prop_filter("EOF is the good end", |t| t.as_deref() != Some("EOF"))
            .prop_map(Body::Error),
        Just(Body::Pause),
        Just(Body::Resume),
        proptest::collection::vec(any::<i64>(), 0..20).prop_map(Body::Sync),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(message: i64, stream: i64, body in body()) {
        let frame = Frame { message, stream, body };
        prop_assert_eq!(Frame::decode(frame.encode()), Ok(frame));
    }

    #[test]
    fn any_bytes_are_a_message_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(frame) = Frame::decode(bytes.into()) {
            let again = Frame::decode(frame.encode());
            let known = !matches!(frame.body, Body::BadConnect(_));
            prop_assert!(!known || again.is_ok());
        }
    }
}
