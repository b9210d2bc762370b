//! Commands that look: is it there, is it well, how fast is it, what does that code mean.

pub(crate) mod args;
pub(crate) mod errors;
pub(crate) mod health;
pub(crate) mod ping;
pub(crate) mod stats;
pub(crate) mod top;

use std::time::Duration;

use ripstop::{
    Node,
    discovery::NodeId,
    fabric::{CallError, Inspect},
};
use tokio::task::JoinSet;

use crate::{
    args::Common,
    exit::{Exit, Failure},
    join::{self, Joined},
    peers::{AT_MOST, settle},
};

/// What one instance may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// An instance that is asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) node: NodeId,
    pub(crate) service: String,
    pub(crate) address: String,
}

impl Asked {
    /// `service/1a2b3c4d`.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.service, self.node.short())
    }
}

/// Joins and waits until the sources have said what they know.
async fn look(common: &Common) -> Result<Joined, Failure> {
    let joined = join::join(common, None, "").await?;
    settle(&joined, common.timeout.unwrap_or(AT_MOST)).await;
    Ok(joined)
}

/// Everyone who is there, or the instances of one service; commands like this one are left out, unless they are asked for.
pub(crate) async fn instances(node: &Node, service: Option<&str>) -> Vec<Asked> {
    let there = node.peers().await.into_iter().filter(|peer| match service {
        Some(service) => peer.service == service,
        None => peer.service != join::CLIENT,
    });
    there
        .filter_map(|peer| {
            let address = peer.endpoints.first().map_or_else(|| "-".to_owned(), ToString::to_string);
            Some(Asked { node: peer.node?, service: peer.service, address })
        })
        .collect()
}

fn nobody(joined: &Joined, service: Option<&str>) -> Failure {
    let nobody = match service {
        Some(service) => format!("no instance of {service} is there"),
        None => "nobody is there".to_owned(),
    };
    joined.explain(Failure::new(Exit::Nobody, nobody))
}

/// Asks all of them, side by side; in their order.
pub(crate) async fn ask_all<T, F>(
    node: &Node,
    of: &[Asked],
    ask: impl Fn(Inspect) -> F,
) -> Vec<(Asked, Result<T, String>)>
where
    T: Send + 'static,
    F: Future<Output = Result<T, CallError>> + Send + 'static,
{
    let mut asking = JoinSet::new();
    for (n, asked) in of.iter().cloned().enumerate() {
        let answer = ask(node.inspect(asked.node));
        asking.spawn(async move {
            let answer = match tokio::time::timeout(PATIENCE, answer).await {
                Ok(answer) => answer.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
            };
            (n, asked, answer)
        });
    }
    let mut answers = asking.join_all().await;
    answers.sort_by_key(|(n, ..)| *n);
    answers.into_iter().map(|(_, asked, answer)| (asked, answer)).collect()
}

/// As people read it: `0.25 ms`, `1.20 s`.
pub(crate) fn took(duration: Option<Duration>) -> String {
    match duration {
        None => "-".to_owned(),
        Some(duration) if duration >= Duration::from_millis(100) && duration < Duration::from_secs(1) => {
            format!("{:.0} ms", duration.as_secs_f64() * 1e3)
        }
        Some(duration) if duration < Duration::from_secs(1) => {
            format!("{:.2} ms", duration.as_secs_f64() * 1e3)
        }
        Some(duration) => format!("{:.2} s", duration.as_secs_f64()),
    }
}
