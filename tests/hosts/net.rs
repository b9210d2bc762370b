//! Hosts on a bridge: network namespaces joined by veth pairs. The bridge is in a namespace too, so that no packet reaches the
//! machine's own network.
//!
//! ```text
//!   host 1 (10.77.0.1) ──eth0 ─ p1──┐
//!   host 2 (10.77.0.2) ──eth0 ─ p2──┤ br0, in a namespace of its own
//!   host 3 (10.77.0.3) ──eth0 ─ p3──┘
//! ```

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Some hosts and their switch; removed when dropped.
pub(crate) struct Net {
    name: String,
    hosts: usize,
}

/// Makes the network. Where that is impossible the test is skipped, loudly; `REQUIRE_RIPSTOP=hosts` makes it fail instead.
pub(crate) fn net(hosts: usize) -> Option<Net> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("rs{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let net = Net { name, hosts };
    match net.make() {
        Ok(()) => Some(net),
        Err(reason) => {
            let required = std::env::var("REQUIRE_RIPSTOP").unwrap_or_default();
            assert!(
                !required.split(',').any(|what| what.trim() == "hosts"),
                "no network namespaces: {reason}"
            );
            // Past the capture of the test harness: a skip that nobody sees is a lie.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: no network namespaces (root and iproute2 are needed): {reason}"
            );
            None
        }
    }
}

impl Net {
    fn make(&self) -> Result<(), String> {
        let switch = self.switch();
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", "br0", "up"])?;
        for n in 1..=self.hosts {
            let (host, port) = (self.host(n), format!("p{n}"));
            ip(&["netns", "add", &host])?;
            ip(&["-n", &host, "link", "set", "lo", "up"])?;
            ip(&[
                "link", "add", "eth0", "netns", &host, "type", "veth", "peer", "name", &port, "netns",
                &switch,
            ])?;
            ip(&["-n", &switch, "link", "set", &port, "master", "br0", "up"])?;
            ip(&["-n", &host, "addr", "add", &format!("{}/24", address(n)), "dev", "eth0"])?;
            ip(&["-n", &host, "link", "set", "eth0", "up"])?;
        }
        Ok(())
    }

    fn switch(&self) -> String {
        format!("{}sw", self.name)
    }

    fn host(&self, n: usize) -> String {
        format!("{}h{n}", self.name)
    }

    /// Pulls the cable of a host out, or puts it back.
    pub(crate) fn cable(&self, n: usize, plugged: bool) {
        let state = if plugged { "up" } else { "down" };
        ip(&["-n", &self.switch(), "link", "set", &format!("p{n}"), state]).unwrap();
    }

    /// Loses everything that one host sends to another, or no more of it; what the other one sends arrives. The frames go to
    /// an Ethernet address that nobody has, so that the sender notices nothing. Multicast arrives all the same.
    #[cfg(feature = "durable")]
    pub(crate) fn deaf(&self, to: usize, from: usize, deaf: bool) {
        let (host, to) = (self.host(from), address(to));
        if deaf {
            let nobody = ["lladdr", "02:00:00:00:00:99", "nud", "permanent", "dev", "eth0"];
            ip(&[&["-n", &host, "neigh", "replace", &to][..], &nobody].concat()).unwrap();
        } else {
            ip(&["-n", &host, "neigh", "del", &to, "dev", "eth0"]).unwrap();
        }
    }

    /// Keeps multicast from a host, as a switch that filters it does; whatever is sent to it alone arrives.
    #[cfg(feature = "cli")]
    pub(crate) fn filter_multicast(&self, n: usize) {
        ip(&[
            "-n",
            &self.switch(),
            "link",
            "set",
            &format!("p{n}"),
            "type",
            "bridge_slave",
            "mcast_flood",
            "off",
        ])
        .unwrap();
    }

    /// Lets a plain socket of a host send multicast.
    pub(crate) fn route_multicast(&self, n: usize) {
        ip(&["-n", &self.host(n), "route", "add", "224.0.0.0/4", "dev", "eth0"]).unwrap();
    }

    /// Starts a program on a host.
    pub(crate) fn start(
        &self,
        n: usize,
        program: &str,
        args: &[&str],
        environment: &[(&str, &str)],
    ) -> Process {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.host(n), program])
            .args(args)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let stdin = child.stdin.take();
        Process { host: n, child, stdin, lines, heard: Vec::new() }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for n in 1..=self.hosts {
            let _ = ip(&["netns", "del", &self.host(n)]);
        }
        let _ = ip(&["netns", "del", &self.switch()]);
    }
}

/// The address of a host.
pub(crate) fn address(n: usize) -> String {
    format!("10.77.0.{n}")
}

fn ip(args: &[&str]) -> Result<(), String> {
    let done = Command::new("ip").args(args).output().map_err(|error| format!("ip: {error}"))?;
    if done.status.success() {
        return Ok(());
    }
    Err(format!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&done.stderr).trim()))
}

/// A program on a host (`ip netns exec` becomes it); killed when dropped.
pub(crate) struct Process {
    host: usize,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    heard: Vec<String>,
}

impl Process {
    /// Waits for a line that begins so, and returns the rest of it and how long it took.
    pub(crate) fn hear(&mut self, start: &str, within: Duration) -> (String, Duration) {
        let begun = Instant::now();
        loop {
            let left = within.saturating_sub(begun.elapsed());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    if let Some(rest) = line.strip_prefix(start) {
                        return (rest.trim().to_owned(), begun.elapsed());
                    }
                    self.heard.push(line);
                }
                Err(error) => {
                    let why = if error == RecvTimeoutError::Timeout { "in time" } else { "before it ended" };
                    panic!("host {} did not say `{start}` {why}; it said {:#?}", self.host, self.heard);
                }
            }
        }
    }

    /// Everything that was said and not yet heard, and what is said in the next time.
    pub(crate) fn listen(&mut self, time: Duration) -> Vec<String> {
        let begun = Instant::now();
        let mut lines = std::mem::take(&mut self.heard);
        while let Ok(line) = self.lines.recv_timeout(time.saturating_sub(begun.elapsed())) {
            lines.push(line);
        }
        lines
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a line to its standard input.
    pub(crate) fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap();
        stdin.flush().unwrap();
    }

    /// SIGTERM; waits for its end, and says whether that was a good one.
    #[cfg(feature = "durable")]
    pub(crate) fn terminate(&mut self, within: Duration) -> bool {
        let begun = Instant::now();
        assert!(
            Command::new("kill").args(["-s", "TERM", &self.id().to_string()]).status().unwrap().success()
        );
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.success();
            }
            assert!(begun.elapsed() < within, "host {} does not end", self.host);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
