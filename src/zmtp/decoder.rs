//! Traffic: frames become messages and commands. This is the hot path of everything that is received.

use bytes::{Buf, BytesMut};

use super::command::bad;
use super::connection::Received;
use super::curve::{Flags, OVERHEAD, Opener};
use super::frame::{self, Head};
use super::{Command, Limits, ProtocolError};
use crate::message::Message;

/// So that no sum overflows, whatever the limits say.
const MOST_MESSAGE: usize = 3 << 30;
const MOST_FRAMES: usize = 1 << 24;
const MOST_COMMAND: usize = 1 << 28;

/// What may be reserved for a frame of which hardly anything has come.
const READ: usize = 64 << 10;

/// Cuts messages off a buffer. An unfinished message stays at the start of the buffer, and only how far it has
/// been looked at is kept here; no byte is looked at twice, however the input is cut.
#[derive(Debug)]
pub(super) struct Decoder {
    max_message: usize,
    max_frames: usize,
    max_command: usize,
    /// Nothing forbids the short way for messages of one frame.
    quick: bool,
    /// Frames are sealed.
    sealed: bool,
    /// The peer is a subscriber and we publish: a message of one frame that begins with 0 or 1 is a subscription.
    subscriptions: bool,
    /// Where the next frame header is; what lies before it belongs to the unfinished message.
    at: usize,
    /// The frames of the unfinished message so far. None: the buffer begins with a new message or a command.
    frames: usize,
    /// Their lengths, added up.
    size: usize,
    /// Bytes of commands that came between them, which stay in the buffer until the message is whole.
    between: usize,
    /// See [`Connection::wanted`](super::Connection::wanted).
    wanted: usize,
}

impl Decoder {
    pub(super) fn new(limits: &Limits) -> Self {
        let max_message = limits.max_message.min(MOST_MESSAGE);
        Self {
            max_message,
            max_frames: limits.max_frames.min(MOST_FRAMES),
            max_command: limits.max_command.min(MOST_COMMAND),
            quick: true,
            sealed: false,
            subscriptions: false,
            at: 0,
            frames: 0,
            size: 0,
            between: 0,
            wanted: 0,
        }
    }

    /// From now on, messages that are subscriptions come out as commands.
    pub(super) fn take_subscriptions(&mut self) {
        self.subscriptions = true;
        self.quick = false;
    }

    /// From now on, frames are sealed, and `run` gets an opener.
    pub(super) fn opens(&mut self) {
        self.sealed = true;
        self.quick = false;
    }

    /// How many bytes to make room for: see [`Connection::wanted`](super::Connection::wanted).
    pub(super) fn wanted(&self) -> usize {
        self.wanted
    }

    /// Consumes every whole message and command. `command` gets the body of each command.
    pub(super) fn run(
        &mut self,
        buf: &mut BytesMut,
        out: &mut Received,
        mut opener: Option<&mut Opener>,
        mut command: impl FnMut(&[u8], &mut Vec<Command>) -> Result<(), ProtocolError>,
    ) -> Result<(), ProtocolError> {
        loop {
            // Nearly everything is a message of one frame, so that comes first.
            if self.quick && self.frames == 0 {
                self.run_of_one_frame(buf, &mut out.messages);
            }
            let Some(head) = frame::parse(buf.get(self.at..).unwrap_or_default())? else {
                self.wanted = 0;
                return Ok(());
            };
            let head = if self.sealed { self.announced(head)? } else { head };
            self.check(&head)?;
            let (mut start, mut len) = (self.at + head.header, head.len as usize);
            let mut end = start + len + if self.sealed { OVERHEAD } else { 0 };
            if end > buf.len() {
                self.wanted = (end - buf.len()).min(buf.len().max(READ));
                return Ok(());
            }
            let head = match &mut opener {
                Some(opener) if self.sealed => {
                    let head = self.open(buf, head, opener)?;
                    (start, len) = (self.at + head.header, head.len as usize);
                    end = start + len;
                    head
                }
                _ => head,
            };
            let Some(body) = buf.get(start..end) else { return Ok(()) };
            if head.command {
                command(body, &mut out.commands)?;
                if self.frames == 0 {
                    buf.advance(end);
                } else {
                    // libzmq sends a PING even between two frames of one message.
                    self.between += end - self.at;
                    self.at = end;
                }
            } else if head.more {
                self.frames += 1;
                self.size += len;
                self.at = end;
            } else if self.frames > 0 {
                out.messages.push(Message::from_wire(buf.split_to(end).freeze()));
                (self.at, self.frames, self.size, self.between) = (0, 0, 0, 0);
            } else if let (true, [kind @ (0 | 1), prefix @ ..]) = (self.subscriptions, body) {
                // Checked here as well, because as a message it may be longer than a command.
                if prefix.len() > self.max_command {
                    return Err(ProtocolError::CommandTooLarge { size: head.len, max: self.max_command });
                }
                let prefix = prefix.to_vec().into();
                out.commands.push(if *kind == 1 {
                    Command::Subscribe(prefix)
                } else {
                    Command::Cancel(prefix)
                });
                buf.advance(end);
            } else {
                buf.advance(start);
                out.messages.push(Message::from(buf.split_to(len).freeze()));
            }
        }
    }

    /// Consumes the whole messages of one frame at the start of the buffer. They are cut off together and shared out
    /// then, which takes half of what cutting off each would.
    fn run_of_one_frame(&self, buf: &mut BytesMut, messages: &mut Vec<Message>) {
        let mut end = 0;
        let mut last = 0;
        while let Some((_, after)) = self.one_frame(buf, end) {
            (last, end) = (end, after);
        }
        if end == 0 {
            return;
        }
        let mut run = buf.split_to(end).freeze();
        let mut at = 0;
        while at < last
            && let Some((body, after)) = self.one_frame(&run, at)
        {
            messages.push(Message::from(run.slice(body..after)));
            at = after;
        }
        if let Some((body, _)) = self.one_frame(&run, last) {
            run.advance(body);
            messages.push(Message::from(run));
        }
    }

    /// Where the body of the message at `at` begins and ends, if that is one frame that has come whole.
    #[inline]
    fn one_frame(&self, buf: &[u8], at: usize) -> Option<(usize, usize)> {
        let (body, len) = match buf.get(at..)? {
            [0, len, ..] => (at + 2, usize::from(*len)),
            [2, rest @ ..] => (at + 9, usize::try_from(u64::from_be_bytes(*rest.first_chunk()?)).ok()?),
            _ => return None,
        };
        let end = body.checked_add(len)?;
        (len <= self.max_message && end <= buf.len()).then_some((body, end))
    }

    /// What the header of a sealed frame announces of the frame inside. Whether that is a command will be seen.
    fn announced(&self, head: Head) -> Result<Head, ProtocolError> {
        if head.more || head.command {
            return Err(bad("MESSAGE", "its frame has flags, which belong into the box"));
        }
        let len = head.len.checked_sub(OVERHEAD as u64).ok_or(bad("MESSAGE", "it is too short"))?;
        Ok(Head { len, ..head })
    }

    /// Opens the sealed frame at `at`, in place. What was before the body becomes filling (a command, which a message
    /// passes over) and the header of the plain frame, so that the buffer then holds what a peer without CURVE would have
    /// sent. Returns what that header says; its length of header includes the filling.
    fn open(&mut self, buf: &mut BytesMut, head: Head, opener: &mut Opener) -> Result<Head, ProtocolError> {
        let len = head.len as usize;
        let room = head.header + OVERHEAD;
        let sealed = buf.get_mut(self.at..self.at + room + len).unwrap_or_default();
        let Flags { more, command } = opener.open(sealed.get_mut(head.header..).unwrap_or_default())?;
        let head = Head { more, command, header: room, len: head.len };
        self.check(&head)?;
        if !command && !more && self.frames == 0 {
            return Ok(head); // nobody will look at the header
        }
        let header = frame::header(len, more, command);
        let filling = room.saturating_sub(header.len() + 2);
        let (before, _) = sealed.split_at_mut(room);
        if let ([flags, size, _filling @ ..], plain) = before.split_at_mut(2 + filling) {
            (*flags, *size) = (frame::COMMAND, filling as u8);
            plain.copy_from_slice(&header);
        }
        Ok(head)
    }

    /// Holds the limits against what a header announces, before a byte of the body is waited for.
    fn check(&self, head: &Head) -> Result<(), ProtocolError> {
        if head.command {
            let size = head.len.saturating_add(self.between as u64);
            return match size > self.max_command as u64 {
                true => Err(ProtocolError::CommandTooLarge { size, max: self.max_command }),
                false => Ok(()),
            };
        }
        let max = self.max_message;
        if head.len > max as u64 {
            return Err(ProtocolError::FrameTooLarge { size: head.len, max });
        }
        let size = head.len + self.size as u64;
        if size > max as u64 {
            return Err(ProtocolError::MessageTooLarge { size, max });
        }
        // A frame with MORE is never the last, so that one more is to come.
        if self.frames + usize::from(head.more) >= self.max_frames.max(1) {
            return Err(ProtocolError::TooManyFrames { max: self.max_frames });
        }
        Ok(())
    }
}
