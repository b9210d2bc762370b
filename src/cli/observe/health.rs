//! `ripstop health`: is it ready, for people and for probes.

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, Uri, body::Bytes, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use ripstop::observe::NodeHealth;
use serde_json::json;
use tokio::{net::TcpStream, time::timeout};

use super::{Asked, PATIENCE, args::HealthArgs, ask_all, instances, look, nobody};
use crate::{
    args::Common,
    exit::{Exit, Failure},
    output::Output,
};

/// An answer is a line or some.
const MOST: usize = 64 << 10;

pub(crate) async fn run(common: &Common, args: HealthArgs, mut out: Output) -> Result<(), Failure> {
    if let Some(url) = &args.endpoint {
        return endpoint(common, url, &mut out).await;
    }
    let joined = look(common).await?;
    let there = instances(&joined.node, args.target.as_deref()).await;
    let done = match there.is_empty() {
        true => Err(nobody(&joined, args.target.as_deref())),
        false => {
            let answers = ask_all(&joined.node, &there, |node| async move { node.health().await }).await;
            show(&answers, &mut out)
        }
    };
    joined.leave().await;
    done
}

fn show(answers: &[(Asked, Result<NodeHealth, String>)], out: &mut Output) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for (asked, answer) in answers {
        let (ready, why) = match answer {
            Ok(health) => (health.ready, health.reasons.join("; ")),
            Err(error) => (false, error.clone()),
        };
        if out.json {
            out.value(&json!({
                "service": asked.service, "node": asked.node.to_string(), "ready": ready, "reasons": why,
                "uptime_ms": answer.as_ref().ok().map(|health| health.uptime_ms),
            }))?;
        } else {
            let up = answer.as_ref().map_or_else(
                |_| "-".to_owned(),
                |health| {
                    humantime::format_duration(std::time::Duration::from_secs(health.uptime_ms / 1000))
                        .to_string()
                },
            );
            let ready = if ready { "ready" } else { "not ready" };
            rows.push(vec![asked.service.clone(), asked.node.short(), ready.to_owned(), up, why]);
        }
    }
    if !out.json {
        out.table(&["SERVICE", "INSTANCE", "HEALTH", "UP", "WHY"], rows)?;
    }
    out.flush()?;
    let ready = |answer: &Result<NodeHealth, String>| answer.as_ref().is_ok_and(|health| health.ready);
    match answers.iter().filter(|(_, answer)| !ready(answer)).count() {
        0 => Ok(()),
        count => Err(Failure::failed(format!("{count} of {} not ready", answers.len()))),
    }
}

/// Asks an observe endpoint, as an orchestrator does.
async fn endpoint(common: &Common, url: &str, out: &mut Output) -> Result<(), Failure> {
    let text = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let uri: Uri = text.parse().map_err(|error| Failure::usage(format!("--endpoint {url}: {error}")))?;
    let Some(host) = uri.host().filter(|_| uri.scheme_str() == Some("http")) else {
        return Err(Failure::usage(format!("--endpoint {url}: write http://HOST:PORT")));
    };
    let (host, port) = (host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(9464));
    let path = match uri.path() {
        "" | "/" => "/readyz",
        path => path,
    };
    let limit = common.timeout.unwrap_or(PATIENCE);
    let nobody = |reason: String| Failure::new(Exit::Nobody, format!("{text}: {reason}"));
    let asked = timeout(limit, get(host, port, path)).await;
    let late = |_| {
        Failure::new(
            Exit::Deadline,
            format!("{text}: no answer within {}", humantime::format_duration(limit)),
        )
    };
    let (status, body) = asked.map_err(late)?.map_err(nobody)?;
    if out.json {
        out.value(&json!({"status": status, "body": body.trim_end()}))?;
    } else {
        out.line(body.trim_end())?;
    }
    out.flush()?;
    match status {
        200 => Ok(()),
        status => Err(Failure::failed(format!("{text} answers {status}"))),
    }
}

async fn get(host: &str, port: u16, path: &str) -> Result<(u16, String), String> {
    let stream = TcpStream::connect((host, port)).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let request = Request::get(path).header(HOST, format!("{host}:{port}")).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| error.to_string())?;
    let asked = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let body =
            Limited::new(response.into_body(), MOST).collect().await.map_err(|error| error.to_string())?;
        Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
    };
    // The connection is driven beside it; whatever ends it, the request hears of.
    tokio::select! {
        answer = asked => answer,
        ended = async { let _ = connection.await; std::future::pending().await } => ended,
    }
}
