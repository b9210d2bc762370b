//! `ripstop doctor`: why nodes do not find each other, or do not talk, and what to change.
//!
//! ```text
//!   here      the file, the limits of the system, keys, listeners, multicast: nothing of the fabric is needed
//!   there     everyone who is known: reachable? the same fabric, keys, rules, time?
//!   cause     what an error means, and which line of configuration mends it: no I/O
//! ```

mod cause;
mod here;
mod there;

use serde_json::json;

use crate::{
    args::{Common, DoctorArgs},
    exit::Failure,
    join,
    output::Output,
    peers,
};

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Grade {
    Ok,
    /// As it is meant to be, perhaps.
    Note,
    Warning,
    Problem,
}

impl Grade {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// What was looked at, and how it is.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Finding {
    grade: Grade,
    what: &'static str,
    says: String,
    /// The line to change, and where.
    fix: Option<String>,
}

impl Finding {
    fn new(grade: Grade, what: &'static str, says: impl Into<String>) -> Self {
        Self { grade, what, says: says.into(), fix: None }
    }

    fn ok(what: &'static str, says: impl Into<String>) -> Self {
        Self::new(Grade::Ok, what, says)
    }

    fn note(what: &'static str, says: impl Into<String>) -> Self {
        Self::new(Grade::Note, what, says)
    }

    fn warning(what: &'static str, says: impl Into<String>) -> Self {
        Self::new(Grade::Warning, what, says)
    }

    fn problem(what: &'static str, says: impl Into<String>) -> Self {
        Self::new(Grade::Problem, what, says)
    }

    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

/// Says what is found as it is found: some looks take seconds.
struct Report {
    out: Output,
    problems: u32,
    warnings: u32,
}

impl Report {
    fn say(&mut self, findings: impl IntoIterator<Item = Finding>) -> Result<(), Failure> {
        for finding in findings {
            self.problems += u32::from(finding.grade == Grade::Problem);
            self.warnings += u32::from(finding.grade == Grade::Warning);
            let Finding { grade, what, says, fix } = finding;
            if self.out.json {
                self.out.value(&json!({"grade": grade.as_str(), "what": what, "says": says, "fix": fix}))?;
                continue;
            }
            self.out.line(format!("{:<8} {what:<12} {says}", grade.as_str()))?;
            for line in fix.iter().flat_map(|fix| fix.lines()) {
                self.out.line(format!("{:22}→ {line}", ""))?;
            }
        }
        self.out.flush()
    }

    fn end(mut self) -> Result<(), Failure> {
        let many = |count: u32, what: &str| match count {
            1 => format!("1 {what}"),
            _ => format!("{count} {what}s"),
        };
        if self.problems > 0 {
            return Err(Failure::failed(format!(
                "{}, {}",
                many(self.problems, "problem"),
                many(self.warnings, "warning")
            )));
        }
        if !self.out.json {
            let warnings =
                if self.warnings > 0 { many(self.warnings, "warning") } else { "all is well".into() };
            self.out.line(format!("no problem found; {warnings}"))?;
        }
        self.out.flush()
    }
}

pub(crate) async fn run(common: &Common, args: DoctorArgs, out: Output) -> Result<(), Failure> {
    let mut report = Report { out, problems: 0, warnings: 0 };
    report.say(here::descriptors(rlimit::Resource::NOFILE.get().ok()))?;
    let loaded = match join::load(common) {
        Ok(loaded) => loaded,
        Err(error) => {
            report.say([Finding::problem("config", error.to_string())])?;
            return report.end();
        }
    };
    report.say([here::config(&loaded)])?;
    #[cfg(feature = "tls")]
    report.say(here::keys(&loaded))?;
    let listeners = match here::listeners(common, &loaded) {
        Ok(listeners) => listeners,
        Err(finding) => {
            report.say([*finding])?;
            return report.end();
        }
    };
    // As a passing client: the service's own ports may be its own already.
    let client = Common { listen: join::any_port(&listeners), ..common.clone() };
    let joined = match join::join(&client, None, args.subject.as_deref().unwrap_or_default()).await {
        Ok(joined) => joined,
        Err(failure) => {
            report.say([cause::of_start(&failure.to_string())])?;
            return report.end();
        }
    };
    report.say(here::multicast(&joined).await)?;
    peers::settle(&joined, common.timeout.unwrap_or(peers::AT_MOST)).await;
    let found = joined.node.peers().await;
    report.say(here::ports(&listeners, &found, &joined))?;
    report.say(there::peers(&joined, &found).await)?;
    if let Some(subject) = &args.subject {
        report.say(there::method(&joined, &found, subject).await)?;
    }
    joined.leave().await;
    report.end()
}
