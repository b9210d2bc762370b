//! Whether a call would be taken, without making it.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout_at;

use super::{client::instance, pending::Outcome};
use crate::{
    discovery::NodeId,
    envelope::{self, ErrorBody, Header, Kind, check_subject, root},
    fabric::{
        error::CallError,
        link::Lane,
        shared::{Shared, deadline},
        wire::{self, Envelope, Outgoing},
    },
    message::Frame,
};

/// Sends a call with no time left: permissions and the method are looked at, and no handler is begun.
pub(crate) async fn may_call(shared: &Arc<Shared>, node: NodeId, subject: &str) -> Result<(), CallError> {
    check_subject(subject)?;
    let after = shared.options.call_timeout;
    let late = |_| CallError::Deadline { subject: subject.to_owned(), after };
    timeout_at(deadline(after), ask(shared, node, subject)).await.map_err(late)?
}

async fn ask(shared: &Arc<Shared>, node: NodeId, subject: &str) -> Result<(), CallError> {
    let gone = |reason: String| CallError::NoInstance { service: root(subject).into(), reason: Some(reason) };
    let link = shared.link(&instance(shared, node).await?);
    let connection = link.connected(shared, Lane::Calls).await.map_err(|reason| gone(reason.to_string()))?;
    let (ticket, outcome) = connection.pending.register().map_err(|reason| gone(reason.to_string()))?;
    let mut header = Header::new(Kind::Call, ticket.id);
    header.fields.dl = Some(0);
    let request = Outgoing {
        envelope: Envelope::Delimiter,
        subject,
        header: &wire::header(&header),
        body: Frame::Slice(envelope::NIL),
    };
    while !connection.pipe.try_put(&request).is_queued() {
        if !connection.pipe.space().await {
            return Err(gone("the connection has just ended".into()));
        }
    }
    let error: ErrorBody = match outcome.await {
        Ok(Outcome::Error(body)) => envelope::decode_body(&body)
            .map_err(|reason| CallError::Decode { subject: subject.to_owned(), reason })?,
        Ok(Outcome::Reply(_)) => return Ok(()),
        Ok(Outcome::Lost(reason)) => return Err(gone(reason.to_string())),
        Err(_) => return Err(gone("the connection ended".into())),
    };
    let subject = subject.to_owned();
    match error.code.as_str() {
        // It would have been taken, had there been time.
        "RS0415" => Ok(()),
        "RS0412" => Err(CallError::NoSuchMethod { subject, instance: link.name() }),
        "RS0418" => {
            let retry_after = error.retry_after_ms.map(Duration::from_millis);
            Err(CallError::Full { subject, reason: error.message, retry_after })
        }
        "RS0440" => Err(CallError::Forbidden { subject, reason: error.message }),
        _ => Err(gone(error.message)),
    }
}
