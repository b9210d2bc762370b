//! The README and `docs/` are tested like code: their commands run, their output is compared, their links lead somewhere.
//!
//! In a block marked `console`, lines that begin with `$ ` are commands for bash and the lines after them what they
//! print, standard error included; `…` stands for anything within a line, alone for any number of lines. An HTML
//! comment before the block says how it is tested:
//! - `<!-- test: stays -->`: a command that stays until the document ends, as in a terminal of its own, and says that it
//!   is ready (`stays, silent`: it does not);
//! - `<!-- test: ci -->`: too long for here; `.ci/run` contains the commands literally;
//! - `<!-- test: docs/security.md -->`: that document has the same commands, and runs them.
//!
//! Needs bash and jq (and Python, see `common/python.rs`). Without them it skips loudly; `CI`, or `readme` in
//! `REQUIRE_RIPSTOP`, makes that a failure.

#![cfg(all(unix, feature = "cli"))]
#![allow(clippy::unwrap_used)] // the helpers are tests, too

#[path = "common/python.rs"]
mod python;

use std::{
    fs::{self, File},
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use ripstop::config::Config;
use serde_json::Value;

/// No block of commands takes longer.
const LIMIT: Duration = Duration::from_secs(120);
/// What is printed after the prompt of the command before it.
const END: &str = "\u{1e}";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every document, by path.
fn documents() -> Vec<(PathBuf, String)> {
    let mut paths: Vec<PathBuf> =
        ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"].map(|name| root().join(name)).into();
    paths.extend(fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// A fenced block of a document.
#[derive(Debug)]
struct Block {
    line: usize,
    language: String,
    /// What the comment before it says.
    test: String,
    text: String,
}

fn blocks(text: &str) -> Vec<Block> {
    let (mut blocks, mut open, mut test) = (Vec::new(), None::<Block>, String::new());
    for (number, line) in text.lines().enumerate() {
        match &mut open {
            Some(block) if line == "```" => {
                block.text.truncate(block.text.trim_end().len());
                blocks.extend(open.take());
            }
            Some(block) => block.text.extend([line, "\n"]),
            None => {
                if let Some(language) = line.strip_prefix("```") {
                    let test = std::mem::take(&mut test);
                    open = Some(Block {
                        line: number + 1,
                        language: language.into(),
                        test,
                        text: String::new(),
                    });
                } else if let Some(comment) = line.strip_prefix("<!-- test: ") {
                    test = comment.trim_end_matches(" -->").into();
                } else {
                    test.clear();
                }
            }
        }
    }
    assert!(open.is_none(), "a block that is not closed: {open:?}");
    blocks
}

/// The commands of a block, each with what it prints.
fn commands(block: &Block) -> Vec<(String, Vec<String>)> {
    let mut commands: Vec<(String, Vec<String>)> = Vec::new();
    for line in block.text.lines() {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command.into(), Vec::new())),
            (None, Some((_, output))) => output.push(line.into()),
            (None, None) => panic!("line {}: output without a command", block.line),
        }
    }
    commands
}

/// Whether a line is as shown; `…` stands for anything, and one space for many, because columns have the width of what
/// is in them.
fn line_matches(shown: &str, line: &str) -> bool {
    let narrow = |line: &str| line.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    let (shown, line) = (narrow(shown), narrow(line));
    let mut parts = shown.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

fn matches<S: AsRef<str>>(shown: &[S], lines: &[&str]) -> bool {
    match shown.split_first() {
        None => lines.is_empty(),
        Some((first, rest)) if first.as_ref() == "…" => {
            (0..=lines.len()).any(|n| matches(rest, &lines[n..]))
        }
        Some((first, rest)) => lines
            .split_first()
            .is_some_and(|(line, lines)| line_matches(first.as_ref(), line) && matches(rest, lines)),
    }
}

#[test]
fn the_comparison_compares() {
    assert!(line_matches("a…c", "a b c") && line_matches("…", "") && line_matches("a", "a "));
    assert!(!line_matches("a…c", "a b") && !line_matches("a", "ab") && !line_matches("ab…b", "ab"));
    assert!(matches(&["a", "…", "b"], &["a", "x", "y", "b"]) && matches(&["…"], &[]));
    assert!(!matches(&["a"], &["a", "b"]) && !matches(&["a", "b"], &["a"]));
}

/// A reader's machine: terminals that meet nobody else.
struct Desk {
    dir: tempfile::TempDir,
    cwd: PathBuf,
    path: String,
    staying: Vec<Staying>,
}

/// A command in a terminal of its own.
struct Staying {
    child: Child,
    file: PathBuf,
    line: usize,
    shown: Vec<String>,
}

impl Staying {
    fn as_shown(&self) -> bool {
        matches(&self.shown, &self.printed().lines().collect::<Vec<_>>())
    }

    fn printed(&self) -> String {
        fs::read_to_string(&self.file).unwrap()
    }
}

impl Desk {
    fn new(cwd: Option<&Path>, python: Option<&Path>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ripstop = Path::new(env!("CARGO_BIN_EXE_ripstop")).parent();
        let first = ripstop.into_iter().chain(python).map(|dir| format!("{}:", dir.display()));
        let path = first.collect::<String>() + &std::env::var("PATH").unwrap();
        let cwd = cwd.map_or_else(|| dir.path().to_owned(), Path::to_owned);
        Self { dir, cwd, path, staying: Vec::new() }
    }

    /// Starts bash on a script, in a process group of its own; both outputs go to one file.
    fn start(&self, script: &str, file: &Path) -> Child {
        let out = File::create(file).unwrap();
        let mut command = Command::new("bash");
        command.args(["-c", script]).current_dir(&self.cwd).process_group(0).stdin(Stdio::null());
        command.stdout(out.try_clone().unwrap()).stderr(out);
        for (name, _) in std::env::vars_os() {
            // What the outer cargo and CI say is not for the reader's commands.
            let foreign = name.to_string_lossy().starts_with("RIPSTOP_")
                || name == "RUST_LOG"
                || name == "RUST_BACKTRACE";
            if foreign {
                command.env_remove(name);
            }
        }
        command.env("RIPSTOP_RUNTIME_DIR", self.dir.path()).env("PATH", &self.path).env("COLUMNS", "100");
        command.env("XDG_STATE_HOME", self.dir.path().join("state"));
        command.spawn().unwrap()
    }

    fn stays(&mut self, block: &Block) {
        let [(command, shown)] = commands(block).try_into().unwrap();
        let file = self.dir.path().join(format!("terminal-{}", block.line));
        let child = self.start(&command, &file);
        self.staying.push(Staying { child, file, line: block.line, shown });
        let staying = self.staying.last().unwrap();
        // What it prints is compared at the end.
        let begun = Instant::now();
        while block.test == "stays" && staying.printed().is_empty() && begun.elapsed() < LIMIT {
            sleep(Duration::from_millis(20));
        }
    }

    fn run(&self, name: &str, block: &Block) {
        let commands = commands(block);
        let script: String =
            commands.iter().map(|(command, _)| format!("{command}\nprintf '\\n{END}\\n'\n")).collect();
        let file = self.dir.path().join(format!("block-{}", block.line));
        let mut child = self.start(&script, &file);
        let begun = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if begun.elapsed() > LIMIT {
                kill(&mut child);
                panic!("{name}, block at line {}: still running after {LIMIT:?}", block.line);
            }
            sleep(Duration::from_millis(10));
        }
        let printed = fs::read_to_string(&file).unwrap();
        let end = format!("\n{END}\n");
        let mut outputs = printed.split(&end);
        for (command, shown) in commands {
            let output = outputs.next().unwrap();
            let lines: Vec<&str> = output.trim_end_matches('\n').lines().collect();
            assert!(
                matches(&shown, &lines),
                "{name}, block at line {}: `{command}` printed\n{}\n\nwhere the document shows\n{}\n",
                block.line,
                lines.join("\n"),
                shown.join("\n"),
            );
        }
    }

    fn close(mut self, name: &str) {
        for staying in &self.staying {
            let begun = Instant::now();
            while !staying.as_shown() && begun.elapsed() < Duration::from_secs(10) {
                sleep(Duration::from_millis(20));
            }
            assert!(
                staying.as_shown(),
                "{name}, block at line {}: printed\n{}\nwhere the document shows\n{}\n",
                staying.line,
                staying.printed(),
                staying.shown.join("\n"),
            );
        }
        self.staying.iter_mut().for_each(|staying| kill(&mut staying.child));
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.staying.iter_mut().for_each(|staying| kill(&mut staying.child));
    }
}

/// Ends a process and those that it started.
fn kill(child: &mut Child) {
    if child.try_wait().unwrap().is_none() {
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status();
        let _ = child.wait();
    }
}

fn has(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Whether something that a document's commands need is missing; that is said loudly.
fn skipped(name: &str, needs: &[(&str, bool)]) -> bool {
    let missing: Vec<&str> = needs.iter().filter(|(_, there)| !there).map(|(what, _)| *what).collect();
    if missing.is_empty() {
        return false;
    }
    let required =
        std::env::var("REQUIRE_RIPSTOP").is_ok_and(|list| list.split(',').any(|one| one == "readme"));
    assert!(!required && std::env::var_os("CI").is_none(), "{name} needs {}", missing.join(", "));
    // Past the capture of the test harness: a skip that nobody sees is a lie.
    let _ = writeln!(std::io::stderr(), "SKIPPED: the commands of {name} need {}", missing.join(", "));
    true
}

/// Runs a document from top to bottom. `cwd`: where; else an empty directory.
fn run(name: &str, cwd: Option<&Path>) {
    let text = fs::read_to_string(root().join(name)).unwrap();
    let jq = !text.contains("jq") || has("jq", &["--version"]);
    if skipped(name, &[("bash", has("bash", &["-c", "true"])), ("jq", jq)]) {
        return;
    }
    let python = if text.contains("$ python") {
        let Some(python) = python::python(&format!("the commands of {name}")) else { return };
        python.parent()
    } else {
        None
    };
    let mut desk = Desk::new(cwd, python);
    for block in blocks(&text).iter().filter(|block| block.language == "console") {
        match block.test.as_str() {
            "" => desk.run(name, block),
            "stays" | "stays, silent" => desk.stays(block),
            "ci" => {}
            other if other.ends_with(".md") => {
                let there = fs::read_to_string(root().join(other)).unwrap();
                for line in block.text.lines().filter(|line| line.starts_with("$ ")) {
                    assert!(there.lines().any(|theirs| theirs == line), "{name}: {other} has no {line}");
                }
            }
            other => panic!("{name}, line {}: no such test: {other}", block.line),
        }
    }
    desk.close(name);
}

#[test]
fn the_readme_does_what_it_says() {
    run("README.md", Some(root()));
}

#[test]
fn the_command_line_does_what_its_document_says() {
    run("docs/cli.md", None);
}

#[test]
fn the_configuration_does_what_its_document_says() {
    run("docs/configuration.md", None);
}

#[test]
fn observability_does_what_its_document_says() {
    run("docs/observability.md", None);
}

#[test]
fn security_does_what_its_document_says() {
    run("docs/security.md", None);
}

#[test]
fn what_takes_too_long_here_runs_in_ci() {
    let ci = fs::read_to_string(root().join(".ci/run")).unwrap();
    for (path, text) in documents() {
        for block in blocks(&text).iter().filter(|block| block.test == "ci") {
            for (command, _) in commands(block) {
                assert!(ci.contains(&command), "{}: `{command}` is not in .ci/run", path.display());
            }
        }
    }
}

/// The README's program is an example, which is compiled, and run by the README's own commands.
#[test]
fn the_programs_shown_are_the_examples() {
    let example = fs::read_to_string(root().join("examples/hello.rs")).unwrap();
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let programs: Vec<_> = blocks(&readme).into_iter().filter(|block| block.language == "rust").collect();
    assert!(!programs.is_empty());
    for block in programs {
        assert!(example.contains(&block.text), "README.md, line {}: not as in examples/hello.rs", block.line);
    }
}

/// A link to a file that is there; and [`name`](file.rs), to a test of that name.
#[test]
fn links_lead_somewhere() {
    let mut tests = 0;
    for (path, text) in documents() {
        let prose: String = text.split("```").step_by(2).collect();
        for (at, _) in prose.match_indices("](") {
            let (before, after) = (&prose[..at], &prose[at + 2..]);
            let (shown, link) = (before.rsplit('[').next().unwrap(), after.split(')').next().unwrap());
            if link.starts_with("http") || link.starts_with('#') {
                continue;
            }
            let file = path.parent().unwrap().join(link.split('#').next().unwrap());
            assert!(file.exists(), "{}: {link} does not exist", path.display());
            let name = shown.trim_matches('`');
            let is_name = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if is_name && shown != name && link.ends_with(".rs") {
                let found = fs::read_to_string(&file).unwrap().contains(&format!("fn {name}("));
                assert!(found, "{}: {link} has no test {name}", path.display());
                tests += 1;
            }
        }
    }
    assert!(tests > 20, "only {tests} links to tests: does this still look for them?");
}

/// Every key with its default.
#[test]
fn every_key_is_documented_with_its_default() {
    let text = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let config = serde_json::to_value(Config::default()).unwrap();
    let mut keys = Vec::new();
    leaves("", &config, &mut keys);
    assert!(keys.len() > 20);
    for (key, value) in keys {
        let row = text.lines().find(|line| line.starts_with(&format!("| `{key}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/configuration.md has no row for {key}"));
        let default = row.split('|').nth(2).unwrap().trim().trim_matches('`');
        let alone = key.rsplit('.').next().unwrap();
        let shown = match &value {
            Value::Null => "none".into(),
            Value::Array(list) if list.is_empty() => "[]".into(),
            Value::Object(_) => "{}".into(),
            value => value.to_string(),
        };
        // The default as written may look otherwise ("16MiB"), so it is read as the program reads it.
        let table = key.rsplit_once('.').map(|(table, _)| format!("[{table}]\n")).unwrap_or_default();
        if shown != default {
            let read = Config::parse(&format!("{table}{alone} = {default}\n"));
            let read = read
                .unwrap_or_else(|error| panic!("{key}: default {default:?} where it is {shown}: {error}"));
            assert_eq!(read, Config::default(), "{key}: {default} where it is {shown}");
        }
    }
    for block in blocks(&text).iter().filter(|block| block.language == "toml") {
        if let Err(error) = Config::parse(&block.text) {
            panic!("docs/configuration.md, block at line {}: {error}", block.line);
        }
    }
}

fn leaves(prefix: &str, value: &Value, keys: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (name, value) in map {
                let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                leaves(&key, value, keys);
            }
        }
        leaf => keys.push((prefix.to_owned(), leaf.clone())),
    }
}

/// Every flag of every command, and of the commands below it.
#[test]
fn every_flag_is_documented() {
    let text = fs::read_to_string(root().join("docs/cli.md")).unwrap();
    let mut commands: Vec<String> = subcommands(&help(""));
    assert!(commands.len() > 10);
    while let Some(command) = commands.pop() {
        assert!(text.contains(&format!("`ripstop {command}")), "docs/cli.md does not tell of {command}");
        let help = help(&command);
        commands.extend(subcommands(&help).iter().map(|name| format!("{command} {name}")));
        for flag in help.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 2) {
            let flag = flag.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            assert!(
                flag == "--help" || flag == "--version" || text.contains(&format!("`{flag}")),
                "{command} {flag}"
            );
        }
    }
}

fn help(command: &str) -> String {
    let mut ripstop = Command::new(env!("CARGO_BIN_EXE_ripstop"));
    let output = ripstop.args(command.split_whitespace()).arg("--help").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn subcommands(help: &str) -> Vec<String> {
    let lines =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.split_whitespace().next().map(str::to_owned));
    names.filter(|name| name != "help").collect()
}
