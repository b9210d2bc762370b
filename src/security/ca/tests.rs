#![allow(clippy::unwrap_used)] // the helpers are tests, too

use std::time::UNIX_EPOCH;

use super::*;
use crate::config::SecurityConfig;
use crate::security::{Keys, Refusal};

const DAY: Duration = Duration::from_secs(86_400);

/// Any moment does: nothing here asks the clock.
fn now() -> SystemTime {
    UNIX_EPOCH + DAY * 20_000 + Duration::from_millis(1_500)
}

fn keys(dir: &Path) -> Keys {
    let config = SecurityConfig { dir: Some(dir.to_owned()), ..SecurityConfig::default() };
    Keys::load(&config, Path::new("")).unwrap()
}

#[test]
fn a_node_takes_what_is_issued_from_its_first_second_to_its_last() {
    let dir = tempfile::tempdir().unwrap();
    let mut ca = Ca::new("shop", now(), 100).unwrap();
    let (from, to) = (now() + DAY, now() + DAY * 2);
    ca.issue("billing", from, to).unwrap().write(dir.path()).unwrap();
    let keys = keys(dir.path());
    assert_eq!(keys.identity().to_string(), "spiffe://shop/service/billing");
    assert_eq!(keys.expires(), index::whole(to));
    let second = Duration::from_secs(1);
    assert!(matches!(keys.check_own(from - second), Err(Refusal::NotYetValid { .. })));
    assert_eq!(keys.check_own(from), Ok(()));
    assert_eq!(keys.check_own(to - second), Ok(()));
    assert!(matches!(keys.check_own(to + second), Err(Refusal::Expired { .. })));
}

#[test]
fn nothing_is_valid_longer_than_the_ca() {
    let dir = tempfile::tempdir().unwrap();
    let mut ca = Ca::new("shop", now(), 1).unwrap();
    let issued = ca.issue("billing", now(), now() + DAY * 3).unwrap();
    assert_eq!(issued.expires(), ca.expires());
    issued.write(dir.path()).unwrap();
    assert_eq!(keys(dir.path()).check_own(now() + DAY / 2), Ok(()));
    assert!(matches!(keys(dir.path()).check_own(now() + DAY * 2), Err(Refusal::Expired { .. })));
    assert!(ca.issue("billing", now() + DAY * 2, now() + DAY * 3).is_err());
}

#[test]
fn what_is_revoked_is_refused_and_nothing_else() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut ca = Ca::new("shop", now(), 100).unwrap();
    let (first, second) = (ca.issue("billing", now(), now() + DAY), ca.issue("billing", now(), now() + DAY));
    let (first, second) = (first.unwrap(), second.unwrap());
    first.write(one.path()).unwrap();
    second.write(other.path()).unwrap();
    ca.revoke(&first.serial().to_uppercase(), now()).unwrap();
    let list = ca.crl_pem().to_owned();
    ca.revoke(first.serial(), now() + DAY).unwrap();
    assert_eq!(ca.crl_pem(), list, "the second time changes nothing");
    for dir in [&one, &other] {
        ca.update_node(dir.path()).unwrap();
    }
    assert_eq!(keys(one.path()).check_own(now()), Err(Refusal::Revoked));
    assert_eq!(keys(other.path()).check_own(now()), Ok(()));
    assert_eq!(ca.issued()[0].state(now()), State::Revoked);
}

#[test]
fn it_is_the_same_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("deep/ca");
    let mut ca = Ca::new("shop", now(), 100).unwrap();
    let first = ca.issue("billing", now(), now() + DAY).unwrap();
    ca.rotate(now(), 50).unwrap();
    ca.issue("pricing", now(), now() + DAY).unwrap();
    ca.revoke(first.serial(), now()).unwrap();
    ca.write(&place).unwrap();
    let mut again = Ca::open(&place).unwrap();
    assert_eq!((again.ca_pem(), again.crl_pem()), (ca.ca_pem(), ca.crl_pem()));
    assert_eq!((again.issued(), again.fabric()), (ca.issued(), "shop"));
    assert_eq!(again.expires(), ca.expires());
    // Both keys are at work: one signs, both revoke.
    let node = dir.path().join("node");
    again.issue("pricing", now(), now() + DAY).unwrap().write(&node).unwrap();
    assert_eq!(keys(&node).check_own(now()), Ok(()));
    assert_eq!(again.crl_pem().matches("BEGIN X509 CRL").count(), 2);
    again.finish_rotation(now()).unwrap();
    again.write(&place).unwrap();
    assert!(!place.join(OLD_KEY).exists());
    assert_eq!(Ca::open(&place).unwrap().issued().len(), 2);
}

#[test]
fn both_are_trusted_during_a_rotation_and_one_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut ca = Ca::new("shop", now(), 100).unwrap();
    let old = ca.issue("billing", now(), now() + DAY).unwrap();
    old.write(dir.path()).unwrap();
    ca.rotate(now(), 100).unwrap();
    assert_eq!(ca.left_behind(now()), ["billing"]);
    assert!(ca.left_behind(now() + DAY * 2).is_empty(), "an expired one is no loss");
    ca.update_node(dir.path()).unwrap();
    assert_eq!(keys(dir.path()).check_own(now()), Ok(()));
    ca.revoke(old.serial(), now()).unwrap();
    ca.update_node(dir.path()).unwrap();
    assert_eq!(keys(dir.path()).check_own(now()), Err(Refusal::Revoked), "the old key still revokes");
    ca.finish_rotation(now()).unwrap();
    ca.update_node(dir.path()).unwrap();
    assert_eq!(keys(dir.path()).check_own(now()), Err(Refusal::UnknownIssuer));
    assert!(ca.finish_rotation(now()).is_err());
}

#[test]
fn a_rotation_that_the_power_cut_short_can_be_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut ca = Ca::new("shop", now(), 100).unwrap();
    ca.write(dir.path()).unwrap();
    let before = std::fs::read(dir.path().join(CERTIFICATES)).unwrap();
    ca.rotate(now(), 100).unwrap();
    ca.write(dir.path()).unwrap();
    // Both keys are there, the new certificate is not yet.
    std::fs::write(dir.path().join(CERTIFICATES), before).unwrap();
    let mut ca = Ca::open(dir.path()).unwrap();
    assert!(!ca.is_rotating());
    ca.rotate(now(), 100).unwrap();
    ca.write(dir.path()).unwrap();
    assert!(Ca::open(dir.path()).unwrap().is_rotating());
}

#[test]
fn a_rotation_that_the_power_cut_short_at_its_end_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let (place, node) = (dir.path().join("ca"), dir.path().join("node"));
    let mut ca = Ca::new("shop", now(), 100).unwrap();
    ca.issue("billing", now(), now() + DAY).unwrap().write(&node).unwrap();
    ca.rotate(now(), 100).unwrap();
    ca.issue("pricing", now(), now() + DAY).unwrap();
    ca.write(&place).unwrap();
    let before = std::fs::read(place.join(INDEX)).unwrap();
    ca.finish_rotation(now()).unwrap();
    ca.write(&place).unwrap();
    // The old certificate is gone, and the index does not know it yet.
    std::fs::write(place.join(INDEX), before).unwrap();
    let ca = Ca::open(&place).unwrap();
    let services: Vec<_> = ca.issued().iter().map(|record| record.service.as_str()).collect();
    assert_eq!((ca.is_rotating(), services), (false, vec!["pricing"]));
    ca.update_node(&node).unwrap(); // it trusted the CA that is gone, which was ours
    ca.write(&place).unwrap();
    Ca::open(&place).unwrap().update_node(&node).unwrap();
}

#[test]
fn of_several_made_in_one_place_one_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..10 {
        let place = dir.path().join(round.to_string());
        let start = std::sync::Barrier::new(4);
        let made = std::thread::scope(|scope| {
            let make = || {
                let ca = Ca::new("shop", now(), 9).unwrap();
                start.wait();
                ca.write(&place).is_ok()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).filter(|made| *made).count()
        });
        assert_eq!(made, 1);
        Ca::open(&place).unwrap();
    }
}

#[test]
fn what_is_left_of_a_ca_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    for name in [KEY, OLD_KEY, LIST, INDEX] {
        let place = dir.path().join(name);
        disk::make_dir(&place).unwrap();
        disk::put(&place.join(name), b"what somebody needs").unwrap();
        let error = Ca::new("shop", now(), 9).unwrap().write(&place).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("move it away"), "{error}");
        assert_eq!(std::fs::read(place.join(name)).unwrap(), b"what somebody needs");
    }
}

#[test]
fn nothing_of_others_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let (mut ours, mut theirs) = (Ca::new("shop", now(), 9).unwrap(), Ca::new("shop", now(), 9).unwrap());
    theirs.write(&dir.path().join("ca")).unwrap();
    let error = ours.write(&dir.path().join("ca")).unwrap_err().to_string();
    assert!(error.contains("holds a CA already"), "{error}");
    std::fs::remove_file(dir.path().join("ca/ca.pem")).unwrap();
    let error = ours.write(&dir.path().join("ca")).unwrap_err().to_string();
    assert!(error.contains("ca.key"), "{error}");
    theirs.issue("billing", now(), now() + DAY).unwrap().write(&dir.path().join("node")).unwrap();
    let error = ours.update_node(&dir.path().join("node")).unwrap_err().to_string();
    assert!(error.contains("another CA"), "{error}");
    let error = ours.update_node(dir.path()).unwrap_err().to_string();
    assert!(error.contains("not the directory of a node"), "{error}");
    assert!(ours.issue("billing", now(), now()).is_err());
}

#[test]
fn what_is_broken_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    Ca::new("shop", now(), 9).unwrap().write(dir.path()).unwrap();
    let good: Vec<_> = [CERTIFICATES, KEY, LIST, INDEX].map(|name| std::fs::read(file(name)).unwrap()).into();
    let put = |name: &str, bytes: &[u8]| disk::put(&file(name), bytes).unwrap();
    let error = || Ca::open(dir.path()).unwrap_err().to_string();
    for (at, (name, wanted)) in
        [(CERTIFICATES, "has 0 certificates"), (KEY, "no private key"), (LIST, ""), (INDEX, "fabric")]
            .into_iter()
            .enumerate()
    {
        std::fs::remove_file(file(name)).unwrap();
        let missing = error();
        assert!(missing.contains(name) || missing.contains("no CA here"), "{missing}");
        put(name, b"rubbish\n");
        if !wanted.is_empty() {
            let broken = error();
            assert!(broken.contains(name) && (broken.contains(wanted) || at == 3), "{broken}");
        }
        put(name, &[0xff, 0xfe]);
        assert!(error().contains("is no text"), "{}", error());
        put(name, &good[at]);
    }
    Ca::open(dir.path()).unwrap();
    let other = Ca::new("shop", now(), 9).unwrap();
    put(KEY, other.current.key_pem().as_bytes());
    assert!(error().contains("whose key is not in"), "{}", error());
}

#[cfg(unix)]
#[test]
fn files_are_for_the_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("ca");
    let mut ca = Ca::new("shop", now(), 9).unwrap();
    ca.write(&place).unwrap();
    ca.issue("billing", now(), now() + DAY).unwrap().write(&place.join("billing")).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let mut files = 0;
    for dir in [place.as_path(), &place.join("billing")] {
        assert_eq!(mode(dir), 0o700);
        for entry in
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file())
        {
            assert_eq!(mode(&entry), 0o600, "{}", entry.display());
            files += 1;
        }
    }
    assert_eq!(files, 8);
    std::fs::set_permissions(place.join(KEY), PermissionsExt::from_mode(0o640)).unwrap();
    let error = Ca::open(&place).unwrap_err().to_string();
    assert!(error.contains("mode 0640") && error.contains("chmod 600"), "{error}");
}

#[test]
fn dates_no_calendar_has_are_no_panic() {
    for now in [UNIX_EPOCH, UNIX_EPOCH - DAY, UNIX_EPOCH + DAY * 2_932_895, UNIX_EPOCH + DAY * 9_000_000] {
        if let Ok(mut ca) = Ca::new("shop", now, u32::MAX) {
            let _ = ca.issue("billing", now, now + DAY * 9_000_000);
            let _ = ca.rotate(now, 1);
        }
    }
}

#[test]
fn keys_are_in_no_debug_output() {
    let mut ca = Ca::new("shop", now(), 9).unwrap();
    let issued = ca.issue("billing", now(), now() + DAY).unwrap();
    let text = format!("{ca:?} {issued:?}");
    assert!(text.contains("billing") && !text.contains("PRIVATE"), "{text}");
}

#[test]
fn serial_numbers_are_positive_and_differ() {
    let mut ca = Ca::new("shop", now(), 9).unwrap();
    for _ in 0..50 {
        ca.issue("billing", now(), now() + DAY).unwrap();
    }
    let mut serials: Vec<_> = ca.issued().iter().map(|one| one.serial.clone()).collect();
    serials.sort();
    serials.dedup();
    assert_eq!(serials.len(), 50);
    assert!(
        serials
            .iter()
            .all(|serial| serial.len() == 32 && ('4'..='7').contains(&serial.chars().next().unwrap()))
    );
}
