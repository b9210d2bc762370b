//! `ripstop demo`, whole and with mistakes in its input.

use std::process::Command;

use serde_json::Value;

use crate::run::Place;

#[test]
fn every_order_is_priced_and_its_event_seen() {
    let place = Place::new();
    let ended = place.run(&["demo"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.out.matches("5000 of 5000").count(), 4, "{}", ended.out);
    assert_eq!(ended.err, "", "nobody complains");
    assert_eq!(ended.out.contains(", encrypted:"), cfg!(feature = "tls"), "{}", ended.out);
}

#[cfg(feature = "tls")]
#[test]
fn keys_can_be_left_out() {
    let place = Place::new();
    for (args, secure) in [(&["demo", "--json", "--plain"], false), (&["demo", "--json", "--secure"], true)] {
        let ended = place.run(args);
        let report: Value = serde_json::from_str(&ended.out).unwrap();
        assert_eq!((ended.code, &report["secure"], &report["ok"]), (Some(0), &secure.into(), &true.into()));
    }
}

#[test]
fn the_report_adds_up_and_nothing_stays_behind() {
    let place = Place::new();
    let header = "order,customer,email,address,currency,items\n";
    let lines: String = (0..600)
        .map(|n| format!("R{n},Ada,ada@example.com,\"1 Mill Lane, Leeds\",GBP,TARP-M×{}\n", n + 1))
        .collect();
    std::fs::write(place.path().join("mine.csv"), format!("{header}{lines}")).unwrap();
    let temp = place.path().join("tmp");
    std::fs::create_dir(&temp).unwrap();
    let ended =
        place.command(&["demo", "--json", "--input", "mine.csv"]).env("TMPDIR", &temp).output().unwrap();
    let report: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert!(ended.status.success(), "{report}");
    for key in ["orders", "priced", "events_seen", "mails_sent"] {
        assert_eq!(report[key], 600, "{key}");
    }
    let priced_by = report["priced_by"].as_array().unwrap();
    assert_eq!(priced_by.len(), 3);
    assert_eq!(priced_by.iter().map(|instance| instance["priced"].as_u64().unwrap()).sum::<u64>(), 600);
    assert_eq!(priced_by.iter().filter(|instance| instance["killed"] == true).count(), 1);
    assert!(priced_by.iter().all(|instance| instance["priced"].as_u64().unwrap() > 0), "{report}");
    assert!(report["noticed_ms"].as_f64().unwrap() < 6000.0);
    assert!(report["call_p50_ms"].as_f64().unwrap() <= report["call_p99_ms"].as_f64().unwrap());

    assert_eq!(std::fs::read_dir(&temp).unwrap().count(), 0, "its directory is gone");
    let fabric = report["fabric"].as_str().unwrap();
    let processes = Command::new("ps").args(["-eo", "args"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&processes.stdout).contains(fabric), "a process was left behind");
}

#[test]
fn one_order_is_enough() {
    let place = Place::new();
    let text = "order,customer,email,address,currency,items\nR1,Ada,a@b,1 Rd,EUR,A×1\n";
    std::fs::write(place.path().join("one.csv"), text).unwrap();
    let ended = place.run(&["demo", "--input", "one.csv"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.contains("1 of 1"), "{ended:?}");
}

#[test]
fn mistakes_in_the_file_are_named() {
    let place = Place::new();
    let text = "order,customer,email,address,currency,items\nR1,Ada,a@b,1 Rd,EUR,A\n";
    std::fs::write(place.path().join("bad.csv"), text).unwrap();
    let ended = place.run(&["demo", "--input", "bad.csv"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.err.contains("bad.csv, line 2, column 6 (items)"), "{ended:?}");
    assert_eq!(place.run(&["demo", "--input", "missing.csv"]).code, Some(2));
}

#[test]
fn an_interrupt_ends_all_of_them() {
    let place = Place::new();
    let mut demo = place.begin(&["demo"]);
    let fabric = format!("demo-{}", demo.child.id());
    let running = || {
        let processes = Command::new("ps").args(["-eo", "args"]).output().unwrap();
        String::from_utf8_lossy(&processes.stdout).matches(&fabric).count()
    };
    while running() < 6 {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    demo.signal("INT");
    assert_eq!(demo.end(), Some(1));
    while running() > 0 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
