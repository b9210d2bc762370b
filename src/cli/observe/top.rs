//! `ripstop top`: who is there and what they do, live.

mod screen;

use std::{io::IsTerminal, time::Duration};

use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event},
};
use tokio::{sync::mpsc, time::MissedTickBehavior};

use super::{ask_all, instances, look};
use crate::{
    args::Common,
    exit::Failure,
    join::{self, Joined},
    stop::stop,
};
use screen::{Next, Screen, Seen};

/// Between two looks.
const AGAIN: Duration = Duration::from_secs(1);
/// How soon the thread that reads keys notices that nobody wants them any more.
const KEYS: Duration = Duration::from_millis(100);

pub(crate) async fn run(common: &Common) -> Result<(), Failure> {
    if !std::io::stdout().is_terminal() {
        return Err(Failure::usage("top needs a terminal; `ripstop stats --watch` does without"));
    }
    let joined = look(common).await?;
    // From here on to the end the terminal is the screen's; a panic gives it back, too.
    let terminal = ratatui::try_init().map_err(|error| Failure::failed(format!("the terminal: {error}")))?;
    let done = live(&joined, common, terminal).await;
    ratatui::restore();
    joined.leave().await;
    done
}

async fn live(joined: &Joined, common: &Common, mut terminal: DefaultTerminal) -> Result<(), Failure> {
    let mut screen = Screen::new(joined.node.fabric());
    let (mut keys, mut looks) = (keys(), looks(joined));
    let (stop, end) = (stop(), join::deadline(common.timeout));
    tokio::pin!(stop, end);
    loop {
        terminal.draw(|frame| screen.draw(frame))?;
        tokio::select! {
            event = keys.recv() => match event {
                Some(Event::Key(key)) if key.is_press() => {
                    if screen.key(key.code, key.modifiers) == Next::Quit {
                        return Ok(());
                    }
                }
                Some(_) => {}
                None => return Ok(()),
            },
            Some(seen) = looks.recv() => screen.show(seen),
            () = &mut stop => return Ok(()),
            () = &mut end => return Ok(()),
        }
    }
}

/// Looks again and again, in a task of its own: one that does not answer does not hold up the keys.
fn looks(joined: &Joined) -> mpsc::Receiver<Seen> {
    let (sender, receiver) = mpsc::channel(1);
    let node = joined.node.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(AGAIN);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let there = instances(&node, None).await;
            let answers = ask_all(&node, &there, |node| async move { node.stats().await }).await;
            let answers = answers.into_iter().map(|(asked, answer)| (asked.service, answer));
            if sender.send(Seen::of(answers)).await.is_err() {
                return;
            }
        }
    });
    receiver
}

fn keys() -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        while !sender.is_closed() {
            match event::poll(KEYS) {
                Ok(false) => {}
                Ok(true) => match event::read() {
                    Ok(event) => {
                        if sender.blocking_send(event).is_err() {
                            return;
                        }
                    }
                    Err(_) => return,
                },
                Err(_) => return,
            }
        }
    });
    receiver
}
