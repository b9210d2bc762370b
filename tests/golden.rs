//! The wire's bytes, pinned: each vector under `tests/golden/` is decoded and encoded again, by our own code here and
//! by Python's msgpack in `check.py`.

#![allow(clippy::unwrap_used)] // the helpers are tests, too

#[path = "common/python.rs"]
mod python;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use ripstop::Message;
use ripstop::envelope::{
    CreditBody, ErrorBody, GapBody, Header, HelloBody, Kind, ManifestBody, NIL, Parts, Verdict, decode_body,
    encode_body, route,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

struct Vector {
    name: String,
    expected: Vec<Value>,
    message: Message,
}

fn vectors() -> BTreeMap<String, Vector> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut vectors = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "hex") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines = text.lines().skip(1);
        let expected = serde_json::from_str(lines.next().unwrap()).unwrap();
        let message = Message::from_frames(lines.map(bytes));
        vectors.insert(name.clone(), Vector { name, expected, message });
    }
    vectors
}

fn bytes(line: &str) -> Vec<u8> {
    let hex = |byte| u8::from_str_radix(byte, 16).unwrap();
    line.split_whitespace().filter(|byte| *byte != "-").map(hex).collect()
}

fn encoded<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    encode_body(value, &mut out).unwrap();
    out
}

impl Vector {
    fn parts(&self) -> Parts<'_> {
        Parts::read(&self.message, route(&self.message).unwrap()).unwrap()
    }

    /// Decodes the body into `T` and expects to write the same bytes again.
    fn typed<T: Serialize + DeserializeOwned>(&self) -> T {
        let body = self.parts().body;
        let typed: T = decode_body(body).unwrap();
        assert_eq!(encoded(&typed), body, "{}", self.name);
        typed
    }
}

#[test]
fn every_vector_both_ways() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 23);
    for vector in vectors.values() {
        let (name, parts) = (&vector.name, vector.parts());
        let subject = route(&vector.message).unwrap();
        assert_eq!(vector.expected[subject], parts.subject, "{name}");
        let body: Value = decode_body(parts.body).unwrap();
        assert_eq!(body, vector.expected[vector.expected.len() - 1], "{name}");
        assert_eq!(vector.expected.len(), vector.message.len(), "{name}");

        if let Some(header) = parts.header {
            let frame = vector.message.frame(subject + 1).unwrap();
            let plain: Value = decode_body(frame).unwrap();
            assert_eq!(plain, vector.expected[subject + 1], "{name}");
            assert_eq!(
                (header.kind as u64, header.id),
                (plain[1].as_u64().unwrap(), plain[2].as_u64().unwrap())
            );
            let mut again = Vec::new();
            header.encode(&mut again);
            // What other and later encoders write, we read but don't write.
            let ours = !matches!(name.as_str(), "later-version" | "other-encoder");
            assert_eq!(again == frame, ours, "{name}: {again:02x?}");
        }
    }
}

#[test]
fn every_kind_has_a_vector() {
    let vectors = vectors();
    for kind in Kind::ALL {
        let vector = &vectors[&format!("{:02}-{kind}", kind as u8)];
        assert_eq!(vector.parts().header.unwrap().kind, kind);
    }
}

#[test]
fn bodies_of_our_own() {
    let vectors = vectors();
    let error: ErrorBody = vectors["02-error"].typed();
    assert_eq!((error.retry, error.retry_after_ms), (Some(Verdict::Later), Some(250)));
    let nack: ErrorBody = vectors["06-nack"].typed();
    assert_eq!(nack.retry, Some(Verdict::Never));
    let hello: HelloBody = vectors["11-hello"].typed();
    assert_eq!((hello.epoch, hello.metadata["zone"].as_str()), (3, "a"));
    let manifest: ManifestBody = vectors["12-manifest"].typed();
    assert_eq!(manifest.queues, ["emails"]);
    assert_eq!(vectors["09-credit"].typed::<CreditBody>(), CreditBody(64));
    assert_eq!(vectors["15-gap"].typed::<GapBody>(), GapBody(12));
    for nothing in ["05-ack", "08-end", "10-cancel", "14-goaway"] {
        assert_eq!(vectors[nothing].parts().body, NIL);
    }
}

#[test]
fn fields() {
    let vectors = vectors();
    let header = |name: &str| vectors[name].parts().header.unwrap();
    let all = header("all-fields");
    assert_eq!(all.id, 1 << 63);
    let fields = &all.fields;
    assert_eq!((fields.dl, fields.sq, fields.at), (Some(10_000), Some(1 << 32), Some(1)));
    assert_eq!((fields.cv, fields.rs), (Some(3), Some(Verdict::Elsewhere)));
    let rare = fields.rare().unwrap();
    assert_eq!(rare.tp.as_deref(), Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
    assert_eq!((rare.ts.as_deref(), rare.k.as_deref()), (Some("vendor=1"), Some("customer-7")));
    assert_eq!((rare.ik.as_deref(), rare.ct.as_deref()), (Some("pay-7"), Some("application/json")));
    assert_eq!((rare.ob.as_deref(), rare.sj.as_deref()), (Some("5f"), Some("orders.created")));
    assert_eq!(rare.ps, Some(1_764_288_000_000));

    let mut later = Header::new(Kind::Event, 0);
    later.fields.sq = Some(1);
    assert_eq!(header("later-version"), later);
    assert_eq!(header("other-encoder"), Header::new(Kind::Call, 9));
}

#[test]
fn routing_envelopes() {
    let vectors = vectors();
    let hops = |name: &str| route(&vectors[name].message);
    assert_eq!(hops("00-call"), Some(0));
    assert_eq!(hops("call-from-req"), Some(1));
    assert_eq!(hops("call-routed"), Some(3));
    assert!(vectors["call-from-req"].parts().header.is_none());
}

/// The same vectors, read by a program that shares no code with us.
#[test]
fn python_agrees() {
    let Some(python) = python::python("the golden vectors, by a second program") else { return };
    let check = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/check.py");
    let output = Command::new(python).arg(check).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_documentation_names_every_vector() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/wire.md")).unwrap();
    for name in vectors().keys() {
        assert!(text.contains(&format!("[{name}]")), "docs/wire.md doesn't name {name}");
    }
}
