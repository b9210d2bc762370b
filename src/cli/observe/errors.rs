//! `ripstop errors`: what a code means.

use ripstop::code::{Code, Explained, explain, explained};
use serde_json::{Value, json};

use super::args::ErrorsArgs;
use crate::{exit::Failure, output::Output};

pub(crate) fn run(args: &ErrorsArgs, mut out: Output) -> Result<(), Failure> {
    let Some(text) = &args.code else {
        if out.json {
            explained().iter().try_for_each(|one| out.value(&value(one)))?;
        } else {
            let row =
                |one: &Explained| vec![one.code.to_string(), one.fault.to_string(), one.title.to_owned()];
            out.table(&["CODE", "FAULT", "WHAT"], explained().iter().map(row).collect())?;
        }
        return out.flush();
    };
    let digits = text.trim_start_matches(['R', 'r', 'S', 's']);
    let code = digits.parse().map(Code::new);
    let code = code.map_err(|_| {
        Failure::usage(format!("{text} is no code: write RS and four digits, such as RS0415"))
    })?;
    let one = explain(code)
        .ok_or_else(|| Failure::usage(format!("there is no code {code}: `ripstop errors` lists all")))?;
    if out.json {
        out.value(&value(one))?;
    } else {
        out.line(format!("{}: {}", one.code, one.title))?;
        out.line(format!("  whose fault  {}", fault(one)))?;
        out.line(format!("  try again?   {}", one.again))?;
        out.line(format!("  what to do   {}", one.advice))?;
    }
    out.flush()
}

fn fault(one: &Explained) -> String {
    let where_to_look = match one.fault {
        ripstop::Fault::Caller => "the program that called: its arguments",
        ripstop::Fault::Peer => "the other side",
        ripstop::Fault::Network => "the way between the two, or nobody there",
        ripstop::Fault::Config => "ripstop.toml, the environment or a builder's options",
        ripstop::Fault::Local => "this machine: disk, descriptors, ports",
        _ => "somebody else",
    };
    format!("{} ({where_to_look})", one.fault)
}

fn value(one: &Explained) -> Value {
    json!({
        "code": one.code.to_string(), "title": one.title, "fault": one.fault.to_string(),
        "again": one.again.to_string(), "advice": one.advice,
    })
}
