//! Every metric there is: name, kind, unit and what it counts. docs/observability.md has the same table, and a test holds both
//! against the sources.

use std::sync::Once;

use metrics::Unit;

use super::{flow, series::Names};

/// The label for what became of a call: `ok`, or a stable error code.
pub(crate) const CODE: &str = "code";

/// Calls that this node makes.
pub(crate) const CALLS: Names = Names {
    total: "ripstop_calls_total",
    seconds: "ripstop_call_duration_seconds",
    in_flight: "ripstop_calls_in_flight",
    label: "subject",
};
/// Requests that this node serves, by method.
pub(crate) const REQUESTS: Names = Names {
    total: "ripstop_requests_total",
    seconds: "ripstop_request_duration_seconds",
    in_flight: "ripstop_requests_in_flight",
    label: "subject",
};
/// The same, by who asks.
pub(crate) const CALLERS: Names = Names {
    total: "ripstop_caller_requests_total",
    seconds: "ripstop_caller_request_duration_seconds",
    in_flight: "ripstop_caller_requests_in_flight",
    label: "caller",
};

/// Handlers of pulled work.
pub(crate) const WORK: Names = Names {
    total: "ripstop_work_total",
    seconds: "ripstop_work_duration_seconds",
    in_flight: "ripstop_work_in_flight",
    label: "queue",
};
/// Events that this node publishes.
pub(crate) const PUBLISHED: flow::Names = flow::Names {
    total: "ripstop_events_published_total",
    label: "subject",
    dropped: Some(("ripstop_events_dropped_total", [NO_SUBSCRIBER, SLOW_SUBSCRIBER])),
};
pub(crate) const NO_SUBSCRIBER: &str = "no_subscriber";
pub(crate) const SLOW_SUBSCRIBER: &str = "slow_subscriber";
/// Items that this node pushes.
pub(crate) const PUSHED: flow::Names =
    flow::Names { total: "ripstop_work_pushed_total", label: "queue", dropped: None };

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Name, kind, unit, what it is.
pub(crate) const ALL: &[(&str, Kind, Option<Unit>, &str)] = &[
    ("ripstop_calls_total", Kind::Counter, None, "Calls made, by subject, target service and code."),
    (
        "ripstop_call_duration_seconds",
        Kind::Histogram,
        Some(Unit::Seconds),
        "Calls made, from start to reply, attempts included.",
    ),
    ("ripstop_calls_in_flight", Kind::Gauge, None, "Calls made that wait for their reply."),
    ("ripstop_requests_total", Kind::Counter, None, "Requests served, by subject and code."),
    (
        "ripstop_request_duration_seconds",
        Kind::Histogram,
        Some(Unit::Seconds),
        "Requests served, from arrival to answer.",
    ),
    ("ripstop_requests_in_flight", Kind::Gauge, None, "Requests that are being served or wait for it."),
    ("ripstop_requests_waiting", Kind::Gauge, None, "Requests that wait for a free place of their method."),
    ("ripstop_caller_requests_total", Kind::Counter, None, "Requests served, by calling service and code."),
    (
        "ripstop_caller_request_duration_seconds",
        Kind::Histogram,
        Some(Unit::Seconds),
        "Requests served, by calling service.",
    ),
    (
        "ripstop_caller_requests_in_flight",
        Kind::Gauge,
        None,
        "Requests that are being served, by calling service.",
    ),
    ("ripstop_retries_total", Kind::Counter, None, "Calls tried again, after an attempt that failed."),
    (
        "ripstop_retries_refused_total",
        Kind::Counter,
        None,
        "Calls not tried again, because the budget for it was used up.",
    ),
    (
        "ripstop_calls_held_back_total",
        Kind::Counter,
        None,
        "Calls for which there was no place in the bulkhead.",
    ),
    ("ripstop_ejections_total", Kind::Counter, None, "Instances left out because they failed, by service."),
    ("ripstop_ejected", Kind::Gauge, None, "Instances that are left out now, by service."),
    ("ripstop_fallbacks_total", Kind::Counter, None, "Calls that ended in their fallback."),
    (
        "ripstop_calls_refused_total",
        Kind::Counter,
        None,
        "Requests refused before a handler saw them, by reason.",
    ),
    ("ripstop_calls_cancelled_total", Kind::Counter, None, "Requests whose caller gave up."),
    ("ripstop_replies_late_total", Kind::Counter, None, "Replies whose caller no longer waited."),
    (
        "ripstop_replies_dropped_total",
        Kind::Counter,
        None,
        "Replies that could not be handed to their connection, by reason.",
    ),
    ("ripstop_handler_panics_total", Kind::Counter, None, "Handlers that panicked."),
    ("ripstop_events_published_total", Kind::Counter, None, "Events published to at least one subscriber."),
    ("ripstop_events_dropped_total", Kind::Counter, None, "Events that a subscriber did not get, by reason."),
    (
        "ripstop_events_missed_total",
        Kind::Counter,
        None,
        "Events that this subscriber missed, by its publishers' numbers.",
    ),
    (
        "ripstop_slow_subscribers_disconnected_total",
        Kind::Counter,
        None,
        "Subscribers disconnected because they read too slowly.",
    ),
    ("ripstop_work_pushed_total", Kind::Counter, None, "Items handed to a puller."),
    ("ripstop_work_done_total", Kind::Counter, None, "Items that a handler has done."),
    ("ripstop_work_failed_total", Kind::Counter, None, "Items that a handler has not done, by reason."),
    ("ripstop_work_dropped_total", Kind::Counter, None, "Items received that could not be kept, by reason."),
    ("ripstop_work_total", Kind::Counter, None, "Items that handlers had, by queue and code."),
    (
        "ripstop_work_duration_seconds",
        Kind::Histogram,
        Some(Unit::Seconds),
        "How long handlers of work took.",
    ),
    ("ripstop_work_in_flight", Kind::Gauge, None, "Items that handlers have now."),
    ("ripstop_work_received_total", Kind::Counter, None, "Items received, by queue."),
    ("ripstop_work_waiting", Kind::Gauge, None, "Items received that nobody has taken yet."),
    (
        "ripstop_work_oldest_seconds",
        Kind::Gauge,
        Some(Unit::Seconds),
        "The oldest of them waits at least so long.",
    ),
    ("ripstop_events_received_total", Kind::Counter, None, "Events received, by subscription."),
    ("ripstop_events_waiting", Kind::Gauge, None, "Events received that nobody has taken yet."),
    (
        "ripstop_events_oldest_seconds",
        Kind::Gauge,
        Some(Unit::Seconds),
        "The oldest of them waits at least so long.",
    ),
    (
        "ripstop_dead_letters_oldest_seconds",
        Kind::Gauge,
        Some(Unit::Seconds),
        "The oldest dead letter lies there so long.",
    ),
    (
        "ripstop_outbox_oldest_seconds",
        Kind::Gauge,
        Some(Unit::Seconds),
        "The oldest durable item waits so long.",
    ),
    ("ripstop_outbox_items", Kind::Gauge, None, "Durable items that wait until they are processed."),
    ("ripstop_outbox_bytes", Kind::Gauge, Some(Unit::Bytes), "The bytes of their bodies."),
    ("ripstop_dead_letters", Kind::Gauge, None, "Durable items that nobody could do."),
    ("ripstop_outbox_kept_total", Kind::Counter, None, "Durable items accepted."),
    ("ripstop_outbox_processed_total", Kind::Counter, None, "Durable items processed."),
    ("ripstop_outbox_redelivered_total", Kind::Counter, None, "Durable items delivered again, by reason."),
    ("ripstop_outbox_dead_total", Kind::Counter, None, "Durable items that became dead letters, by reason."),
    ("ripstop_store_errors_total", Kind::Counter, None, "Failures of the store on disk, by reason."),
    (
        "ripstop_messages_dropped_total",
        Kind::Counter,
        None,
        "Messages that never reached a reader, by reason.",
    ),
    (
        "ripstop_messages_malformed_total",
        Kind::Counter,
        None,
        "Messages that could not be taken apart, by lane.",
    ),
    (
        "ripstop_bodies_refused_total",
        Kind::Counter,
        None,
        "Bodies that could not be decoded, by lane and reason.",
    ),
    ("ripstop_refused_total", Kind::Counter, None, "What [[allow]] did not let, by action."),
    ("ripstop_connections_refused_total", Kind::Counter, None, "Connections not let in, by reason."),
    ("ripstop_connections", Kind::Gauge, None, "Connections that are up, by direction."),
    (
        "ripstop_links_lost_total",
        Kind::Counter,
        None,
        "Connections to peers that ended unasked, by lane; each is dialled again.",
    ),
    ("ripstop_queue_messages", Kind::Gauge, None, "Messages queued for peers."),
    ("ripstop_queue_bytes", Kind::Gauge, Some(Unit::Bytes), "Their bytes."),
    ("ripstop_keys_reloaded_total", Kind::Counter, None, "Changed keys that were taken over."),
    (
        "ripstop_certificate_expires_seconds",
        Kind::Gauge,
        Some(Unit::Seconds),
        "What is left of this node's certificate.",
    ),
    ("ripstop_directory_instances", Kind::Gauge, None, "Instances that discovery knows."),
    ("ripstop_discovery_adverts_refused_total", Kind::Counter, None, "Adverts not believed, by source."),
    ("ripstop_discovery_reopened_total", Kind::Counter, None, "Sources opened again, by source."),
    ("ripstop_discovery_errors_total", Kind::Counter, None, "Failures of sources, by source."),
    ("ripstop_socket_accept_errors_total", Kind::Counter, None, "Connections that could not be accepted."),
    ("ripstop_socket_handshakes_failed_total", Kind::Counter, None, "Handshakes that failed."),
    (
        "ripstop_socket_protocol_errors_total",
        Kind::Counter,
        None,
        "Connections ended for what the peer sent, by reason.",
    ),
    (
        "ripstop_socket_limited_total",
        Kind::Counter,
        None,
        "Connections ended or not taken for a limit, by reason.",
    ),
    ("ripstop_socket_reconnects_total", Kind::Counter, None, "Raw sockets' connections dialled again."),
    ("ripstop_socket_messages_sent_total", Kind::Counter, None, "Messages handed to the system."),
    ("ripstop_socket_messages_received_total", Kind::Counter, None, "Messages received."),
    ("ripstop_socket_messages_dropped_total", Kind::Counter, None, "Messages of sockets dropped, by reason."),
    (
        "ripstop_socket_messages_unknown_total",
        Kind::Counter,
        None,
        "Messages handed to a connection that died: an upper bound of what was lost.",
    ),
];

/// Tells the recorder what they are, once.
pub(crate) fn describe() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for (name, kind, unit, text) in ALL {
            let (name, text) = (*name, *text);
            match (kind, unit) {
                (Kind::Counter, Some(unit)) => metrics::describe_counter!(name, *unit, text),
                (Kind::Counter, None) => metrics::describe_counter!(name, text),
                (Kind::Gauge, Some(unit)) => metrics::describe_gauge!(name, *unit, text),
                (Kind::Gauge, None) => metrics::describe_gauge!(name, text),
                (Kind::Histogram, Some(unit)) => metrics::describe_histogram!(name, *unit, text),
                (Kind::Histogram, None) => metrics::describe_histogram!(name, text),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    /// Names written in the sources, this file excepted.
    fn written(dir: &Path, into: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                written(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !path.ends_with("observe/names.rs")
            {
                let text = fs::read_to_string(&path).unwrap();
                into.extend(
                    text.split('"')
                        .filter(|part| part.starts_with("ripstop_") && !part.contains(' '))
                        .map(str::to_owned),
                );
            }
        }
    }

    #[test]
    fn every_metric_is_described_and_documented() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut used = BTreeSet::new();
        written(&root.join("src"), &mut used);
        used.retain(|name| name != "ripstop_mutate");
        used.extend([PUBLISHED.total, PUSHED.total, "ripstop_events_dropped_total"].map(str::to_owned));
        for names in [CALLS, REQUESTS, CALLERS, WORK] {
            used.extend([names.total, names.seconds, names.in_flight].map(str::to_owned));
        }
        let described: BTreeSet<_> = ALL.iter().map(|(name, ..)| (*name).to_owned()).collect();
        assert_eq!(described.len(), ALL.len(), "one is described twice");
        assert_eq!(described, used, "described on the left, used on the right");
        let text = fs::read_to_string(root.join("docs/observability.md")).unwrap();
        for (name, kind, ..) in ALL {
            assert!(text.contains(&format!("| `{name}` |")), "docs/observability.md has no row for {name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
        }
    }
}
