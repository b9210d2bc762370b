//! What an error means, and which line of configuration mends it.

use super::Finding;

/// What is known of a peer's address beside the error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reach {
    /// TCP connects, and ZeroMQ's greeting comes.
    Zmtp,
    /// TCP connects, and something else comes.
    Other,
    /// TCP connects, and nothing comes.
    Silent,
    /// Nobody listens there.
    Refused,
    /// No way leads there, or nothing comes back.
    Lost,
    /// It was not tried: not TCP, or a name that is not known.
    Unknown,
}

/// A peer as it is called in a finding, and the error that it gave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case<'a> {
    pub(super) peer: &'a str,
    pub(super) endpoint: &'a str,
    pub(super) error: &'a str,
    pub(super) reach: Reach,
    /// Another fabric that the peer says it is of.
    pub(super) fabric: Option<&'a str>,
    /// Our own.
    pub(super) ours: &'a str,
    /// It was found by its own advert, and not written down here.
    pub(super) advertised: bool,
}

/// An error's words, what they mean, and what mends it; `{peer}` and `{at}` are filled in. The first that fits counts.
const CAUSES: [(&str, &str, &str, &str); 14] = [
    (
        "this side has no keys",
        "keys",
        "{peer} has keys, and this node has none",
        "[security] dir = \"…\" in ripstop.toml here; ripstop keys issue SERVICE makes it",
    ),
    (
        "does not speak TLS",
        "keys",
        "this node has keys, and {peer} has none",
        "[security] dir = \"…\" in ripstop.toml there",
    ),
    (
        "issued by another CA",
        "certificate",
        "the certificate of {peer} was issued by a CA that this node does not trust",
        "the same ca.pem on both sides: security.ca here, or ripstop keys issue --dir CA there",
    ),
    (
        "does not trust the CA",
        "certificate",
        "{peer} does not trust the CA of this node's certificate",
        "the same ca.pem on both sides: security.ca there, or ripstop keys issue --dir CA here",
    ),
    (
        "not valid before",
        "clock",
        "the certificate of {peer} is not valid yet: one of the two clocks is wrong, most likely",
        "set the clock (timedatectl); or ripstop keys issue --renew there",
    ),
    (
        "certificate expired",
        "certificate",
        "the certificate of {peer} has expired",
        "ripstop keys issue SERVICE --renew there",
    ),
    (
        "it has expired",
        "certificate",
        "{peer} says that this node's certificate has expired",
        "ripstop keys issue SERVICE --renew here; or set the clock there",
    ),
    (
        "was revoked",
        "certificate",
        "one of the two certificates was revoked ({error})",
        "ripstop keys issue SERVICE --renew for whoever is to be let in again",
    ),
    (
        "certificate is for",
        "certificate",
        "{peer} is not who it should be: {error}",
        "the certificate that belongs to that service: security.cert there; or service = \"…\" in [[peers]] here",
    ),
    ("certificate", "certificate", "{peer}: {error}", "ripstop keys verify DIR, on both sides"),
    ("may not", "permission", "{peer}: {error}", "[[allow]] in ripstop.toml there"),
    ("forbidden", "permission", "{peer}: {error}", "[[allow]] in ripstop.toml there"),
    (
        "3.0 or later is needed",
        "version",
        "{peer} speaks a version of ZeroMQ's protocol that is too old",
        "libzmq 4.0 or later there",
    ),
    (
        "mechanism",
        "mechanism",
        "{peer} and this node have no security mechanism in common: {error}",
        "[security] in ripstop.toml on both sides, or on neither",
    ),
];

/// What keeps this node from talking to a peer.
pub(super) fn of_peer(case: &Case<'_>) -> Finding {
    let Case { peer, endpoint, error, reach, fabric, ours, advertised } = *case;
    let line = match advertised {
        true => "advertise = [\"…\"] or listen = [\"…\"] in ripstop.toml there",
        false => "endpoint of [[peers]] in ripstop.toml here",
    };
    match (reach, fabric) {
        (_, Some(theirs)) => {
            return Finding::problem("fabric", format!("{peer} at {endpoint} is of fabric {theirs}, and this node of {ours}"))
                .fix(format!("fabric = \"{theirs}\" in ripstop.toml here (RIPSTOP_FABRIC, --fabric), or fabric = \"{ours}\" there"));
        }
        (Reach::Refused, _) => {
            return Finding::problem(
                "address",
                format!("nobody listens at {endpoint}, where {peer} should be"),
            )
            .fix(format!("start it; or another port: {line}"));
        }
        (Reach::Lost, _) => {
            return Finding::problem("address", format!("{endpoint} of {peer} cannot be reached from here"))
                .fix(format!(
                    "an address that this machine has a route to, and no firewall in between: {line}"
                ));
        }
        (Reach::Other, _) => {
            return Finding::problem(
                "address",
                format!("at {endpoint} another program answers, which does not speak ZeroMQ's protocol"),
            )
            .fix(format!("the right port: {line}"));
        }
        (Reach::Silent, _) => {
            return Finding::problem(
                "process",
                format!("{peer} at {endpoint} takes connections and says nothing: it is stopped, or hangs"),
            )
            .fix("look at the process there (ps, its log); SIGCONT, or restart it");
        }
        (Reach::Zmtp | Reach::Unknown, None) => {}
    }
    let error = error.rsplit_once(" failed: ").map_or(error, |(_, why)| why);
    let known = CAUSES.iter().find(|(words, ..)| error.contains(words));
    let fill = |text: &str| text.replace("{peer}", peer).replace("{error}", error);
    match known {
        Some((_, what, says, fix)) => Finding::problem(what, fill(says)).fix(fill(fix)),
        None => Finding::problem("peer", format!("{peer} at {endpoint}: {error}"))
            .fix("its log tells more: RUST_LOG=ripstop=debug there"),
    }
}

/// What keeps this node from starting.
pub(super) fn of_start(error: &str) -> Finding {
    let fixes = [
        ("interface", "discovery.interfaces or listen in ripstop.toml: ip address shows what there is"),
        (
            "insecure",
            "[security] dir = \"…\" in ripstop.toml, or insecure = true where anybody may read along",
        ),
        ("data_dir", "data_dir in ripstop.toml: one process at a time, which can write there"),
        ("cannot listen", "listen in ripstop.toml"),
    ];
    let finding = Finding::problem("start", format!("a node cannot start with this: {error}"));
    match fixes.iter().find(|(words, _)| error.contains(words)) {
        Some((_, fix)) => finding.fix(*fix),
        None => finding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_connects_is_explained_by_its_error_and_what_does_not_by_that() {
        let case = Case {
            peer: "pricing/1a",
            endpoint: "tcp://10.0.0.7:5555",
            error: "tcp://10.0.0.7:5555: handshake with tcp://10.0.0.7:5555 failed: TLS: the peer does not speak TLS",
            reach: Reach::Zmtp,
            fabric: None,
            ours: "default",
            advertised: true,
        };
        let keys = of_peer(&case);
        assert_eq!((keys.what, keys.says.as_str()), ("keys", "this node has keys, and pricing/1a has none"));
        let fabric = of_peer(&Case { fabric: Some("shop"), ..case });
        assert!(fabric.fix.unwrap().starts_with("fabric = \"shop\""));
        let lost = of_peer(&Case { reach: Reach::Lost, ..case });
        assert!(lost.fix.unwrap().contains("advertise = "), "it said itself where it is");
        let refused = of_peer(&Case { reach: Reach::Refused, advertised: false, ..case });
        assert!(refused.fix.unwrap().contains("[[peers]]"), "somebody here wrote down where it is");
        let unknown = of_peer(&Case { error: "a new kind of trouble", ..case });
        assert_eq!((unknown.what, unknown.says.contains("a new kind of trouble")), ("peer", true));
    }
}
