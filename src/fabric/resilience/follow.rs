//! `[resilience]` in a file, followed while the node runs.

use std::{path::PathBuf, sync::Weak};

use tokio::sync::watch;

use crate::{
    config::Config,
    fabric::shared::{Phase, Shared},
    watch::Touches,
};

/// Where it comes from, and what was read last.
pub(crate) struct Follow {
    pub(crate) file: PathBuf,
    pub(crate) in_force: Config,
}

impl Follow {
    /// Until the node is closed. While the file is broken or away, what was read last stays.
    pub(crate) async fn resilience(self, shared: Weak<Shared>, mut phase: watch::Receiver<Phase>) {
        let Self { file, mut in_force } = self;
        let mut touches = match Touches::of([file.as_path()]) {
            Ok(touches) => touches,
            Err(error) => {
                tracing::error!(file = %file.display(), %error, "cannot watch it: a new [resilience] takes a restart");
                return;
            }
        };
        let mut complained = None;
        loop {
            // Only this table: the program may have set the others itself.
            let read = Config::load(Some(&file)).and_then(|loaded| {
                let new = Config { resilience: loaded.config.resilience, ..in_force.clone() };
                new.check().map(|()| new)
            });
            match read {
                Ok(new) => {
                    complained = None;
                    if new.resilience != in_force.resilience {
                        let Some(shared) = shared.upgrade() else { return };
                        shared.targets.replace(&new);
                        shared.rates.set(new.resilience.caller_rate);
                        in_force = new;
                        tracing::info!(file = %file.display(), "a new [resilience] is in force");
                    }
                }
                // Once for each mistake: it is read again now and then.
                Err(error) if complained.as_ref() != Some(&error) => {
                    tracing::error!(%error, "the [resilience] read before stays in force");
                    complained = Some(error);
                }
                Err(_) => {}
            }
            tokio::select! {
                _ = phase.wait_for(|phase| *phase >= Phase::Closed) => return,
                () = touches.next() => {}
            }
        }
    }
}
