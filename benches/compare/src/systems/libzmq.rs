//! libzmq 4.3.4, which the crate `zmq` brings along; built without CURVE, for which there is the machine's own.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::{System, WITH_EVENTS};
use crate::Result;
use crate::work::{self, Clock, Counter, FAN, Kind, Measured, Shared, Work, here};

pub const SYSTEM: System =
    System { name: "libzmq", kinds: WITH_EVENTS, size: None, helper: None, stay, come };

/// The machine's own libzmq, with CURVE, from the C program that the benchmark `oneway` has.
pub const CURVE: System = System {
    name: "libzmq CURVE",
    kinds: &[Kind::Curve],
    size: None,
    helper: None,
    stay: |work| {
        let (size, count) = (work.size.to_string(), work.count.to_string());
        let mut receiver =
            program()?.args(["receive", &size, &count, "--curve"]).stdout(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(receiver.stdout.take().ok_or("no output")?).lines();
        here(lines.next().ok_or("it does not say where it is")??);
        let rate: f64 = lines.next().ok_or("no result")??.trim().parse()?;
        work::say(&Measured { memory: None, ..Measured::new(rate * 1e6) })
    },
    come: |work, endpoint| {
        let (size, count) = (work.size.to_string(), work.count.to_string());
        program()?.args([endpoint, &size, &count, "--curve"]).status()?;
        Ok(())
    },
};

/// Compiled by whoever needs it first.
fn program() -> Result<Command> {
    let program = std::env::temp_dir().join(format!("ripstop-compare-libzmq-{}", env!("CARGO_PKG_VERSION")));
    if !program.exists() {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../libzmq_oneway.c");
        let built = Command::new("cc").args(["-O2", "-o"]).arg(&program).args([source, "-lzmq"]).status()?;
        if !built.success() {
            return Err("libzmq's headers are missing (libzmq3-dev)".into());
        }
    }
    Ok(Command::new(program))
}

fn socket(work: &Work, one_way: zmq::SocketType, ask: zmq::SocketType) -> Result<zmq::Socket> {
    let context = zmq::Context::new();
    let kind = if work.kind == Kind::OneWay { one_way } else { ask };
    let socket = context.socket(kind)?;
    // Nothing of what is measured may be dropped or waited for.
    socket.set_sndhwm(100_000)?;
    socket.set_rcvhwm(100_000)?;
    Ok(socket)
}

fn stay(work: &Work) -> Result<()> {
    if work.kind == Kind::FanOut {
        return publish(work);
    }
    let socket = socket(work, zmq::PULL, zmq::ROUTER)?;
    socket.bind("tcp://127.0.0.1:*")?;
    here(socket.get_last_endpoint()?.map_err(|_| "no endpoint")?);
    if work.kind == Kind::OneWay {
        let (mut counter, mut message) = (Counter::new(work), zmq::Message::new());
        loop {
            socket.recv(&mut message, 0)?;
            if counter.add(1)? {
                return Ok(());
            }
        }
    }
    let (mut who, mut body) = (zmq::Message::new(), zmq::Message::new());
    loop {
        socket.recv(&mut who, 0)?;
        socket.recv(&mut body, 0)?;
        socket.send(std::mem::replace(&mut who, zmq::Message::new()), zmq::SNDMORE)?;
        socket.send(std::mem::replace(&mut body, zmq::Message::new()), 0)?;
    }
}

fn come(work: &Work, endpoint: &str) -> Result<()> {
    if work.kind == Kind::FanOut {
        return subscribe(work, endpoint);
    }
    let socket = socket(work, zmq::PUSH, zmq::DEALER)?;
    socket.connect(endpoint)?;
    let message = work.message();
    if work.kind == Kind::OneWay {
        for _ in 0..work.count {
            socket.send(&message[..], 0)?;
        }
        return Ok(());
    }
    let (mut clock, mut answer) = (Clock::new(work), zmq::Message::new());
    for _ in 1..work.window() {
        socket.send(&message[..], 0)?;
    }
    for _ in work.window()..=work.count {
        clock.asks();
        socket.send(&message[..], 0)?;
        socket.recv(&mut answer, 0)?;
        clock.answered();
    }
    clock.end(work)
}

/// Without a high-water mark: it drops what is over it, and the crate can't set `ZMQ_XPUB_NODROP`.
fn publish(work: &Work) -> Result<()> {
    let context = zmq::Context::new();
    let publisher = context.socket(zmq::XPUB)?;
    publisher.set_sndhwm(0)?;
    publisher.set_xpub_verbose(true)?;
    publisher.bind("tcp://127.0.0.1:*")?;
    here(publisher.get_last_endpoint()?.map_err(|_| "no endpoint")?);
    for _ in 0..FAN {
        publisher.recv_bytes(0)?;
    }
    let message = work.message();
    for _ in 0..work.count {
        publisher.send(&message[..], 0)?;
    }
    Ok(())
}

fn subscribe(work: &Work, endpoint: &str) -> Result<()> {
    let counter = Shared::new(Counter::new(work).into());
    let context = zmq::Context::new();
    let (said, hear) = std::sync::mpsc::channel();
    for _ in 0..FAN {
        let subscriber = context.socket(zmq::SUB)?;
        subscriber.set_rcvhwm(0)?;
        subscriber.set_subscribe(b"")?;
        subscriber.connect(endpoint)?;
        let (said, counter) = (said.clone(), counter.clone());
        std::thread::spawn(move || {
            // So many are counted under one lock.
            const BATCH: u64 = 64;
            let mut message = zmq::Message::new();
            let mut count = || -> Result<()> {
                loop {
                    subscriber.recv(&mut message, 0)?;
                    let mut more = 1;
                    while more < BATCH && subscriber.recv(&mut message, zmq::DONTWAIT).is_ok() {
                        more += 1;
                    }
                    if work::add(&counter, more)? {
                        return Ok(());
                    }
                }
            };
            let _ = said.send(count());
        });
    }
    let ended = hear.recv()?;
    // The context waits for all its sockets, and the other threads still have theirs.
    ended.map(|()| std::process::exit(0))
}
