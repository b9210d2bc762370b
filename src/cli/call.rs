//! `ripstop call`.

use ripstop::{Node, fabric::CallError};

use crate::{
    args::{CallArgs, Common},
    body::Body,
    exit::Failure,
    input::Input,
    join,
    output::Output,
};

pub(crate) async fn run(common: &Common, args: CallArgs, mut out: Output) -> Result<(), Failure> {
    let mut input = Input::new(&args.words, &format!("ripstop call {}", args.subject))?;
    let joined = join::join(common, None, &args.subject).await?;
    let done = calls(&joined.node, common, &args.subject, &mut input, &mut out).await;
    joined.leave().await;
    done.map_err(|failure| joined.explain(failure))
}

/// One after the other: a later line may build on what an earlier one did.
async fn calls(
    node: &Node,
    common: &Common,
    subject: &str,
    input: &mut Input,
    out: &mut Output,
) -> Result<(), Failure> {
    while let Some(ask) = input.next().await {
        let ask = ask?;
        let mut call = node.call::<Body, Body>(subject, &ask);
        if let Some(timeout) = common.timeout {
            call = call.timeout(timeout);
        }
        let reply = call.await.map_err(|error| {
            let causes = match &error {
                CallError::Handler { chain, .. } => chain.clone(),
                _ => Vec::new(),
            };
            causes
                .iter()
                .fold(Failure::from(error), |failure, cause| failure.with(format!("\n  because: {cause}")))
        })?;
        if input.is_lines() {
            out.value(&reply)?;
        } else {
            out.pretty(&reply)?;
        }
        out.flush()?;
    }
    Ok(())
}
