use super::*;

fn billing() -> Identity {
    Identity::service("shop", "billing").unwrap()
}

fn reports() -> Identity {
    Identity::curve("reports").unwrap()
}

fn rule(text: &str) -> AllowRule {
    toml::from_str(text).unwrap()
}

fn table(rules: &[&str]) -> Permissions {
    let rules: Vec<_> = rules.iter().map(|text| rule(text)).collect();
    Permissions::new(&rules, false).unwrap()
}

fn strict(rules: &[&str]) -> Permissions {
    Permissions { deny_by_default: true, ..table(rules) }
}

#[test]
fn defaults_are_open_to_ask_and_closed_to_pose() {
    let table = Permissions::default();
    for who in [billing(), reports()] {
        for action in [Action::Call, Action::Subscribe, Action::Push] {
            assert!(table.allows(&who, action, "pricing.quote"), "{who} {action}");
        }
        for action in [Action::Serve, Action::Publish, Action::Pull] {
            assert!(!table.allows(&who, action, "pricing.quote"), "{who} {action}");
            assert!(table.allows(&who, action, &format!("{}.x.y", who.name())));
            assert!(table.allows(&who, action, who.name()), "the name alone is a subject, too");
            // Only as a whole token.
            assert!(!table.allows(&who, action, &format!("{}x.y", who.name())));
        }
    }
}

#[test]
fn a_rule_replaces_the_default_of_the_action_it_names_and_of_no_other() {
    let table = table(&["who = 'billing'\ncall = ['pricing.*']", "who = 'billing'\npublish = ['audit.>']"]);
    assert!(table.allows(&billing(), Action::Call, "pricing.quote"));
    assert!(!table.allows(&billing(), Action::Call, "pricing.quote.eu"));
    assert!(!table.allows(&billing(), Action::Call, "orders.list"));
    assert!(table.allows(&billing(), Action::Publish, "audit.paid"));
    assert!(!table.allows(&billing(), Action::Publish, "billing.paid"), "replaced, not added to");
    assert!(table.allows(&billing(), Action::Serve, "billing.invoice"), "as it was");
    assert!(table.allows(&billing(), Action::Subscribe, "orders.created"), "as it was");
    let other = Identity::service("shop", "orders").unwrap();
    assert!(table.allows(&other, Action::Call, "orders.list"), "others as they were");
}

#[test]
fn rules_of_one_name_add_up_and_an_empty_list_takes_away() {
    let table = table(&[
        "who = 'billing'\ncall = ['a.*']",
        "who = 'billing'\ncall = ['b.*']",
        "who = 'curve:reports'\ncall = []",
    ]);
    assert!(table.allows(&billing(), Action::Call, "a.x") && table.allows(&billing(), Action::Call, "b.x"));
    assert!(!table.allows(&billing(), Action::Call, "c.x"));
    assert!(!table.allows(&reports(), Action::Call, "a.x"));
    assert!(table.allows(&reports(), Action::Push, "emails"));
}

#[test]
fn a_name_goes_before_everybody() {
    let table = table(&["who = '*'\ncall = ['pricing.*']", "who = 'billing'\ncall = ['ledger.*']"]);
    assert!(table.allows(&reports(), Action::Call, "pricing.quote"));
    assert!(!table.allows(&reports(), Action::Call, "ledger.book"));
    assert!(table.allows(&billing(), Action::Call, "ledger.book"));
    assert!(!table.allows(&billing(), Action::Call, "pricing.quote"), "the rule for * is replaced as well");
}

#[test]
fn a_service_and_a_curve_key_of_one_name_are_two() {
    let table = strict(&["who = 'reports'\ncall = ['a.b']"]);
    assert!(table.allows(&Identity::service("shop", "reports").unwrap(), Action::Call, "a.b"));
    assert!(!table.allows(&reports(), Action::Call, "a.b"));
}

#[test]
fn strict_means_nothing_but_what_is_written() {
    let table = strict(&["who = 'billing'\ncall = ['pricing.*']"]);
    assert!(table.allows(&billing(), Action::Call, "pricing.quote"));
    for action in Action::ALL.into_iter().skip(1) {
        assert!(!table.allows(&billing(), action, "billing.x"), "{action}");
    }
    assert!(!table.allows(&reports(), Action::Call, "pricing.quote"));
    assert!(!table.allows_prefix(&billing(), "orders.") && !table.allows_pattern(&billing(), "orders.>"));
    assert!(table.allows(&billing(), Action::Call, "$node.ping"), "a ping is nobody's secret");
}

#[test]
fn the_nodes_own_subjects_take_an_admin() {
    let table = table(&["who = 'billing'\nadmin = true\ncall = []", "who = 'orders'\ncall = ['>']"]);
    let orders = Identity::service("shop", "orders").unwrap();
    for open in ["$node.ping", "$node.health"] {
        assert!(table.allows(&orders, Action::Call, open) && table.allows(&reports(), Action::Call, open));
        assert!(!table.allows(&orders, Action::Subscribe, open));
    }
    for closed in ["$node.links", "$node.pings", "$dead.list"] {
        assert!(!table.allows(&orders, Action::Call, closed), "a wildcard is no key to {closed}");
        assert!(table.allows(&billing(), Action::Call, closed));
    }
    assert!(table.is_admin(&billing()) && !table.is_admin(&orders));
    assert!(table.allows_prefix(&billing(), "$node.") && !table.allows_prefix(&orders, "$node."));
    assert!(table.allows_pattern(&billing(), "$node.>") && !table.allows_pattern(&orders, "$node.>"));
    assert!(self::table(&["who = '*'\nadmin = true"]).is_admin(&reports()));
}

#[test]
fn a_prefix_has_to_be_covered_as_a_whole() {
    for (allowed, covered, not) in [
        (
            "orders.>",
            &["orders.", "orders.new", "orders.new.eu"][..],
            &["", "o", "orders", "ordersx.", "x."][..],
        ),
        (">", &["", "o", "orders.new"], &["$", "$node."]),
        ("orders.*.>", &["orders.eu.", "orders.eu.new"], &["orders.", "orders.eu", "orders"]),
        ("*.>", &["orders.", "orders.new"], &["", "orders"]),
        ("*.paid.>", &["orders.paid.", "orders.paid.eu"], &["orders.", "orders.paid", "orders.paidx."]),
        // What has an end is never covered: a prefix goes on.
        ("orders.created", &[], &["orders.created", "orders.created.", "orders."]),
        ("orders.*", &[], &["orders.", "orders.created", "orders.created."]),
        ("*", &[], &["", "orders"]),
    ] {
        let table = table(&[&format!("who = '*'\nsubscribe = ['{allowed}']")]);
        for prefix in covered {
            assert!(table.allows_prefix(&reports(), prefix), "{allowed} covers {prefix:?}");
        }
        for prefix in not {
            assert!(!table.allows_prefix(&reports(), prefix), "{allowed} does not cover {prefix:?}");
        }
    }
}

#[test]
fn a_pattern_has_to_be_covered_as_a_whole() {
    for (allowed, covered, not) in [
        (
            "orders.>",
            &["orders.>", "orders.*", "orders.*.paid", "orders.new"][..],
            &[">", "*", "orders", "*.new", "orderz.>"][..],
        ),
        (">", &[">", "*", "a.b.>", "a"], &["$node.>", "$node.ping", ""]),
        ("orders.*", &["orders.*", "orders.new"], &["orders.>", "orders.new.eu", "*.new", "orders"]),
        ("*.new", &["*.new", "orders.new"], &["*.*", "*.>", "orders.*"]),
        ("*.*.>", &["a.b.c", "*.b.>", "*.*.*"], &["a.>", "a.b", "*.*"]),
        ("orders.new", &["orders.new"], &["orders.*", "orders.>", "orders"]),
    ] {
        let table = table(&[&format!("who = '*'\nsubscribe = ['{allowed}']")]);
        for pattern in covered {
            assert!(table.allows_pattern(&reports(), pattern), "{allowed} covers {pattern:?}");
        }
        for pattern in not {
            assert!(!table.allows_pattern(&reports(), pattern), "{allowed} does not cover {pattern:?}");
        }
    }
    assert!(Permissions::default().allows_pattern(&reports(), ">"));
    assert!(Permissions::default().allows_prefix(&reports(), ""));
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    fn pattern() -> impl Strategy<Value = String> {
        let token = prop_oneof![Just("*"), Just("a"), Just("b"), Just("ab")];
        (prop::collection::vec(token, 1..4), any::<bool>())
            .prop_map(|(tokens, rest)| tokens.join(".") + if rest { ".>" } else { "" })
    }

    fn subject() -> impl Strategy<Value = String> {
        prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("ab")], 1..6)
            .prop_map(|tokens| tokens.join("."))
    }

    proptest! {
        // What is covered brings no subject that is not allowed.
        #[test]
        fn covering_is_sound(allowed in pattern(), wanted in pattern(), subject in subject(), cut in 0usize..12) {
            let table = table(&[&format!("who = '*'\nsubscribe = ['{allowed}']")]);
            let may = table.allows(&reports(), Action::Subscribe, &subject);
            if table.allows_pattern(&reports(), &wanted) && Pattern::parse(&wanted).unwrap().matches(&subject) {
                prop_assert!(may, "{wanted} was allowed by {allowed}");
            }
            let prefix = &subject[..cut.min(subject.len())];
            if table.allows_prefix(&reports(), prefix) {
                prop_assert!(may, "{prefix:?} was allowed by {allowed}");
            }
        }
    }
}
