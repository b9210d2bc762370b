//! What writing and reading the envelope costs, in nanoseconds: `cargo bench --bench envelope`.

use std::hint::black_box;

use ripstop::envelope::{Header, Kind, Limits, Pattern, check, check_subject, decode_body, encode_body};
use serde::{Deserialize, Serialize};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    #[derive(Serialize, Deserialize)]
    struct Quote {
        id: u64,
        sku: String,
        qty: u32,
        cents: u64,
        currency: String,
        address: String,
    }
    let quote = Quote {
        id: 123_456_789,
        sku: "SKU-0001-XL".into(),
        qty: 3,
        cents: 129_900,
        currency: "EUR".into(),
        address: "Am Alten Markt 12, 50667 Koeln, DE".into(),
    };
    fn time(name: &str, mut work: impl FnMut()) {
        const ROUNDS: u32 = 20_000; // short, so that the best is undisturbed on a busy machine
        let smoke = std::env::args().any(|arg| arg == "--smoke");
        let best = (0..if smoke { 1 } else { 300 }).map(|_| {
            let start = std::time::Instant::now();
            (0..ROUNDS).for_each(|_| work());
            start.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS)
        });
        let best = best.fold(f64::MAX, f64::min);
        println!("{name:<40} {best:>7.1} ns");
    }
    let mut out = Vec::with_capacity(1024);
    let mut header = Header::new(Kind::Call, 123_456);
    let (mut bare, mut with_deadline) = (Vec::new(), Vec::new());
    header.encode(&mut bare);
    time("header encode, no fields", || {
        out.clear();
        black_box(&header).encode(&mut out);
    });
    time("header decode, no fields", || {
        let _ = black_box(Header::decode(black_box(&bare)));
    });
    header.fields.dl = Some(10_000);
    header.encode(&mut with_deadline);
    time("header encode, dl", || {
        out.clear();
        black_box(&header).encode(&mut out);
    });
    time("header decode, dl", || {
        let _ = black_box(Header::decode(black_box(&with_deadline)));
    });
    let mut body = Vec::new();
    encode_body(&quote, &mut body)?;
    time(&format!("body encode, 6 fields, {} B", body.len()), || {
        out.clear();
        let _ = encode_body(black_box(&quote), &mut out);
    });
    time("body check", || {
        let _ = black_box(check(black_box(&body), Limits::default()));
    });
    time("body decode (3 strings allocated)", || {
        let _ = black_box(decode_body::<Quote>(black_box(&body)));
    });
    time("the same by rmp-serde alone", || {
        let _ = black_box(rmp_serde::from_slice::<Quote>(black_box(&body)));
    });
    let pattern = Pattern::parse("orders.*.paid")?;
    time("pattern match", || {
        black_box(pattern.matches(black_box("orders.123456.paid")));
    });
    time("subject check", || {
        let _ = black_box(check_subject(black_box("orders.123456.paid")));
    });
    Ok(())
}
