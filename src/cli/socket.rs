//! `ripstop socket`: a raw ZeroMQ socket in the shell.

mod raw;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use ripstop::Message;
use serde_json::{Value, json};
use tokio::{sync::Notify, time::timeout};

use self::raw::Raw;
use crate::{
    args::{Common, Kind, SocketArgs},
    exit::{Exit, Failure},
    input::Lines,
    join::deadline,
    output::{Output, remark},
    stop::stop,
};

/// Messages printed for one wake-up.
const BATCH: usize = 1024;
/// Once all messages are received, lines that still come are sent; this long without one is the end.
const IDLE: Duration = Duration::from_millis(250);

pub(crate) async fn run(common: &Common, args: SocketArgs, mut out: Output) -> Result<(), Failure> {
    check(&args)?;
    let socket = Raw::open(&args)?;
    let stop = stop();
    for url in &args.bind {
        let endpoint = socket.bind(url).await?.to_string();
        // Said only where it is news.
        if endpoint != *url {
            remark(format!("listening at {endpoint}"));
        }
    }
    for url in &args.connect {
        socket.connect(url)?;
    }
    // Whoever listens may still get another peer.
    let dials = if args.bind.is_empty() { args.connect.len() } else { 0 };
    let mut printing = Printing { left: args.count.unwrap_or(u64::MAX), router: args.kind == Kind::Router };
    let all = async {
        tokio::select! {
            done = talk(&socket, &args, &mut printing, &mut out) => done?,
            failure = socket.refused(dials) => return Err(failure),
        }
        out.flush()?;
        socket.close().await;
        Ok(())
    };
    let done = tokio::select! {
        done = all => done,
        () = stop => Ok(()),
        () = deadline(common.timeout) => Err(Failure::new(Exit::Deadline, "not done in the time given")),
    };
    out.flush()?;
    done
}

/// Refuses what could only hang or be ignored.
fn check(args: &SocketArgs) -> Result<(), Failure> {
    let kind = raw::name(args.kind);
    if args.bind.is_empty() && args.connect.is_empty() {
        return Err(Failure::usage(format!(
            "where? add --bind or --connect: ripstop socket {kind} --bind tcp://127.0.0.1:5555"
        )));
    }
    if args.echo && !matches!(args.kind, Kind::Rep | Kind::Router | Kind::Dealer | Kind::Pair) {
        return Err(Failure::usage(format!(
            "--echo is for rep, router, dealer and pair; {kind} cannot send back"
        )));
    }
    if args.count.is_some() && matches!(args.kind, Kind::Pub | Kind::Push) {
        return Err(Failure::usage(format!("--count counts received messages, and {kind} receives none")));
    }
    if !args.subscribe.is_empty() && !matches!(args.kind, Kind::Sub | Kind::Xsub) {
        return Err(Failure::usage(format!("--subscribe is for sub and xsub, not for {kind}")));
    }
    Ok(())
}

/// Sends and receives until it is over.
async fn talk(
    socket: &Raw,
    args: &SocketArgs,
    printing: &mut Printing,
    out: &mut Output,
) -> Result<(), Failure> {
    match args.kind {
        Kind::Sub | Kind::Pull => receive(socket, false, printing, out).await,
        Kind::Rep if args.echo => receive(socket, true, printing, out).await,
        Kind::Router | Kind::Dealer | Kind::Pair if args.echo => receive(socket, true, printing, out).await,
        Kind::Req => request(socket, printing, out).await,
        Kind::Rep => reply(socket, printing, out).await,
        Kind::Pub | Kind::Push => send(socket, args, Lines::stdin(), &Progress::default()).await.map(drop),
        Kind::Dealer | Kind::Router | Kind::Pair | Kind::Xpub | Kind::Xsub => {
            both(socket, args, printing, out).await
        }
    }
}

/// Sends lines and prints messages, independently of each other.
async fn both(
    socket: &Raw,
    args: &SocketArgs,
    printing: &mut Printing,
    out: &mut Output,
) -> Result<(), Failure> {
    let progress = Arc::new(Progress::default());
    let sending = send(socket, args, Lines::stdin(), &progress);
    tokio::pin!(sending);
    let receiving = receive(socket, false, printing, out);
    tokio::pin!(receiving);
    let mut sent = None;
    loop {
        tokio::select! {
            done = &mut sending, if sent.is_none() => {
                let any = done?;
                sent = Some(any);
                // With a count, what is still to come is waited for; and without a line this is no sender.
                if any && args.count.is_none() {
                    return Ok(());
                }
            }
            done = &mut receiving => {
                done?;
                break;
            }
        }
    }
    // All is received. What standard input holds now is still sent.
    while sent.is_none() {
        tokio::select! {
            done = &mut sending => return done.map(drop),
            quiet = timeout(IDLE, progress.0.notified()) => if quiet.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Notified for each batch of lines sent.
#[derive(Default)]
struct Progress(Notify);

/// Sends each line until there is no more; says whether there was any.
async fn send(
    socket: &Raw,
    args: &SocketArgs,
    mut lines: Lines,
    progress: &Progress,
) -> Result<bool, Failure> {
    let router = args.kind == Kind::Router;
    let mut any = false;
    let mut first = lines.next().await;
    if first.is_some() && matches!(args.kind, Kind::Pub | Kind::Xpub) {
        // Else everything that is read before the first subscriber has come would be lost.
        socket.subscribers(args.wait_subscribers).await;
    }
    while let Some(line) = first {
        socket.send(&message(&line?, router)).await?;
        any = true;
        if !lines.has_ready() {
            progress.0.notify_one();
        }
        first = lines.next().await;
    }
    Ok(any)
}

/// Prints each message, and sends it back if `echo`, until the count is reached or the socket is closed.
async fn receive(socket: &Raw, echo: bool, printing: &mut Printing, out: &mut Output) -> Result<(), Failure> {
    let mut messages = Vec::new();
    while printing.left > 0 {
        let most = BATCH.min(usize::try_from(printing.left).unwrap_or(BATCH));
        socket.receive(&mut messages, most).await?;
        for message in messages.drain(..) {
            printing.print(&message, out)?;
            if echo {
                socket.send_back(&message).await?;
            }
        }
        out.flush()?;
    }
    Ok(())
}

/// REQ: each line is a request, and its reply is printed before the next.
async fn request(socket: &Raw, printing: &mut Printing, out: &mut Output) -> Result<(), Failure> {
    let mut lines = Lines::stdin();
    let mut reply = Vec::new();
    while printing.left > 0 {
        let Some(line) = lines.next().await else { return Ok(()) };
        socket.send(&message(&line?, false)).await?;
        socket.receive(&mut reply, 1).await?;
        for message in reply.drain(..) {
            printing.print(&message, out)?;
        }
        if !lines.has_ready() {
            out.flush()?;
        }
    }
    Ok(())
}

/// REP: each request is printed, and the next line is its reply.
async fn reply(socket: &Raw, printing: &mut Printing, out: &mut Output) -> Result<(), Failure> {
    let mut lines = Lines::stdin();
    let mut request = Vec::new();
    while printing.left > 0 {
        socket.receive(&mut request, 1).await?;
        for message in request.drain(..) {
            printing.print(&message, out)?;
        }
        out.flush()?;
        // Without a reply the next request cannot be taken.
        let Some(line) = lines.next().await else { return Ok(()) };
        socket.send(&message(&line?, false)).await?;
    }
    Ok(())
}

/// A line as a message: a tab separates frames. A router's first frame says where to, and may be written as hex.
fn message(line: &Bytes, router: bool) -> Message {
    let hex = if router { line.split(|byte| *byte == b'\t').next().and_then(unhex) } else { None };
    if hex.is_none() && !line.contains(&b'\t') {
        return Message::from(line.clone());
    }
    let frames = line.split(|byte| *byte == b'\t');
    match hex {
        Some(first) => Message::from_frames(std::iter::once(first.as_slice()).chain(frames.skip(1))),
        None => Message::from_frames(frames),
    }
}

fn unhex(frame: &[u8]) -> Option<Vec<u8>> {
    let digits = frame.strip_prefix(b"0x").filter(|digits| !digits.is_empty())?;
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    pairs.iter().map(|[high, low]| Some((digit(*high)? * 16 + digit(*low)?) as u8)).collect()
}

/// How messages become lines.
struct Printing {
    /// Messages still to come.
    left: u64,
    /// A router prints what could be read back as hex as hex, too.
    router: bool,
}

impl Printing {
    fn print(&mut self, message: &Message, out: &mut Output) -> Result<(), Failure> {
        self.left -= 1;
        if out.json {
            let frames: Vec<_> = message.frames().map(as_json).collect();
            return out.value(&json!({"frames": frames}));
        }
        for (index, frame) in message.frames().enumerate() {
            if index > 0 {
                out.raw(b"\t")?;
            }
            if is_printable(frame) && !(self.router && index == 0 && unhex(frame).is_some()) {
                out.raw(frame)?;
            } else {
                out.raw(hex(frame).as_bytes())?;
            }
        }
        out.raw(b"\n")
    }
}

fn as_json(frame: &[u8]) -> Value {
    match std::str::from_utf8(frame) {
        Ok(text) => text.into(),
        Err(_) => json!({"hex": &hex(frame)[2..]}),
    }
}

/// Whether a frame can be part of a line as it is. A carriage return can: it ends the lines of some files.
fn is_printable(frame: &[u8]) -> bool {
    let control = |byte: &u8| (*byte < 0x20 && *byte != b'\r') || *byte == 0x7f;
    !frame.iter().any(control) && std::str::from_utf8(frame).is_ok()
}

fn hex(frame: &[u8]) -> String {
    use std::fmt::Write;
    frame.iter().fold("0x".to_owned(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(line: &'static [u8], router: bool) -> Vec<Vec<u8>> {
        message(&Bytes::from_static(line), router).frames().map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn lines_become_frames() {
        assert_eq!(frames(b"a b", false), [b"a b"]);
        assert_eq!(frames(b"a\t\tb", false), [&b"a"[..], b"", b"b"]);
        assert_eq!(frames(b"0x00ff\thi", false), [&b"0x00ff"[..], b"hi"]);
        assert_eq!(frames(b"0x00ff\thi", true), [&b"\x00\xff"[..], b"hi"]);
        assert_eq!(frames(b"0x0\thi", true), [&b"0x0"[..], b"hi"]);
        assert_eq!(frames(b"", false), [b""]);
    }

    #[test]
    fn frames_that_would_break_a_line_are_hex() {
        assert!(is_printable("Grüße\r".as_bytes()));
        assert!(
            !is_printable(b"a\tb")
                && !is_printable(b"a\n")
                && !is_printable(b"\xff")
                && !is_printable(b"\x1b[2J")
        );
        assert_eq!(hex(b"\x00k\xff"), "0x006bff");
        assert_eq!(unhex(b"0x006bff"), Some(b"\x00k\xff".to_vec()));
        assert_eq!(unhex("0xé1".as_bytes()), None);
    }
}
