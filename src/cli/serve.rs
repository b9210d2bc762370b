//! `ripstop serve`: any program becomes a method.

use std::{
    process::{ExitStatus, Stdio},
    sync::Arc,
};

use ripstop::fabric::HandlerError;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
};

use crate::{
    args::{Common, ServeArgs},
    body::Body,
    exit::Failure,
    join,
    output::Output,
    stop::stop,
};

/// What a command may print as its reply: as much as a message may hold by default.
const MAX_REPLY: u64 = 16 << 20;
/// What is kept of its standard error for the caller.
const MAX_ERROR: u64 = 4 << 10;

pub(crate) async fn run(common: &Common, args: ServeArgs, mut out: Output) -> Result<(), Failure> {
    // The service that callers look for is the subject's first token.
    let service = args.subject.split('.').next().unwrap_or_default();
    let joined = join::join(common, Some(service), &args.subject).await?;
    let node = &joined.node;
    let command: Option<Arc<str>> = args.command.as_deref().map(Arc::from);
    let _served = node
        .serve(&args.subject, move |ask: Body, _context| {
            let command = command.clone();
            async move {
                match command {
                    Some(command) => answer(&command, &ask.0).await.map(Body),
                    None => Ok(ask),
                }
            }
        })
        .concurrency(usize::from(args.concurrency))
        .await?;

    let stop = stop();
    let endpoints: Vec<_> = node.endpoints().iter().map(ToString::to_string).collect();
    if out.json {
        let state = json!({"serving": args.subject, "service": node.service(), "fabric": node.fabric(),
            "node": node.id().to_string(), "endpoints": endpoints});
        out.value(&state)?;
    } else {
        out.line(format!("serving {} at {}; Ctrl-C ends it", args.subject, endpoints.join(", ")))?;
    }
    out.flush()?;
    stop.await;
    node.drain().await;
    Ok(())
}

/// Runs the command for one request. Dropping the future kills it.
pub(crate) async fn answer(command: &str, ask: &Value) -> Result<Value, HandlerError> {
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own: all of a pipeline can be killed, and Ctrl-C lets requests finish.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| HandlerError::new(format!("cannot run sh: {error}")))?;
    let mut group = Group(child.id());
    let (reply, errors, status) = talk(&mut child, ask).await?;
    group.0 = None;
    if !status.success() {
        let errors = String::from_utf8_lossy(&errors);
        let errors = errors.trim_end();
        return Err(HandlerError::new(match errors {
            "" => format!("the command ended with {status}"),
            _ => format!("the command ended with {status}: {errors}"),
        }));
    }
    if reply.len() as u64 > MAX_REPLY {
        return Err(HandlerError::new(format!("the command printed more than {MAX_REPLY} bytes")));
    }
    Ok(match serde_json::from_slice(&reply) {
        Ok(value) => value,
        Err(_) => {
            let text = String::from_utf8_lossy(&reply);
            let text = text.strip_suffix('\n').unwrap_or(&text);
            Value::from(text.strip_suffix('\r').unwrap_or(text))
        }
    })
}

/// Feeds the command, and reads all that it says, at the same time, so that neither side waits for the other.
async fn talk(child: &mut Child, ask: &Value) -> Result<(Vec<u8>, Vec<u8>, ExitStatus), std::io::Error> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let mut request = ask.to_string();
    request.push('\n');
    let feed = async move {
        if let Some(mut stdin) = stdin {
            // A command that does not read its input (`date`) is no failure.
            let _ = stdin.write_all(request.as_bytes()).await;
        }
    };
    let ((), reply, errors) = tokio::join!(feed, read(stdout, MAX_REPLY + 1), read(stderr, MAX_ERROR));
    Ok((reply?, errors?, child.wait().await?))
}

/// The first `limit` bytes; the rest is read and dropped, so that the command can end.
async fn read(stream: Option<impl AsyncRead + Unpin>, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    if let Some(mut stream) = stream {
        (&mut stream).take(limit).read_to_end(&mut kept).await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    }
    Ok(kept)
}

/// Kills a whole process group when dropped, unless disarmed: `kill_on_drop` alone reaches only the shell.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let Some(group) = self.0 else { return };
        // Not on this thread: it belongs to the runtime. The shell's `kill` saves us `unsafe`.
        std::thread::spawn(move || {
            let kill = format!("kill -KILL -{group}");
            let done = std::process::Command::new("sh").args(["-c", &kill]).stderr(Stdio::null()).status();
            if let Err(error) = done {
                tracing::warn!(group, %error, "a cancelled command could not be killed");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn replies_are_json_or_text() {
        let ask = json!({"name": "Ada"});
        assert_eq!(answer("cat", &ask).await.unwrap(), ask);
        assert_eq!(answer("echo 1 2", &ask).await.unwrap(), json!("1 2"));
        assert_eq!(answer("echo 12", &ask).await.unwrap(), json!(12));
        assert_eq!(answer("true", &ask).await.unwrap(), json!(""));
    }

    #[tokio::test]
    async fn a_failing_command_says_why() {
        let error = answer("echo out of stock >&2; exit 3", &Value::Null).await.unwrap_err();
        assert_eq!(error.message(), "the command ended with exit status: 3: out of stock");
    }

    #[tokio::test]
    async fn large_both_ways() {
        let ask = Value::from("x".repeat(1 << 20));
        assert_eq!(answer("cat", &ask).await.unwrap(), ask);
        assert!(answer("head -c 17000000 /dev/zero", &Value::Null).await.is_err());
    }

    #[tokio::test]
    async fn a_cancelled_pipeline_is_killed() {
        let marker = std::env::temp_dir().join(format!("ripstop-serve-{}", std::process::id()));
        let command = format!("(sleep 1; touch {0}) | cat", marker.display());
        let cut = tokio::time::timeout(std::time::Duration::from_millis(200), answer(&command, &Value::Null));
        assert!(cut.await.is_err());
        tokio::time::sleep(std::time::Duration::from_millis(1300)).await;
        assert!(!marker.exists());
    }
}
