//! Keys and rules that change while the node runs.

use std::{
    collections::HashMap,
    path::PathBuf,
    pin::pin,
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

use crate::{
    config::{AllowRule, Config},
    fabric::{
        guard::Who,
        shared::{Phase, Shared},
    },
    security::{KeyStore, Permissions, Refusal},
    socket::pipe::Pipe,
    sync::lock,
    watch::Touches,
};

/// Certificates run out without anything changing.
const LOOK: Duration = Duration::from_secs(60);
/// A peer's certificate that has no longer to live is looked for anew at each look.
const NEAR: Duration = Duration::from_secs(300);
/// A connection under a CA that is trusted no more is given this long to be replaced by another, so that nothing of it is
/// lost. Whoever is revoked gets none.
const GRACE: Duration = Duration::from_secs(5);

impl Shared {
    /// Ends every connection that would not be let in with the keys there are now; without `strict`, except for those of
    /// a CA that has gone.
    ///
    /// Blocks: long lists take a while.
    fn recheck(&self, strict: bool) {
        let mut pipes: Vec<_> = lock(&self.accepted).values().map(|(pipe, _)| pipe.clone()).collect();
        pipes.extend(lock(&self.retired).iter().filter_map(Weak::upgrade));
        for link in &self.links {
            pipes.extend(link.connections().map(|connection| connection.pipe.clone()));
        }
        let known: Vec<_> = pipes.into_iter().filter_map(|pipe| Some((Who::of(&pipe)?, pipe))).collect();
        // A peer has several connections, and each proves the same.
        let mut verdicts = HashMap::new();
        for (who, pipe) in &known {
            let verdict =
                verdicts.entry((&who.identity, &who.proof)).or_insert_with(|| self.guard.recheck(who));
            match verdict {
                Err(Refusal::UnknownIssuer) if !strict => {}
                Err(refusal) => {
                    tracing::warn!(who = %who.identity, remote = pipe.origin().remote(), reason = %refusal, "connection closed");
                    metrics::counter!("ripstop_connections_refused_total", "reason" => refusal.label())
                        .increment(1);
                    pipe.abort(&refusal.to_string());
                }
                Ok(()) => {}
            }
        }
    }

    /// Replaces dialled connections whose peer's certificate is soon over: it may have another by now.
    fn renew_ending(&self) {
        let soon = SystemTime::now() + NEAR;
        let is_due = |pipe: &Pipe| Who::of(pipe).and_then(|who| who.ends()).is_some_and(|ends| ends < soon);
        self.links.iter().for_each(|link| link.renew(is_due));
    }

    /// These rules are in force from now on, for what is under way, too.
    fn enforce(&self, table: Permissions) {
        self.guard.replace(table);
        self.topics.look_again();
        self.pulls.look_again(self);
        self.reconcile();
    }
}

async fn closed(phase: &mut watch::Receiver<Phase>) {
    // An error: the node is gone altogether.
    let _ = phase.wait_for(|phase| *phase >= Phase::Closed).await;
}

/// Follows the keys until the node is closed.
pub(super) async fn keys(shared: Weak<Shared>, keys: Arc<KeyStore>, mut phase: watch::Receiver<Phase>) {
    let mut changed = keys.changed();
    let mut standing = keys.current().standing();
    let mut watching = pin!(keys.clone().watch());
    let mut wait = LOOK;
    loop {
        let strict = tokio::select! {
            () = closed(&mut phase) => return,
            // It goes on for as long as it is polled.
            () = &mut watching => return,
            Ok(()) = changed.changed() => false,
            () = tokio::time::sleep(wait) => true,
        };
        let Some(shared) = shared.upgrade() else { return };
        let checking = shared.clone();
        // It fails only when the runtime ends.
        let _ = tokio::task::spawn_blocking(move || checking.recheck(strict)).await;
        shared.renew_ending();
        wait = if strict { LOOK } else { GRACE };
        let now = keys.current().standing();
        if now != standing {
            standing = now;
            shared.guard.renew();
        }
    }
}

/// Where rules come from.
pub(super) struct Rules {
    pub(super) file: PathBuf,
    /// The program's own, on top of those in the file.
    pub(super) program: Vec<AllowRule>,
    /// What was read last.
    pub(super) in_force: Config,
}

/// Follows the rules in a file until the node is closed. While they are broken or away, those read last stay.
pub(super) async fn rules(shared: Weak<Shared>, rules: Rules, mut phase: watch::Receiver<Phase>) {
    let Rules { file, program, mut in_force } = rules;
    let mut touches = match Touches::of([file.as_path()]) {
        Ok(touches) => touches,
        Err(error) => {
            tracing::error!(file = %file.display(), %error, "cannot watch it: new rules take a restart");
            return;
        }
    };
    let mut complained = None;
    loop {
        let loaded = Config::load(Some(&file)).map(|loaded| loaded.config);
        let read = loaded.map_err(|error| error.to_string()).and_then(|config| {
            let same = config.allow == in_force.allow
                && config.security.deny_by_default == in_force.security.deny_by_default;
            let rules = [config.allow.as_slice(), program.as_slice()].concat();
            let table = Permissions::new(&rules, config.security.deny_by_default);
            table.map(|table| (!same).then_some((config, table))).map_err(|error| error.to_string())
        });
        match read {
            Ok(new) => {
                complained = None;
                if let Some((config, table)) = new {
                    in_force = config;
                    let Some(shared) = shared.upgrade() else { return };
                    shared.enforce(table);
                    {
                        let mut known = crate::sync::write(&shared.config);
                        known.allow.clone_from(&in_force.allow);
                        known.security.deny_by_default = in_force.security.deny_by_default;
                    }
                    tracing::info!(file = %file.display(), rules = in_force.allow.len(), "new rules are in force");
                }
            }
            // Once for each mistake: it is read again now and then.
            Err(error) if complained.as_ref() != Some(&error) => {
                tracing::error!(%error, "the rules read before stay in force");
                complained = Some(error);
            }
            Err(_) => {}
        }
        tokio::select! {
            () = closed(&mut phase) => return,
            () = touches.next() => {}
        }
    }
}
