//! `ripstop doctor` where the network is at fault.

use std::time::Duration;

use crate::net::{Net, Process, address, net};

const PATIENCE: Duration = Duration::from_secs(20);

fn run(net: &Net, host: usize, dir: &tempfile::TempDir, args: &[&str], advertise: Option<&str>) -> Process {
    let dir = dir.path().to_str().unwrap();
    let mut environment =
        vec![("RIPSTOP_LISTEN", "lan"), ("RIPSTOP_SECURITY__INSECURE", "true"), ("RIPSTOP_RUNTIME_DIR", dir)];
    environment.extend(advertise.map(|advertise| ("RIPSTOP_ADVERTISE", advertise)));
    net.start(host, env!("CARGO_BIN_EXE_ripstop"), args, &environment)
}

#[test]
fn an_advertised_address_that_leads_nowhere_is_named() {
    let Some(net) = net(2) else { return };
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let mut serving =
        run(&net, 1, &dirs[0], &["serve", "pricing.quote", "--echo"], Some("tcp://192.168.99.1:5555"));
    serving.hear("serving", PATIENCE);
    let mut doctor = run(&net, 2, &dirs[1], &["doctor"], None);
    let (sent, _) = doctor.hear("ok       mdns", PATIENCE);
    assert!(sent.contains("comes back"), "{sent}");
    let (said, _) = doctor.hear("problem  address", PATIENCE);
    assert!(
        said.contains("tcp://192.168.99.1:5555 of pricing/") && said.contains("cannot be reached from here"),
        "{said}"
    );
    let (fix, _) = doctor.hear("                      →", PATIENCE);
    assert!(fix.contains("advertise = [") && fix.contains("there"), "{fix}");
}

#[test]
fn multicast_that_does_not_get_through_is_named() {
    let Some(net) = net(2) else { return };
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    net.filter_multicast(1);
    net.filter_multicast(2);
    let listen = format!("tcp://{}:5555", address(1));
    let mut serving =
        run(&net, 1, &dirs[0], &["serve", "pricing.quote", "--echo", "--listen", &listen], None);
    serving.hear("serving", PATIENCE);
    let mut doctor = run(&net, 2, &dirs[1], &["doctor", "--peer", &listen], None);
    let (sent, _) = doctor.hear("ok       mdns", PATIENCE);
    assert!(sent.contains("comes back"), "this machine is not at fault: {sent}");
    doctor.hear("ok       peer", PATIENCE);
    let (said, _) = doctor.hear("warning  mdns", PATIENCE);
    assert!(said.contains("reached by its address, and not found by multicast"), "{said}");
    // Without an address there is nobody.
    let mut doctor = run(&net, 2, &dirs[1], &["doctor"], None);
    let (said, _) = doctor.hear("warning  peers", PATIENCE);
    assert!(said.contains("no answer by mDNS"), "{said}");
    let (fix, _) = doctor.hear("                      →", PATIENCE);
    assert!(fix.contains("[[peers]]"), "{fix}");
}
