//! What the user gives: a JSON argument, or standard input line by line.

use std::io::{self, BufRead};

use bytes::{Bytes, BytesMut};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::{body::Body, exit::Failure};

/// The values to send.
#[derive(Debug)]
pub(crate) enum Input {
    /// From the argument.
    One(Option<Body>),
    /// From standard input, one a line; blank lines are skipped.
    Lines { lines: Lines, number: usize },
}

impl Input {
    /// From the words that stand where one JSON value should. `command` is the command so far, for the error's example.
    pub(crate) fn new(words: &[String], command: &str) -> Result<Self, Failure> {
        match words {
            [] => Ok(Self::One(Some(Body(Value::Null)))),
            [dash] if dash == "-" => Ok(Self::Lines { lines: Lines::stdin(), number: 0 }),
            [word] => match serde_json::from_str(word) {
                Ok(value) => Ok(Self::One(Some(Body(value)))),
                Err(error) => Err(not_json(word, &error, command)),
            },
            words => {
                let example = quoted(&words.join(" "));
                Err(Failure::usage(format!(
                    "one JSON value expected, but the shell passed {} words: {}\n  \
                     quote it as a whole: {command} {example}",
                    words.len(),
                    words.join(" ")
                )))
            }
        }
    }

    /// Whether the values come from standard input.
    pub(crate) fn is_lines(&self) -> bool {
        matches!(self, Self::Lines { .. })
    }

    /// The next value. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Result<Body, Failure>> {
        match self {
            Self::One(value) => value.take().map(Ok),
            Self::Lines { lines, number } => loop {
                let line = match lines.next().await? {
                    Ok(line) => line,
                    Err(error) => return Some(Err(error)),
                };
                *number += 1;
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return Some(serde_json::from_slice(&line).map(Body).map_err(|error| {
                    let what = reason(&error);
                    Failure::usage(format!(
                        "line {number} of standard input is not JSON: {what}, at column {}",
                        error.column()
                    ))
                }));
            },
        }
    }
}

/// Standard input in lines, read by a thread of its own, because a read of a terminal cannot be cancelled.
#[derive(Debug)]
pub(crate) struct Lines {
    batches: mpsc::Receiver<io::Result<Vec<Bytes>>>,
    ready: std::vec::IntoIter<Bytes>,
}

impl Lines {
    /// Starts reading. Of use once per process.
    pub(crate) fn stdin() -> Self {
        let (sender, batches) = mpsc::channel(4);
        std::thread::spawn(move || {
            let mut stdin = io::BufReader::with_capacity(256 << 10, io::stdin());
            let mut pending = BytesMut::new();
            loop {
                let batch = read_lines(&mut stdin, &mut pending);
                let last = !matches!(&batch, Ok(lines) if !lines.is_empty());
                if sender.blocking_send(batch).is_err() || last {
                    return;
                }
            }
        });
        Self { batches, ready: Vec::new().into_iter() }
    }

    /// The next line, without its end. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Failure>> {
        loop {
            if let Some(line) = self.ready.next() {
                return Some(Ok(line));
            }
            match self.batches.recv().await? {
                Ok(lines) if lines.is_empty() => return None,
                Ok(lines) => self.ready = lines.into_iter(),
                Err(error) => {
                    return Some(Err(Failure::failed(format!("cannot read standard input: {error}"))));
                }
            }
        }
    }

    /// Whether the next line is there already.
    pub(crate) fn has_ready(&self) -> bool {
        self.ready.len() > 0
    }
}

/// Every whole line of one read; at the end, what remains. No line means the end.
fn read_lines(input: &mut impl BufRead, pending: &mut BytesMut) -> io::Result<Vec<Bytes>> {
    loop {
        let read = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        let count = read.len();
        if count == 0 {
            let rest = std::mem::take(pending).freeze();
            return Ok(if rest.is_empty() { Vec::new() } else { vec![rest] });
        }
        let whole = read.iter().rposition(|byte| *byte == b'\n').map(|at| pending.len() + at + 1);
        pending.extend_from_slice(read);
        input.consume(count);
        if let Some(whole) = whole {
            let chunk = pending.split_to(whole).freeze();
            let lines = chunk.split_inclusive(|byte| *byte == b'\n');
            return Ok(lines.map(|line| chunk.slice_ref(&line[..line.len() - 1])).collect());
        }
    }
}

fn not_json(word: &str, error: &serde_json::Error, command: &str) -> Failure {
    let why = format!("not JSON: {word}\n  {}, at column {}", reason(error), error.column());
    let hint = if word.starts_with(['{', '[']) && !word.contains('"') {
        format!(
            "\n  the shell has taken the quotes; put single quotes around the whole: {command} {}",
            quoted(word)
        )
    } else if word.starts_with(['{', '[', '"']) {
        format!("\n  a value looks like this: {command} '{{\"name\": \"Ada\"}}'")
    } else {
        format!("\n  a string needs its own quotes inside the shell's: {command} {}", quoted(word))
    };
    Failure::usage(why).with(hint)
}

/// serde_json's text without its "at line 1 column 2".
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

/// What the user may have meant, quoted for a shell.
fn quoted(text: &str) -> String {
    let json = repaired(text).unwrap_or_else(|| Value::from(text)).to_string();
    format!("'{}'", json.replace('\'', r"'\''"))
}

/// `{name: Ada, qty: 3}` as the object it was before the shell took the quotes: flat objects only.
fn repaired(text: &str) -> Option<Value> {
    if let Ok(value) = serde_json::from_str(text) {
        return Some(value);
    }
    let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    let bare = |word: &str| word.trim().trim_matches(['"', '\'']).to_owned();
    let pair = |part: &str| {
        let (key, value) = part.split_once(':')?;
        let value = serde_json::from_str(value.trim()).unwrap_or_else(|_| Value::from(bare(value)));
        Some((bare(key), value))
    };
    inner.split(',').map(pair).collect::<Option<serde_json::Map<_, _>>>().map(Value::Object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(words: &[&str]) -> String {
        let words: Vec<_> = words.iter().map(ToString::to_string).collect();
        Input::new(&words, "ripstop call a.b").unwrap_err().to_string()
    }

    #[test]
    fn errors_show_the_quoting() {
        assert!(refused(&["hello"]).contains(r#"ripstop call a.b '"hello"'"#));
        assert!(refused(&["it's"]).contains(r#"'"it'\''s"'"#));
        assert!(refused(&["{name: Ada, qty: 3}"]).contains(r#"'{"name":"Ada","qty":3}'"#));
        assert!(refused(&["{name:", "Ada}"]).contains(r#"'{"name":"Ada"}'"#));
        assert!(refused(&[r#"{"name": }"#]).contains("at column 10"));
    }

    #[test]
    fn lines_of_every_shape() {
        let mut pending = BytesMut::new();
        let mut input = io::BufReader::with_capacity(4, &b"a\n\nbcdef\r\ng"[..]);
        let mut all = Vec::new();
        loop {
            let batch = read_lines(&mut input, &mut pending).unwrap();
            if batch.is_empty() {
                break;
            }
            all.extend(batch);
        }
        assert_eq!(all, [&b"a"[..], b"", b"bcdef\r", b"g"]);
    }
}
