//! libzmq 4.3.4, which the crate `zmq` brings along; built without CURVE, so that nothing of it is measured encrypted.

use super::{PLAIN, System};
use crate::Result;
use crate::work::{Clock, Counter, Kind, Work, here};

pub const SYSTEM: System = System { name: "libzmq", kinds: PLAIN, one_way: 4e6, stay, come };

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
