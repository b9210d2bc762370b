//! One-way throughput between two processes over TCP loopback: PUSH to PULL.
//!
//! `cargo bench --bench oneway [-- SIZE…]` prints, for each size, millions of messages a second: our sockets with
//! `recv`, with `recv_many`, with `recv_many` over TLS, libzmq (where a C compiler and its headers are:
//! `apt-get install libzmq3-dev`), and the floor: the same frames written in 64 KiB batches and parsed in place, no
//! queue, no message. All take turns, five rounds of them, and the medians are printed, so that a busy machine is
//! unfair to nobody; the ratios to libzmq are the medians of the rounds' own ratios.
//!
//! With `--curve` the first two and libzmq encrypt by CURVE; the floor stays plain.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ripstop::socket::{ConnectOptions, Options, Pull, Push};
use ripstop::zmtp::curve::SecretKey;

/// The switch, and what tells the other process of it.
const CURVE: &str = "--curve";

/// The keys of libzmq's documentation: zmq_curve(7).
fn curve_listening() -> Result<Options> {
    Ok(Options::new().curve_server("JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6".parse()?))
}

fn curve_dialling() -> Result<ConnectOptions> {
    let server = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7".parse()?;
    let client: SecretKey = "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs".parse()?;
    Ok(ConnectOptions::new().curve(server, client.into()))
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let curve = args.iter().any(|arg| arg == CURVE);
    if args.first().is_some_and(|arg| arg == "receive") {
        return receive(&args[1], args[2].parse()?, args[3].parse()?, curve);
    }
    if args.first().is_some_and(|arg| arg == "send") {
        return send(&args[1], args[2].parse()?, args[3].parse()?, curve);
    }
    // `cargo test --benches` and CI run a smoke: little, once.
    let smoke = args.iter().any(|arg| arg == "--test" || arg == "--smoke");
    let mut sizes: Vec<usize> = args.iter().filter_map(|arg| arg.parse().ok()).collect();
    if sizes.is_empty() {
        sizes = vec![16, 128, 1024];
    }
    let libzmq = match build_libzmq() {
        Ok((program, version)) => {
            println!("libzmq {version}");
            Some(program)
        }
        Err(reason) => {
            println!("libzmq not found: {reason}");
            None
        }
    };
    make_keys()?;
    let peers = [Peer::Recv, Peer::Many, Peer::Tls, Peer::Floor].into_iter().chain(libzmq.map(Peer::Libzmq));
    let peers: Vec<_> = peers.collect();
    println!("PUSH to PULL, two processes, TCP loopback, {} cores; million messages/s, medians", cores());
    if curve {
        println!("CURVE, but for TLS and the floor");
    }
    println!(
        "{:>6} {:>7} {:>10} {:>7} {:>7} {:>7} {:>12} {:>17}",
        "bytes", "recv", "recv_many", "tls", "floor", "libzmq", "recv/libzmq", "recv_many/libzmq"
    );
    let (seconds, rounds) = if smoke { (0.02, 1) } else { (1.0, 5) };
    for size in sizes {
        // One list of rates for each peer.
        let mut rates = vec![Vec::new(); peers.len()];
        for _ in 0..rounds {
            for (peer, rates) in peers.iter().zip(&mut rates) {
                // About `seconds` of work, if a byte costs a third of a nanosecond beside the fixed cost.
                // Of encryption, about 4.
                let encrypting = if curve { 1e-6 + size as f64 / 0.25e9 } else { 0.0 };
                let count = (seconds / (1.0 / peer.guess() + size as f64 / 3e9 + encrypting)) as u64;
                rates.push(run(peer, size, count, curve)?);
            }
        }
        let mut row = format!("{size:>6}");
        for (rates, width) in rates.iter().zip([7, 10, 7, 7, 7]) {
            row += &format!(" {:>width$.2}", median(rates.iter().copied()));
        }
        if let [recv, many, _, _, libzmq] = &rates[..] {
            for (ours, width) in [(recv, 12), (many, 17)] {
                let ratio = median(ours.iter().zip(libzmq).map(|(ours, theirs)| ours / theirs));
                row += &format!(" {ratio:>width$.2}");
            }
        }
        println!("{row}");
    }
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Who sends and receives.
enum Peer {
    Recv,
    Many,
    Tls,
    Floor,
    /// The program built from `libzmq_oneway.c`.
    Libzmq(PathBuf),
}

impl Peer {
    /// About how many messages a second, so that each run takes about as long.
    fn guess(&self) -> f64 {
        match self {
            Self::Recv | Self::Many | Self::Tls => 12e6,
            Self::Floor => 25e6,
            Self::Libzmq(_) => 4e6,
        }
    }

    fn receiver(&self) -> Result<Command> {
        let mode = match self {
            Self::Libzmq(program) => {
                let mut command = Command::new(program);
                command.arg("receive");
                return Ok(command);
            }
            Self::Recv => "recv",
            Self::Many => "many",
            Self::Tls => "tls",
            Self::Floor => "floor",
        };
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["receive", mode]);
        Ok(command)
    }

    fn send(&self, endpoint: &str, size: usize, count: u64, curve: bool) -> Result<()> {
        match self {
            Self::Recv | Self::Many | Self::Tls => send(endpoint, size, count, curve),
            Self::Floor => send_raw(endpoint, size, count),
            Self::Libzmq(program) => {
                let mut command = Command::new(program);
                command.args([endpoint, &size.to_string(), &count.to_string()]);
                let sent = command.args(curve.then_some(CURVE)).status()?;
                if sent.success() { Ok(()) } else { Err(format!("libzmq's sender: {sent}").into()) }
            }
        }
    }
}

/// Compiles the same measurement for libzmq; gives the program and libzmq's version.
fn build_libzmq() -> Result<(PathBuf, String)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/libzmq_oneway.c");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libzmq_oneway");
    let built = Command::new("cc").args(["-O2", "-o"]).args([&program, &source]).arg("-lzmq").output()?;
    if !built.status.success() {
        let said = String::from_utf8_lossy(&built.stderr).into_owned();
        return Err(said.lines().next().unwrap_or("cc failed").to_owned().into());
    }
    let version = Command::new(&program).arg("version").output()?;
    Ok((program, String::from_utf8(version.stdout)?.trim().to_owned()))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

/// One run; returns million messages a second.
fn run(peer: &Peer, size: usize, count: u64, curve: bool) -> Result<f64> {
    let mut receiver = peer.receiver()?;
    receiver.args([size.to_string(), count.to_string()]).args(curve.then_some(CURVE));
    let mut receiver = receiver.stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(receiver.stdout.take().ok_or("no stdout")?).lines();
    let endpoint = lines.next().ok_or("no endpoint")??;
    let sent = peer.send(&endpoint, size, count, curve);
    let rate = lines.next().ok_or("the receiver said nothing")??;
    receiver.wait()?;
    sent?;
    Ok(rate.parse()?)
}

fn receive(mode: &str, size: usize, count: u64, curve: bool) -> Result<()> {
    if mode == "floor" {
        return receive_raw(size, count);
    }
    let many = mode != "recv";
    let tls = mode == "tls";
    tokio::runtime::Runtime::new()?.block_on(async move {
        let pull = Pull::with_options(if curve && !tls { curve_listening()? } else { options(tls)? });
        let endpoint = if tls { "tls+tcp://127.0.0.1:0" } else { "tcp://127.0.0.1:0" };
        println!("{}", pull.bind(endpoint).await?);
        let elapsed = tokio::spawn(async move {
            let first = pull.recv().await?;
            assert_eq!(first.size(), size);
            let began = Instant::now();
            let mut received = 1;
            let mut batch = Vec::new();
            while received < count {
                if many {
                    received += pull.recv_many(&mut batch, 4096).await? as u64;
                    batch.clear();
                } else {
                    pull.recv().await?;
                    received += 1;
                }
            }
            Ok::<Duration, ripstop::socket::RecvError>(began.elapsed())
        })
        .await??;
        print_rate(count, elapsed);
        Ok(())
    })
}

fn send(endpoint: &str, size: usize, count: u64, curve: bool) -> Result<()> {
    let endpoint = endpoint.to_owned();
    let tls = endpoint.starts_with("tls");
    let connect = if curve && !tls { curve_dialling()? } else { ConnectOptions::new() };
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async move {
        let push = Push::with_options(options(tls)?);
        push.connect_with(endpoint, connect)?;
        let sender = push.clone();
        tokio::spawn(async move {
            let message = vec![7u8; size];
            for _ in 0..count {
                sender.send(&message).await?;
            }
            Ok::<(), ripstop::socket::SendError>(())
        })
        .await??;
        push.close().await;
        Ok(())
    })
}

fn place(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// A throw-away certificate that both processes read and trust.
fn make_keys() -> Result<()> {
    let key = rcgen::KeyPair::generate()?;
    let params = rcgen::CertificateParams::new(vec!["ripstop.invalid".to_owned()])?;
    let cert = params.self_signed(&key)?;
    std::fs::write(place("oneway-key.pem"), key.serialize_pem())?;
    std::fs::write(place("oneway-cert.pem"), cert.pem())?;
    Ok(())
}

fn options(tls: bool) -> Result<Options> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let options = Options::new();
    if !tls {
        return Ok(options);
    }
    let cert = CertificateDer::from_pem_file(place("oneway-cert.pem"))?;
    let key = PrivateKeyDer::from_pem_file(place("oneway-key.pem"))?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.clone())?;
    let server = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert], key)?;
    let client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(options.tls(server.into(), client.into()))
}

fn print_rate(count: u64, elapsed: Duration) {
    println!("{:.4}", count as f64 / elapsed.as_secs_f64() / 1e6);
}

fn send_raw(endpoint: &str, size: usize, count: u64) -> Result<()> {
    let mut stream = TcpStream::connect(endpoint.trim_start_matches("tcp://"))?;
    stream.set_nodelay(true)?;
    let mut frame = if size < 256 { vec![0, size as u8] } else { vec![2] };
    if size >= 256 {
        frame.extend_from_slice(&(size as u64).to_be_bytes());
    }
    frame.resize(frame.len() + size, 7);
    let mut batch = Vec::with_capacity(64 * 1024 + frame.len());
    for _ in 0..count {
        batch.extend_from_slice(&frame);
        if batch.len() >= 64 * 1024 {
            stream.write_all(&batch)?;
            batch.clear();
        }
    }
    stream.write_all(&batch)?;
    Ok(())
}

fn receive_raw(size: usize, count: u64) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("tcp://{}", listener.local_addr()?);
    let (mut stream, _) = listener.accept()?;
    let header = if size < 256 { 2 } else { 9 };
    let (mut buf, mut filled, mut received) = (vec![0; 256 * 1024 + size + header], 0, 0);
    let mut began = None;
    while received < count {
        filled += stream.read(&mut buf[filled..])?;
        began.get_or_insert_with(Instant::now);
        let mut at = 0;
        while filled - at >= header {
            let len = match buf[at] {
                0 => usize::from(buf[at + 1]),
                _ => u64::from_be_bytes(buf[at + 1..at + 9].try_into()?) as usize,
            };
            if filled - at < header + len {
                break;
            }
            at += header + len;
            received += 1;
        }
        buf.copy_within(at..filled, 0);
        filled -= at;
    }
    print_rate(count, began.map_or(Duration::ZERO, |began| began.elapsed()));
    Ok(())
}
