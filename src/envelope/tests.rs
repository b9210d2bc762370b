use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::*;

#[derive(Serialize, Deserialize, Debug, PartialEq, Clone)]
struct Item {
    sku: String,
    qty: u64,
}

#[derive(Serialize, Deserialize, Debug, PartialEq, Clone)]
enum Pay {
    Cash,
    Card(String),
    Split { first: u32, second: u32 },
}

#[derive(Serialize, Deserialize, Debug, PartialEq, Clone)]
struct Order {
    id: u64,
    items: Vec<Item>,
    note: Option<String>,
    pay: Pay,
    #[serde(default)]
    tags: BTreeMap<String, i64>,
    from: std::net::IpAddr,
    #[serde(default)]
    raw: Vec<u8>,
}

fn encoded<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    encode_body(value, &mut out).unwrap();
    out
}

fn order() -> Order {
    Order {
        id: 7,
        items: vec![Item { sku: "a".into(), qty: 3 }],
        note: None,
        pay: Pay::Split { first: 1, second: 2 },
        tags: BTreeMap::from([("x".into(), -1)]),
        from: [127, 0, 0, 1].into(),
        raw: vec![1, 200],
    }
}

fn text() -> impl Strategy<Value = Option<Box<str>>> {
    proptest::option::of("\\PC{0,40}".prop_map(String::into_boxed_str))
}

prop_compose! {
    fn rare()(tp in text(), ts in text(), k in text(), ik in text(), ct in text(), ob in text(), sj in text(), ps in any::<Option<u64>>(), cr in any::<Option<u32>>()) -> Rare {
        Rare { tp, ts, k, ik, ct, ob, sj, ps, cr }
    }
}

prop_compose! {
    fn header()(
        kind in 0u64..16, id in prop_oneof![0u64..300, any::<u64>()],
        dl in proptest::option::of(0u64..=u64::from(u32::MAX)), sq in any::<Option<u64>>(), at in any::<Option<u32>>(),
        cv in any::<Option<u32>>(), rs in proptest::option::of((0u64..3).prop_map(Verdict::from_number)),
        rare in proptest::option::of(rare()),
    ) -> Header {
        let rare = rare.filter(|rare| *rare != Rare::default()).map(Box::new);
        Header { version: 1, kind: Kind::from_number(kind).unwrap(), id, fields: Fields { dl, sq, at, cv, rs, rare } }
    }
}

proptest! {
    #[test]
    fn header_comes_back(header in header()) {
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        prop_assert_eq!(Header::decode(&bytes).unwrap(), header.clone());
        check(&bytes, Limits::default()).unwrap();

        // Every truncation is a typed error, and one byte more as well.
        for cut in 0..bytes.len() {
            let error = Header::decode(&bytes[..cut]).unwrap_err();
            prop_assert_eq!(error.code().number(), 310, "{}", error);
        }
        bytes.push(0);
        prop_assert_eq!(Header::decode(&bytes).unwrap_err().reason, DecodeReason::Trailing(1));
        bytes.pop();

        // A stamp changes the deadline and nothing else.
        let stamped = Header::stamp_deadline(&mut bytes, 99);
        prop_assert_eq!(stamped, header.fields.dl.is_some());
        let mut expected = header;
        expected.fields.dl = expected.fields.dl.map(|_| 99);
        prop_assert_eq!(Header::decode(&bytes).unwrap(), expected);
    }

    #[test]
    fn header_with_a_flipped_byte_never_panics(header in header(), at: prop::sample::Index, to: u8) {
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        *at.get_mut(&mut bytes[..]) = to;
        let _ = Header::decode(&bytes);
        Header::stamp_deadline(&mut bytes, 1);
    }

    #[test]
    fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Header::decode(&bytes);
        let _ = decode_body::<Order>(&bytes);
        let _ = decode_body::<serde_json::Value>(&bytes);
        let _ = decode_body::<HelloBody>(&bytes);
        Header::stamp_deadline(&mut bytes, 1);
        let message = crate::Message::from(bytes);
        let _ = Parts::read(&message, 0);
    }

    #[test]
    fn what_the_check_lets_through_is_messagepack(bytes in proptest::collection::vec(any::<u8>(), 1..60)) {
        // serde agrees with the check about where a value ends, unless its text isn't UTF-8 or it holds an extension.
        if check(&bytes, Limits::default()).is_ok() {
            let mut rest = &bytes[..];
            let skipped = rmp_serde::from_read::<_, serde::de::IgnoredAny>(&mut rest);
            prop_assert!(skipped.is_err() || rest.is_empty());
        }
    }

    #[test]
    fn body_cut_anywhere_is_a_typed_error(qty: u64, sku in "\\PC{0,20}", note in proptest::option::of("\\PC{0,300}")) {
        let order = Order { items: vec![Item { sku, qty }, Item { sku: "b".into(), qty: 1 }], note, ..order() };
        let bytes = encoded(&order);
        prop_assert_eq!(decode_body::<Order>(&bytes).unwrap(), order);
        for cut in 0..bytes.len() {
            let error = decode_body::<Order>(&bytes[..cut]).unwrap_err();
            prop_assert_eq!(error.code().number(), 310, "{}", error);
        }
    }

    #[test]
    fn patterns_agree_with_a_plain_model(
        pattern in "[ab*>.]{1,7}", subject in "[ab.]{1,7}",
    ) {
        let Ok(parsed) = Pattern::parse(&pattern) else {
            let bad = pattern.split('.').enumerate().any(|(i, token)| {
                token.is_empty()
                    || token.len() > 1 && token.contains(['*', '>'])
                    || token == ">" && i + 1 < pattern.split('.').count()
            });
            prop_assert!(bad, "{} was refused", pattern);
            return Ok(());
        };
        let legal = check_subject(&subject).is_ok();
        prop_assert_eq!(legal, subject.split('.').all(|token| !token.is_empty()));
        if legal {
            let (want, have): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), subject.split('.').collect());
            let rest = want.last() == Some(&">");
            let fixed = want.len() - usize::from(rest);
            let expected = if rest { have.len() > fixed } else { have.len() == fixed }
                && want.iter().zip(&have).take(fixed).all(|(want, have)| *want == "*" || want == have);
            prop_assert_eq!(parsed.matches(&subject), expected);
            prop_assert!(!expected || subject.starts_with(parsed.prefix()));
        }
    }
}

#[test]
fn errors_name_the_path() {
    #[derive(Deserialize, Debug)]
    #[allow(dead_code)]
    struct Cart {
        items: Vec<Item>,
    }
    let cart = |bad: serde_json::Value| {
        let good = serde_json::json!({"sku": "a", "qty": 1});
        decode_body::<Cart>(&encoded(&serde_json::json!({"items": [good, good, good, bad]})))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(cart(serde_json::json!({"sku": "a"})), "items[3].qty: missing field `qty`");
    let wrong = cart(serde_json::json!({"sku": "a", "qty": "three"}));
    assert_eq!(wrong, "items[3].qty: a string, where another type belongs");
    let negative = cart(serde_json::json!({"sku": "a", "qty": -1}));
    assert_eq!(negative, "items[3].qty: invalid value: integer `-1`, expected u64");
    let null = cart(serde_json::Value::Null);
    assert!(null.starts_with("items[3]: invalid type: "), "{null}");
    let whole = decode_body::<Cart>(&[3]).unwrap_err();
    assert_eq!((whole.path.as_str(), whole.code().number()), ("", 312));
    let kind = decode_body::<Vec<Pay>>(&encoded(&["Cash", "Cheque"])).unwrap_err();
    assert!(kind.to_string().starts_with("[1]: unknown variant `Cheque`"), "{kind}");
}

#[test]
fn header_errors_name_the_path() {
    for (bytes, expected) in [
        (&b""[..], "header: empty, where a value belongs (at byte 0)"),
        (b"\x00", "header: expected an array (at byte 0)"),
        (
            b"\x93\x01\x00\x00",
            "header: expected an array of 4 or more: version, kind, id, fields (at byte 1)",
        ),
        (
            b"\x94\x02\x00\x00\x80",
            "header.version: header version 2; this release speaks version 1 (at byte 2)",
        ),
        (b"\x94\x01\x10\x00\x80", "header.kind: unknown kind 16 (at byte 3)"),
        (b"\x94\x01\x00\xff\x80", "header.id: expected an integer of 0 or more (at byte 3)"),
        (b"\x94\x01\x00\xd0\xff\x80", "header.id: expected an integer of 0 or more (at byte 3)"),
        (b"\x94\x01\x00\x00\x90", "header.fields: expected a map (at byte 4)"),
        (
            b"\x94\x01\x00\x00\x81\xa2dl\xa1x",
            "header.fields.dl: expected an integer of 0 or more (at byte 8)",
        ),
        (b"\x94\x01\x00\x00\x81\xa1k\xa1\xff", "header.fields.k: text that is not UTF-8 (at byte 9)"),
        (b"\x94\x01\x00\x00\x80\x00", "header: 1 bytes too many behind the value (at byte 5)"),
        (
            b"\x94\x01\x00\x00\xdf\xff\xff\xff\xff",
            "header.fields: claims 4294967295 entries or bytes with only 0 bytes left (at byte 9)",
        ),
    ] {
        assert_eq!(Header::decode(bytes).unwrap_err().to_string(), expected);
    }
    let long = Header::decode(&vec![0x94; MAX_HEADER + 1]).unwrap_err();
    assert_eq!(long.code().number(), 311);
}

#[test]
fn header_takes_what_other_encoders_write() {
    // Wide integers, a key that is not text, nil for "not set", a repeated key, unknown fields and elements.
    let bytes = b"\xdc\x00\x06\xcc\x01\xd0\x04\xcf\0\0\0\0\0\0\0\x09\xde\x00\x05\x07\x92\x01\x02\xa2dl\xc0\xa1k\xa1a\xa1k\xd9\x01b\xa2zz\x81\x01\x02\xc4\x01\xff\xc3";
    let header = Header::decode(bytes).unwrap();
    assert_eq!((header.kind, header.id, header.fields.dl), (Kind::Work, 9, None));
    assert_eq!(header.fields.rare().unwrap().k.as_deref(), Some("b"));
    // A deadline of more milliseconds than we write.
    let bytes = b"\x94\x01\x00\x00\x81\xa2dl\xcf\0\0\0\x01\0\0\0\0";
    assert_eq!(Header::decode(bytes).unwrap().fields.dl, Some(u64::from(u32::MAX)));
}

#[test]
fn nesting_is_bounded() {
    for marker in [0x91, 0x81] {
        let step = if marker == 0x81 { &[0x81, 0x00][..] } else { &[0x91][..] };
        let mut deep = step.repeat(100_000);
        deep.push(0xc0);
        let error = decode_body::<serde_json::Value>(&deep).unwrap_err();
        assert_eq!(error.reason, DecodeReason::TooDeep { limit: 64 });
        let mut header = b"\x95\x01\x00\x00\x80".to_vec();
        header.extend(step.repeat(30_000));
        assert_eq!(Header::decode(&header).unwrap_err().code().number(), 311);
    }
    let nested = |levels: usize| [vec![0x91; levels], vec![0xc0]].concat();
    assert!(decode_body::<serde_json::Value>(&nested(64)).is_ok());
    assert!(decode_body::<serde_json::Value>(&nested(65)).is_err());
}

#[test]
fn a_sender_may_nest_as_deep_as_a_receiver_takes() {
    let mut value = serde_json::Value::Null;
    for _ in 0..64 {
        value = serde_json::json!([value]);
    }
    let bytes = encoded(&value);
    assert_eq!(decode_body::<serde_json::Value>(&bytes).unwrap(), value);
    let mut out = vec![1, 2];
    let error = encode_body(&serde_json::json!([value]), &mut out).unwrap_err();
    assert_eq!((error, out), (EncodeError::TooDeep { limit: 64 }, vec![1, 2]));
}

#[test]
fn elements_are_bounded() {
    let limits = Limits { elements: 3, ..Limits::default() };
    assert!(check(&[0x92, 1, 2], limits).is_ok());
    assert_eq!(check(&[0x93, 1, 2, 3], limits).unwrap_err().reason, DecodeReason::TooMany { limit: 3 });
}

#[test]
fn what_is_odd_but_legal() {
    // Byte strings for a list of numbers, structs as arrays, unknown fields, missing optional ones.
    assert_eq!(decode_body::<Vec<u8>>(b"\xc4\x02\x01\xc8").unwrap(), [1, 200]);
    assert_eq!(decode_body::<Item>(b"\x92\xa1a\x03").unwrap(), Item { sku: "a".into(), qty: 3 });
    let order: Order = decode_body(&encoded(&serde_json::json!({
        "id": 1, "items": [], "pay": {"Card": "4711"}, "from": "::1", "unknown": [1, {"a": null}]
    })))
    .unwrap();
    assert_eq!((order.note, order.pay), (None, Pay::Card("4711".into())));
    assert_eq!(encoded(&Pay::Cash), b"\xa4Cash");
    // An error body from a later release, with a verdict and a field that this one doesn't know.
    let error: ErrorBody =
        decode_body(&encoded(&serde_json::json!({"message": "no", "retry": "tomorrow", "mood": 1}))).unwrap();
    assert_eq!(error.retry, Some(Verdict::Never));
}

#[test]
fn subjects() {
    use SubjectProblem as P;
    for (subject, expected) in [
        ("pricing.quote", None),
        ("emails", None),
        ("caffè.über-1_x", None),
        ("", Some(P::Empty)),
        (".a", Some(P::EmptyToken)),
        ("a.", Some(P::EmptyToken)),
        ("a..b", Some(P::EmptyToken)),
        ("a.*", Some(P::Wildcard)),
        ("a>", Some(P::Wildcard)),
        ("a b", Some(P::Blank)),
        ("a\t", Some(P::Blank)),
        ("a\u{2003}b", Some(P::Blank)),
        ("a\u{85}", Some(P::Blank)),
        ("$node.ping", Some(P::Reserved)),
    ] {
        assert_eq!(check_subject(subject).err().map(|error| error.problem), expected, "{subject:?}");
    }
    assert!(check_wire_subject("$node.ping").is_ok());
    assert_eq!(check_subject(&"a".repeat(256)).unwrap_err().problem, P::TooLong);
}

#[test]
fn patterns() {
    for (pattern, yes, no) in [
        ("orders.created", &["orders.created"][..], &["orders.created2", "orders", "orders.created.x"][..]),
        ("orders.*", &["orders.created", "orders.7"], &["orders", "orders.a.b", "order.a", "ordersx.a"]),
        ("orders.>", &["orders.a", "orders.a.b"], &["orders", "ordersx"]),
        ("*", &["orders"], &["orders.a", "$node"]),
        (">", &["orders", "orders.a.b"], &["$node.ping", ""]),
        ("*.created", &["orders.created"], &["$node.created", "orders.x.created"]),
        ("a.*.c.>", &["a.b.c.d", "a.b.c.d.e"], &["a.b.c", "a.b.x.d"]),
        ("$node.*", &["$node.ping"], &["node.ping"]),
    ] {
        let parsed: Pattern = pattern.parse().unwrap();
        assert_eq!(parsed.to_string(), pattern);
        for subject in yes {
            assert!(parsed.matches(subject), "{pattern} {subject}");
            assert!(subject.starts_with(parsed.prefix()));
        }
        for subject in no {
            assert!(!parsed.matches(subject), "{pattern} {subject}");
        }
    }
    for bad in ["", ".", "a.", "a..b", "a*", "a.>.b", ">>", "a b"] {
        assert!(Pattern::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn parts_of_a_message() {
    let message =
        crate::Message::from_frames([&b"id"[..], b"", b"pricing.quote", b"\x94\x01\x00\x07\x80", b"\xc0"]);
    assert_eq!(route(&message), Some(2));
    let parts = Parts::read(&message, 2).unwrap();
    assert_eq!(
        (parts.subject, parts.header, parts.body),
        ("pricing.quote", Some(Header::new(Kind::Call, 7)), NIL)
    );
    assert_eq!(route(&crate::Message::from_frames(vec![&b"x"[..]; 20])), Some(0));
    assert_eq!(route(&crate::Message::from_frames([vec![&b"x"[..]; 9], vec![b""]].concat())), None);
    for (frames, reason) in [
        (&[&b"a"[..], b""][..], DecodeReason::Empty),
        (&[b"", b"\xc0"], DecodeReason::Subject(SubjectProblem::Empty)),
        (&[b"\xff", b"\xc0"], DecodeReason::NotUtf8),
        (&[b"a", b"", b"\xc0"], DecodeReason::Empty),
        (&[b"a", b"b", b"c", b"d"], DecodeReason::Frames(4)),
    ] {
        let message = crate::Message::from_frames(frames);
        assert_eq!(Parts::read(&message, 0).unwrap_err().reason, reason);
    }
}
