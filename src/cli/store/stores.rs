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
        let (joined, own) = if has_store(&dir) {
            match join::start(common, None, "", Some(dir)).await {
                Ok(joined) => (joined, true),
                // Another command is at work with it; its node is among the others.
                Err(error) if place.data_dir.is_none() && error.has_code("RS0408") => {
                    (join::join(common, None, "").await?, false)
                }
                Err(error) => return Err(error),
            }
        } else {
            (join::join(common, None, "").await?, false)
        };
        settle(&joined, common.timeout.unwrap_or(crate::peers::AT_MOST)).await;
        let mut asked = Vec::new();
        if own {
            let service = joined.node.service().to_owned();
            asked.push(Asked { node: joined.node.id(), service, own: true });
        }
        let others = joined.node.peers().await.into_iter().filter(|peer| peer.rtt.is_some());
        asked.extend(
            others.filter_map(|peer| Some(Asked { node: peer.node?, service: peer.service, own: false })),
        );
        Ok(Self { joined, asked })
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
