//! How a person, a collector and an orchestrator see running processes.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::run::{Place, Running};

/// A free port. Another process may take it in between, which is rare enough.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Status and body.
fn get(port: u16, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn serve(place: &Place, port: u16) -> Running {
    let mut command = place.command(&["serve", "hello.up", "--command", "tr a-z A-Z"]);
    let running = Running::of({
        command.env("RIPSTOP_OBSERVE__LISTEN", port.to_string());
        command
    });
    running.line();
    running
}

#[test]
fn the_endpoint_answers_collectors_and_orchestrators() {
    let (place, port) = (Place::new(), free_port());
    let mut server = serve(&place, port);
    assert_eq!(place.run(&["call", "hello.up", "\"ada\""]).out, "\"ADA\"\n");
    assert_eq!(place.run(&["call", "hello.down", "\"ada\""]).code, Some(1));

    assert_eq!(get(port, "/healthz"), (200, "alive\n".into()));
    assert_eq!(get(port, "/readyz"), (200, "ready\n".into()));
    assert_eq!(get(port, "/").0, 200);
    assert_eq!(get(port, "/else").0, 404);
    let (status, metrics) = get(port, "/metrics");
    assert_eq!(status, 200);
    for line in [
        "# TYPE ripstop_requests_total counter",
        "# HELP ripstop_requests_total Requests served, by subject and code.",
        "ripstop_requests_total{subject=\"hello.up\",code=\"ok\"} 1",
        "ripstop_request_duration_seconds_count{subject=\"hello.up\"} 1",
        "ripstop_requests_in_flight{subject=\"hello.up\"} 0",
        "ripstop_caller_requests_total{caller=\"cli\",code=\"ok\"} 1",
        "ripstop_requests_waiting{subject=\"hello.up\"} 0",
        "ripstop_connections{direction=\"out\"} 0",
    ] {
        assert!(metrics.lines().any(|had| had == line), "no `{line}` in\n{metrics}");
    }
    assert!(!metrics.contains("hello.down"), "a peer chose a label:\n{metrics}");

    // Leaving: alive, and not ready, until it is gone.
    let mut slow = TcpStream::connect(("127.0.0.1", port)).unwrap();
    slow.write_all(b"GET /me").unwrap();
    server.signal("TERM");
    assert_eq!(server.end(), Some(0), "a client that says nothing more holds nobody up");
}

#[test]
fn while_it_drains_it_is_alive_and_not_ready() {
    let (place, port) = (Place::new(), free_port());
    let mut command = place.command(&["serve", "slow.one", "--command", "touch begun; sleep 2"]);
    command.env("RIPSTOP_OBSERVE__LISTEN", format!("127.0.0.1:{port}"));
    let mut server = Running::of(command);
    server.line();
    let _call = place.begin(&["call", "slow.one"]);
    let began = Instant::now();
    while !place.path().join("begun").exists() {
        assert!(began.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(get(port, "/readyz").0, 200);
    server.signal("TERM");
    loop {
        let (status, body) = get(port, "/readyz");
        if status == 503 {
            assert_eq!(body, "not ready: it is leaving\n");
            break;
        }
    }
    assert_eq!(get(port, "/healthz").0, 200);
    assert_eq!(server.end(), Some(0));
}

#[test]
fn a_port_that_is_taken_is_said_so() {
    let (place, taken) = (Place::new(), TcpListener::bind("127.0.0.1:0").unwrap());
    let port = taken.local_addr().unwrap().port();
    let mut command = place.command(&["serve", "hello.up", "--echo"]);
    command.env("RIPSTOP_OBSERVE__LISTEN", port.to_string());
    let mut server = Running::of(command);
    assert_eq!(server.end(), Some(1));
    let said = server.error_line();
    assert!(
        said.contains("[RS0402]") && said.contains("[observe] listen") && said.contains(&port.to_string()),
        "{said}"
    );
}

#[test]
fn a_service_is_pinged_instance_by_instance() {
    let place = Place::new();
    let _servers =
        [place.start(&["serve", "hello.up", "--echo"]), place.start(&["serve", "hello.up", "--echo"])];
    let ended = place.run(&["ping", "hello", "--count", "3", "--interval", "50ms"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.out.matches(": seq=").count(), 6, "{ended:?}");
    assert_eq!(ended.out.matches("3 asked, 3 answered, 0% lost, min/avg/max ").count(), 2, "{ended:?}");
    let ended = place.run(&["ping", "helo", "--count", "1"]);
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.err.contains("services there: hello"), "{ended:?}");
}

#[test]
fn statistics_are_of_all_instances_together() {
    let place = Place::new();
    let _servers =
        [place.start(&["serve", "hello.up", "--echo"]), place.start(&["serve", "hello.up", "--echo"])];
    for _ in 0..4 {
        assert_eq!(place.run_with(&["call", "hello.up", "-"], "1\n2\n3\n").code, Some(0));
    }
    let ended = place.run(&["stats", "hello"]);
    let row: Vec<_> = ended.out.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    assert_eq!(
        (row[..3].join(" ").as_str(), row[row.len() - 2]),
        ("hello serves hello.up", "12"),
        "{ended:?}"
    );
    let ended = place.run(&["stats", "hello", "--json"]);
    let totals: u64 = ended
        .out
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["served"][0]["total"].as_u64().unwrap()
        })
        .sum();
    assert_eq!((ended.out.lines().count(), totals), (2, 12), "{ended:?}");
    assert_eq!(place.run(&["stats", "nobody"]).code, Some(3));
}

#[test]
fn health_has_an_exit_code() {
    let (place, port) = (Place::new(), free_port());
    let server = serve(&place, port);
    let ended = place.run(&["health", "hello"]);
    assert!(ended.code == Some(0) && ended.out.contains("ready"), "{ended:?}");
    let url = format!("http://127.0.0.1:{port}");
    let ended = place.run(&["health", "--endpoint", &url]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "ready\n"), "{ended:?}");
    assert_eq!(place.run(&["health", "--endpoint", &format!("{url}/nothing")]).code, Some(1));
    // One that hangs.
    server.signal("STOP");
    let ended = place.run(&["health", "hello"]);
    assert!(matches!(ended.code, Some(1 | 3)), "{ended:?}");
    let ended = place.run(&["health", "--endpoint", &url, "--timeout", "300ms"]);
    assert_eq!(ended.code, Some(4), "{ended:?}");
    server.signal("CONT");
    drop(server);
    assert_eq!(place.run(&["health", "--endpoint", &url]).code, Some(3));
}

#[test]
fn codes_are_explained() {
    let place = Place::new();
    let ended = place.run(&["errors", "rs0410"]);
    assert!(
        ended.code == Some(0) && ended.out.contains("no such service") && ended.out.contains("safe"),
        "{ended:?}"
    );
    assert_eq!(place.run(&["errors", "RS9999"]).code, Some(2));
    assert_eq!(place.run(&["errors", "nonsense"]).code, Some(2));
    assert!(place.run(&["errors"]).out.lines().count() > 80);
}
