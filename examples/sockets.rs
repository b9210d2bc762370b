//! The sockets under the fabric, for their own sake: they talk to every ZeroMQ program.
//!
//! `cargo run --example sockets`

use std::error::Error;

use ripstop::socket::{Event, Pub, Rep, Req, Sub};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Ask and answer. Port 0 takes a free one, and `bind` says which. A pyzmq REQ could connect there as well.
    let rep = Rep::new();
    let endpoint = rep.bind("tcp://127.0.0.1:0").await?;
    let answering = tokio::spawn(async move {
        let question = rep.recv().await?;
        let text = String::from_utf8_lossy(question.frame(0).unwrap_or_default()).to_uppercase();
        rep.send(text.as_str()).await?;
        rep.close().await; // writes what is queued
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    });
    let req = Req::new();
    req.connect(endpoint.clone())?; // returns at once, and connects again whenever the connection is lost
    req.send("how are you?").await?;
    println!(
        "REP at {endpoint} answered {:?}",
        String::from_utf8_lossy(req.recv().await?.frame(0).unwrap_or_default())
    );
    answering.await?.map_err(|error| error.to_string())?;

    // Publish and subscribe. A message is one frame or several; the first one is what subscriptions look at.
    let publisher = Pub::new();
    let mut monitor = publisher.monitor();
    let endpoint = publisher.bind("tcp://127.0.0.1:0").await?;
    let subscriber = Sub::new();
    subscriber.subscribe("weather.");
    subscriber.connect(endpoint)?;
    // What is published before a subscription has arrived goes nowhere, so wait for it.
    while let Some(event) = monitor.next().await {
        println!("PUB: {event}");
        if matches!(event, Event::Subscribed { .. }) {
            break;
        }
    }
    publisher.send(["sports.hockey", "2:1"]).await?; // nobody wants it
    publisher.send(["weather.bern", "sunny", "21 °C"]).await?;
    let message = subscriber.recv().await?;
    let frames: Vec<_> = message.frames().map(String::from_utf8_lossy).collect();
    println!("SUB received {}", frames.join(" | "));

    req.close().await;
    subscriber.close().await;
    publisher.close().await;
    Ok(())
}
