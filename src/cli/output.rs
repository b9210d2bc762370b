//! Tables for people, JSON for programs, logs beside both.

use std::io::{self, BufWriter, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::exit::Failure;

/// A value that is no longer than this is printed on one line.
const ONE_LINE: usize = 78;

/// Standard output, buffered; call [`Output::flush`] before waiting for anything.
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) terminal: bool,
    out: BufWriter<io::Stdout>,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let stdout = io::stdout();
        Self { json, terminal: stdout.is_terminal(), out: BufWriter::with_capacity(64 << 10, stdout) }
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.out.write_all(bytes)?)
    }

    /// One line of text.
    pub(crate) fn line(&mut self, text: impl std::fmt::Display) -> Result<(), Failure> {
        Ok(writeln!(self.out, "{text}")?)
    }

    /// One value as one line.
    pub(crate) fn value(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.out, value).map_err(io::Error::from)?;
        Ok(self.out.write_all(b"\n")?)
    }

    /// One value, over several lines when a person reads it and it is long.
    pub(crate) fn pretty(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Failure> {
        let fits = serde_json::to_string(value).is_ok_and(|line| line.len() <= ONE_LINE);
        if self.json || !self.terminal || fits {
            return self.value(value);
        }
        serde_json::to_writer_pretty(&mut self.out, value).map_err(io::Error::from)?;
        Ok(self.out.write_all(b"\n")?)
    }

    /// A table: lines around it on a terminal, only aligned columns elsewhere.
    pub(crate) fn table(&mut self, header: &[&str], rows: Vec<Vec<String>>) -> Result<(), Failure> {
        let mut table = Table::new();
        if self.terminal {
            table.load_style(presets::UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
        } else {
            table.load_style(presets::NOTHING);
        }
        if !header.is_empty() {
            table.set_header(header);
        }
        table.add_rows(rows);
        if !self.terminal {
            for column in table.column_iter_mut() {
                column.set_padding((0, 2));
            }
        }
        self.line(table.trim_fmt())
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }
}

/// A remark for people, on standard error, so that it never mixes with what programs read.
pub(crate) fn remark(text: impl std::fmt::Display) {
    // Nothing can be done about a standard error that is closed.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Logs go to standard error: warnings, or more with `-v`; `RUST_LOG` chooses when no `-v` is given.
pub(crate) fn logs(verbose: u8) {
    let filter = match verbose {
        0 => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn")),
        1 => EnvFilter::new("warn,ripstop=info"),
        2 => EnvFilter::new("info,ripstop=debug"),
        _ => EnvFilter::new("debug,ripstop=trace"),
    };
    let ansi = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(ansi).init();
}
