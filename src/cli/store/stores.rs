//! Every store that can be asked: of this node, if there is one, and of all others.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use ripstop::{
    discovery::NodeId,
    fabric::{DeadLetters, Kept, PushError},
};

use super::args::Place;
use crate::{
    args::Common,
    exit::{Exit, Failure},
    join::{self, Joined},
    output::remark,
    peers::settle,
};

/// A node that is asked.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) node: NodeId,
    pub(super) service: String,
    /// It is the command itself, with a directory.
    pub(super) own: bool,
}

impl Asked {
    /// `service/1a2b3c4d`.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.service, self.node.short())
    }

    /// What names something in its store, everywhere.
    pub(super) fn id(&self, id: u64) -> String {
        format!("{}-{id}", self.node.short())
    }
}

/// All stores.
pub(super) struct Stores {
    pub(super) joined: Joined,
    /// The command has one itself.
    own: bool,
    pub(super) asked: Vec<Asked>,
}

/// Where a command keeps what it owes when nothing else is said.
pub(crate) fn default_dir(common: &Common) -> Result<PathBuf, Failure> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let state = state.or_else(|| std::env::home_dir().map(|home| home.join(".local/state")));
    let state =
        state.ok_or_else(|| Failure::usage("there is no home directory: name one with --data-dir"))?;
    Ok(state.join("ripstop").join(join::fabric(common)?))
}

impl Place {
    pub(crate) fn dir(&self, common: &Common) -> Result<PathBuf, Failure> {
        self.data_dir.clone().map_or_else(|| default_dir(common), Ok)
    }
}

fn has_store(dir: &Path) -> bool {
    dir.join("store.db").is_file()
}

impl Stores {
    /// Finds everyone.
    pub(super) async fn open(common: &Common, place: &Place) -> Result<Self, Failure> {
        let dir = place.dir(common)?;
        if place.data_dir.is_some() && !has_store(&dir) {
            return Err(Failure::usage(format!("there is no store in {}", dir.display())));
        }
        let own = Some(dir).filter(|dir| has_store(dir));
        Self::with(common, own, place.data_dir.is_some()).await
    }

    /// Finds everyone. A directory that was not `named` is left to another command that is at work with it.
    pub(super) async fn with(common: &Common, dir: Option<PathBuf>, named: bool) -> Result<Self, Failure> {
        let (joined, own) = if let Some(dir) = dir {
            match join::start(common, None, "", Some(dir)).await {
                Ok(joined) => (joined, true),
                // Another command is at work with it; its node is among the others.
                Err(error) if !named && error.has_code("RS0408") => {
                    (join::join(common, None, "").await?, false)
                }
                Err(error) => return Err(error),
            }
        } else {
            (join::join(common, None, "").await?, false)
        };
        settle(&joined, common.timeout.unwrap_or(crate::peers::AT_MOST)).await;
        let mut stores = Self { joined, own, asked: Vec::new() };
        stores.look_again().await;
        Ok(stores)
    }

    /// Who is there now.
    pub(super) async fn look_again(&mut self) {
        let node = &self.joined.node;
        let own = Asked { node: node.id(), service: node.service().to_owned(), own: true };
        let others = node.peers().await.into_iter().filter(|peer| peer.rtt.is_some());
        let others =
            others.filter_map(|peer| Some(Asked { node: peer.node?, service: peer.service, own: false }));
        self.asked = self.own.then_some(own).into_iter().chain(others).collect();
    }

    pub(super) fn kept(&self, of: &Asked) -> Kept {
        self.joined.node.kept().at(of.node)
    }

    pub(super) fn letters(&self, of: &Asked) -> DeadLetters {
        self.joined.node.dead_letters().at(of.node)
    }

    /// What a node said; one that has no store is left out, and one that does not say is told of.
    pub(super) fn said<T>(of: &Asked, said: Result<T, PushError>) -> Option<T> {
        match said {
            Ok(said) => Some(said),
            Err(PushError::NoStore) => None,
            Err(error) => {
                remark(format!("warning: {}: {error}", of.name()));
                None
            }
        }
    }

    /// The node and the number in an id such as `1a2b3c4d-17`.
    pub(super) fn find(&self, id: &str) -> Result<(&Asked, u64), Failure> {
        let parts = id.rsplit_once('-').and_then(|(node, id)| Some((node, id.parse().ok()?)));
        let (node, number) = parts
            .ok_or_else(|| Failure::usage(format!("{id} is no id; they are listed like 1a2b3c4d-17")))?;
        let mut found = self.asked.iter().filter(|asked| asked.node.to_string().starts_with(node));
        match (found.next(), found.next()) {
            (Some(asked), None) => Ok((asked, number)),
            (Some(_), Some(_)) => {
                Err(Failure::usage(format!("{node} is the beginning of several nodes' ids")))
            }
            (None, _) => {
                let nobody = Failure::new(Exit::Nobody, format!("no node {node} is there"));
                Err(self.joined.explain(nobody))
            }
        }
    }
}

/// As people read it.
pub(super) fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}

/// How long ago, or how soon, to the second.
pub(super) fn from_now(at: SystemTime) -> String {
    let seconds = |span: std::time::Duration| {
        humantime::format_duration(std::time::Duration::from_secs(span.as_secs()))
    };
    match at.elapsed() {
        Ok(ago) => format!("{} ago", seconds(ago)),
        Err(ahead) => format!("in {}", seconds(ahead.duration())),
    }
}
