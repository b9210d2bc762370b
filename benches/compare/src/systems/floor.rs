//! What the machine can do: frames behind their length over tokio's TCP, written and read in batches of 64 KiB. No
//! queue, no socket, no message.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{System, WITH_EVENTS};
use crate::Result;
use crate::work::{self, Clock, Counter, FAN, Kind, Shared, Work, here};

pub const SYSTEM: System = System { name: "floor", kinds: WITH_EVENTS, size: None, helper: None, stay, come };

const BATCH: usize = 64 * 1024;

fn stay(work: &Work) -> Result<()> {
    let work = *work;
    super::runtime(&work)?.block_on(async move { tokio::task::spawn(listen(work)).await? })
}

async fn listen(work: Work) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    here(listener.local_addr()?);
    if work.kind == Kind::FanOut {
        return publish(work, listener).await;
    }
    let (mut stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    let mut frames = Frames::new(work.size);
    let (mut counter, mut answers) = (Counter::new(&work), Vec::new());
    loop {
        // 0: the other side is done.
        let come = frames.read(&mut stream).await?;
        if come == 0 {
            return Ok(());
        }
        if work.kind == Kind::OneWay {
            if counter.add(come)? {
                return Ok(());
            }
            continue;
        }
        for _ in 0..come {
            answers.extend_from_slice(&frame(&work));
        }
        stream.write_all(&answers).await?;
        answers.clear();
    }
}

fn come(work: &Work, endpoint: &str) -> Result<()> {
    let (work, endpoint) = (*work, endpoint.to_owned());
    super::runtime(&work)?.block_on(async move { tokio::task::spawn(go(work, endpoint)).await? })
}

async fn go(work: Work, endpoint: String) -> Result<()> {
    if work.kind == Kind::FanOut {
        return subscribe(work, endpoint).await;
    }
    let mut stream = TcpStream::connect(endpoint).await?;
    stream.set_nodelay(true)?;
    let frame = frame(&work);
    if work.kind == Kind::OneWay {
        let mut batch = Vec::with_capacity(BATCH + frame.len());
        for _ in 0..work.count {
            batch.extend_from_slice(&frame);
            if batch.len() >= BATCH {
                stream.write_all(&batch).await?;
                batch.clear();
            }
        }
        return Ok(stream.write_all(&batch).await?);
    }
    let (mut frames, mut clock, mut open) = (Frames::new(work.size), Clock::new(&work), 0);
    let mut left = work.count;
    while left > 0 {
        clock.asks();
        let more = work.window() - open;
        stream.write_all(&frame.repeat(more as usize)).await?;
        let come = frames.read(&mut stream).await?;
        if come == 0 {
            return Err("the other side has gone".into());
        }
        open = work.window() - come;
        for _ in open..work.window() {
            clock.answered();
            left = left.saturating_sub(1);
        }
    }
    clock.end(&work)
}

async fn publish(work: Work, listener: TcpListener) -> Result<()> {
    let mut streams = Vec::new();
    for _ in 0..FAN {
        streams.push(listener.accept().await?.0);
    }
    let frame = frame(&work);
    let frames = BATCH.div_ceil(frame.len()) as u64;
    let batch = frame.repeat(frames as usize);
    let mut left = work.count;
    while left > 0 {
        let now = left.min(frames);
        for stream in &mut streams {
            stream.write_all(&batch[..now as usize * frame.len()]).await?;
        }
        left -= now;
    }
    Ok(())
}

async fn subscribe(work: Work, endpoint: String) -> Result<()> {
    let counter = Shared::new(Counter::new(&work).into());
    let mut subscribers = tokio::task::JoinSet::new();
    for _ in 0..FAN {
        let (mut stream, counter) = (TcpStream::connect(&endpoint).await?, counter.clone());
        subscribers.spawn(async move {
            let mut frames = Frames::new(work.size);
            loop {
                match frames.read(&mut stream).await? {
                    // The publisher has gone, and another subscriber has the last of it.
                    0 => return Result::Ok(false),
                    come if work::add(&counter, come)? => return Ok(true),
                    _ => {}
                }
            }
        });
    }
    while let Some(ended) = subscribers.join_next().await {
        if ended?? {
            return Ok(());
        }
    }
    Err("something is missing".into())
}

fn frame(work: &Work) -> Vec<u8> {
    let mut frame = (work.size as u32).to_be_bytes().to_vec();
    frame.extend(work.message());
    frame
}

/// Frames that come, parsed in place.
struct Frames {
    buf: Vec<u8>,
    filled: usize,
}

impl Frames {
    fn new(size: usize) -> Self {
        Self { buf: vec![0; 4 * BATCH + size], filled: 0 }
    }

    /// How many have come with one read; 0: the stream has ended.
    async fn read(&mut self, stream: &mut TcpStream) -> Result<u64> {
        let (mut at, mut come) = (0, 0);
        while come == 0 {
            let read = stream.read(&mut self.buf[self.filled..]).await?;
            if read == 0 {
                return Ok(0);
            }
            self.filled += read;
            while let Some(length) = self.buf[at..self.filled].first_chunk() {
                let end = at + 4 + u32::from_be_bytes(*length) as usize;
                if end > self.filled {
                    break;
                }
                (at, come) = (end, come + 1);
            }
            self.buf.copy_within(at..self.filled, 0);
            self.filled -= at;
            at = 0;
        }
        Ok(come)
    }
}
