//! `ripstop explain`: what holds for calls to a subject, and where each value came from.

use crate::{
    args::{Common, ExplainArgs},
    exit::Failure,
    join,
    output::Output,
};

pub(crate) fn run(common: &Common, args: &ExplainArgs, mut out: Output) -> Result<(), Failure> {
    ripstop::envelope::check_subject(&args.subject).map_err(Failure::usage)?;
    let settings = join::load(common)?.explain(&args.subject);
    if out.json {
        for setting in &settings {
            out.value(setting)?;
        }
    } else {
        let mut before = "";
        let rows = settings.into_iter().map(|setting| {
            // Each layer is named once.
            let layer = if setting.layer == before { "" } else { setting.layer };
            before = setting.layer;
            vec![layer.to_owned(), setting.value, setting.key, setting.origin.to_string()]
        });
        let rows = rows.collect();
        out.table(&["LAYER", "VALUE", "KEY", "FROM"], rows)?;
    }
    out.flush()
}
