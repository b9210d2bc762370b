//! The header: who this message answers, until when, and the few things that a body shouldn't have to say.

use super::Verdict;
use super::error::{DecodeError, DecodeReason};
use super::limits::{Limits, Reader};

/// The version that this release writes and reads. What can be ignored is appended without raising it; a reader
/// refuses any other.
///
/// ```
/// assert_eq!(ripstop::envelope::VERSION, 1);
/// ```
pub const VERSION: u8 = 1;

/// The longest header that is read: 64 KiB.
///
/// ```
/// assert_eq!(ripstop::envelope::MAX_HEADER, 65_536);
/// ```
pub const MAX_HEADER: usize = 64 * 1024;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// What a message is. The numbers are the wire's and never change their meaning.
        ///
        /// ```
        /// use ripstop::envelope::Kind;
        ///
        /// assert_eq!(Kind::Reply as u8, 1);
        /// assert_eq!(Kind::from_number(13), Some(Kind::Progress));
        /// assert_eq!(Kind::from_number(99), None);
        /// ```
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[non_exhaustive]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$doc])* $name = $number,)*
        }

        impl Kind {
            /// Every kind, by number.
            ///
            /// ```
            /// assert_eq!(ripstop::envelope::Kind::ALL.len(), 16);
            /// ```
            pub const ALL: [Self; 16] = [$(Self::$name),*];

            /// The kind with this number.
            ///
            /// ```
            /// use ripstop::envelope::Kind;
            ///
            /// assert_eq!(Kind::from_number(0), Some(Kind::Call));
            /// ```
            #[inline]
            pub const fn from_number(number: u64) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Its name, as logs and metrics show it.
            ///
            /// ```
            /// assert_eq!(ripstop::envelope::Kind::Nack.as_str(), "nack");
            /// ```
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

kinds! {
    /// A request; the header's id names it.
    Call = 0, "call";
    /// The one answer to a call.
    Reply = 1, "reply";
    /// The call failed; the body is an `ErrorBody`.
    Error = 2, "error";
    /// A published event.
    Event = 3, "event";
    /// A piece of work for one of several.
    Work = 4, "work";
    /// The work with this id is done.
    Ack = 5, "ack";
    /// The work with this id failed; the body is an `ErrorBody`.
    Nack = 6, "nack";
    /// One of several answers to a call.
    Item = 7, "item";
    /// No more items.
    End = 8, "end";
    /// The receiver takes so many more; the body is a `CreditBody`.
    Credit = 9, "credit";
    /// The caller no longer wants the answer to the call with this id.
    Cancel = 10, "cancel";
    /// Who this end of the link is; the body is a `HelloBody`.
    Hello = 11, "hello";
    /// What this node serves now; the body is a `ManifestBody`.
    Manifest = 12, "manifest";
    /// How far a call has come; the body is the method's own.
    Progress = 13, "progress";
    /// This node takes nothing more; the header's id is the last that it took.
    Goaway = 14, "goaway";
    /// Events of this subject were dropped on the way; the body is a `GapBody`.
    Gap = 15, "gap";
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The second frame of three: `[version, kind, id, {fields}]`.
///
/// ```text
///   94                 array of 4          readers ignore further elements
///   01                 version
///   00                 kind: call
///   cd 03 e8           id: 1000
///   81                 one field
///      a2 64 6c        "dl"
///      ce 00 00 07 d0  2000 ms left; always five bytes, so that it can be stamped anew in place
/// ```
/// ```
/// use ripstop::envelope::{Header, Kind};
///
/// let mut header = Header::new(Kind::Call, 1000);
/// header.fields.dl = Some(2000);
/// let mut bytes = Vec::new();
/// header.encode(&mut bytes);
/// assert_eq!(bytes, b"\x94\x01\x00\xcd\x03\xe8\x81\xa2dl\xce\x00\x00\x07\xd0");
/// assert_eq!(Header::decode(&bytes)?, header);
/// # Ok::<(), ripstop::envelope::DecodeError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// Always [`VERSION`]; a decoder refuses others.
    pub version: u8,
    /// What the message is.
    pub kind: Kind,
    /// Chosen by the caller or pusher, unique among what it has in flight on one connection; 0 where nothing is
    /// answered.
    pub id: u64,
    /// All optional.
    pub fields: Fields,
}

/// The header's optional fields. Numbers are inline; whatever needs memory is boxed in [`Rare`], so that the usual
/// header allocates nothing.
///
/// ```
/// use ripstop::envelope::Fields;
///
/// let mut fields = Fields::default();
/// assert!(fields.is_empty());
/// fields.rare_mut().k = Some("customer-7".into());
/// assert_eq!(fields.rare().and_then(|rare| rare.k.as_deref()), Some("customer-7"));
/// ```
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Fields {
    /// `dl`: milliseconds left until the deadline, counted from the moment of sending. Written as at most
    /// 4,294,967,295 (49 days).
    pub dl: Option<u64>,
    /// `sq`: sequence number per publisher and subject.
    pub sq: Option<u64>,
    /// `at`: the attempt, counted from 1.
    pub at: Option<u32>,
    /// `cv`: the version of the body's contract.
    pub cv: Option<u32>,
    /// `rs`: whether a retry is safe, in the handler's words.
    pub rs: Option<Verdict>,
    /// The fields that need memory, if there is one.
    pub rare: Option<Box<Rare>>,
}

/// The header fields that few messages have: text, mostly.
///
/// ```
/// assert_eq!(ripstop::envelope::Rare::default().tp, None);
/// ```
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Rare {
    /// `tp`: W3C traceparent.
    pub tp: Option<Box<str>>,
    /// `ts`: W3C tracestate.
    pub ts: Option<Box<str>>,
    /// `k`: partition key.
    pub k: Option<Box<str>>,
    /// `ik`: idempotency key.
    pub ik: Option<Box<str>>,
    /// `ct`: content type, when the body isn't MessagePack.
    pub ct: Option<Box<str>>,
    /// `ob`: the outbox in which the message's id was minted; whoever pushes the message waits for an ack.
    pub ob: Option<Box<str>>,
    /// `sj`: the topic of an event that is delivered through an outbox.
    pub sj: Option<Box<str>>,
    /// `ps`: when the message was pushed, in milliseconds since 1970 by its sender's clock.
    pub ps: Option<u64>,
    /// `cr`: the call wants a stream of replies, and so many bytes of them for now.
    pub cr: Option<u32>,
}

impl Fields {
    /// Whether nothing is set.
    ///
    /// ```
    /// assert!(ripstop::envelope::Fields::default().is_empty());
    /// ```
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The text fields, if any was set.
    ///
    /// ```
    /// assert!(ripstop::envelope::Fields::default().rare().is_none());
    /// ```
    pub fn rare(&self) -> Option<&Rare> {
        self.rare.as_deref()
    }

    /// The text fields, to be set; allocates on first use.
    ///
    /// ```
    /// let mut fields = ripstop::envelope::Fields::default();
    /// fields.rare_mut().ik = Some("order-7".into());
    /// assert!(!fields.is_empty());
    /// ```
    pub fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    #[inline]
    fn len(&self) -> usize {
        let numbers = usize::from(self.dl.is_some())
            + usize::from(self.sq.is_some())
            + usize::from(self.at.is_some())
            + usize::from(self.cv.is_some())
            + usize::from(self.rs.is_some());
        numbers
            + self.rare.as_ref().map_or(0, |rare| {
                rare.named().filter(|(_, text)| text.is_some()).count()
                    + usize::from(rare.ps.is_some())
                    + usize::from(rare.cr.is_some())
            })
    }
}

impl Rare {
    fn named(&self) -> impl Iterator<Item = (&'static str, Option<&str>)> {
        let Self { tp, ts, k, ik, ct, ob, sj, ps: _, cr: _ } = self;
        [("tp", tp), ("ts", ts), ("k", k), ("ik", ik), ("ct", ct), ("ob", ob), ("sj", sj)]
            .into_iter()
            .map(|(key, text)| (key, text.as_deref()))
    }
}

impl Header {
    /// A header without fields.
    ///
    /// ```
    /// use ripstop::envelope::{Header, Kind};
    ///
    /// assert_eq!(Header::new(Kind::Event, 0).version, 1);
    /// ```
    #[inline]
    pub fn new(kind: Kind, id: u64) -> Self {
        Self { version: VERSION, kind, id, fields: Fields::default() }
    }

    /// Appends the header to `out`: `dl` first and always five bytes, then the others in a fixed order.
    ///
    /// ```
    /// use ripstop::envelope::{Header, Kind};
    ///
    /// let mut bytes = Vec::new();
    /// Header::new(Kind::Reply, 7).encode(&mut bytes);
    /// assert_eq!(bytes, [0x94, 1, 1, 7, 0x80]);
    /// ```
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        // One reservation for all that is usual: array, version, kind, id, map, `dl`.
        out.reserve(21);
        out.extend_from_slice(&[0x94, self.version, self.kind as u8]);
        put_uint(out, self.id);
        let fields = &self.fields;
        out.push(0x80 | fields.len() as u8); // fourteen fields at most: always a small map
        if let Some(dl) = fields.dl {
            let [a, b, c, d] = u32::try_from(dl).unwrap_or(u32::MAX).to_be_bytes();
            out.extend_from_slice(&[0xa2, b'd', b'l', 0xce, a, b, c, d]);
        }
        put_field(out, b"sq", fields.sq);
        put_field(out, b"at", fields.at.map(u64::from));
        put_field(out, b"cv", fields.cv.map(u64::from));
        put_field(out, b"rs", fields.rs.map(|verdict| verdict as u64));
        if let Some(rare) = &fields.rare {
            for (key, text) in rare.named() {
                if let Some(text) = text {
                    put_text(out, key);
                    put_text(out, text);
                }
            }
            put_field(out, b"ps", rare.ps);
            put_field(out, b"cr", rare.cr.map(u64::from));
        }
    }

    /// Reads a header, which must be the whole of `bytes`. Unknown fields and further elements are skipped, a nil
    /// field counts as not there, of a repeated one the last counts.
    ///
    /// # Errors
    /// [`DecodeError`], with a path such as `header.fields.dl`.
    ///
    /// ```
    /// use ripstop::envelope::{Header, Kind};
    ///
    /// let header = Header::decode(b"\x95\x01\x03\x00\x82\xa2sq\x05\xa3new\xc3\xc0")?;
    /// assert_eq!((header.kind, header.fields.sq), (Kind::Event, Some(5)));
    /// # Ok::<(), ripstop::envelope::DecodeError>(())
    /// ```
    #[inline]
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if let Some(header) = Self::decode_usual(bytes) {
            return Ok(header);
        }
        let mut reader = Reader::new(bytes);
        let mut place = "header";
        read(&mut reader, bytes.len(), &mut place).map_err(|reason| {
            let offset = reader.at();
            DecodeError::new(place, offset, reason)
        })
    }

    /// What nearly every header is: as [`Header::encode`] writes it, with no field or only `dl`.
    #[inline]
    fn decode_usual(bytes: &[u8]) -> Option<Self> {
        let &[0x94, VERSION, kind, ref rest @ ..] = bytes else { return None };
        let (id, rest) = match *rest {
            [id @ 0..=0x7f, ref rest @ ..] => (u64::from(id), rest),
            [0xcc, id, ref rest @ ..] => (u64::from(id), rest),
            [0xcd, a, b, ref rest @ ..] => (u64::from(u16::from_be_bytes([a, b])), rest),
            [0xce, a, b, c, d, ref rest @ ..] => (u64::from(u32::from_be_bytes([a, b, c, d])), rest),
            [0xcf, a, b, c, d, e, f, g, h, ref rest @ ..] => {
                (u64::from_be_bytes([a, b, c, d, e, f, g, h]), rest)
            }
            _ => return None,
        };
        let dl = match *rest {
            [0x80] => None,
            [0x81, 0xa2, b'd', b'l', 0xce, a, b, c, d] => Some(u64::from(u32::from_be_bytes([a, b, c, d]))),
            _ => return None,
        };
        let kind = Kind::from_number(u64::from(kind))?;
        Some(Self { version: VERSION, kind, id, fields: Fields { dl, ..Fields::default() } })
    }

    /// Writes another deadline (milliseconds left) into a header that [`Header::encode`] has written with one.
    /// Says whether it found its place.
    ///
    /// ```
    /// use ripstop::envelope::{Header, Kind};
    ///
    /// let mut header = Header::new(Kind::Call, 7);
    /// header.fields.dl = Some(2000);
    /// let mut bytes = Vec::new();
    /// header.encode(&mut bytes);
    /// assert!(Header::stamp_deadline(&mut bytes, 1500));
    /// assert_eq!(Header::decode(&bytes)?.fields.dl, Some(1500));
    /// # Ok::<(), ripstop::envelope::DecodeError>(())
    /// ```
    pub fn stamp_deadline(bytes: &mut [u8], ms: u64) -> bool {
        let id = match bytes.get(3) {
            Some(0xcc) => 2,
            Some(0xcd) => 3,
            Some(0xce) => 5,
            Some(0xcf) => 9,
            _ => 1,
        };
        let Some([0x81..=0x8f, 0xa2, b'd', b'l', 0xce, stamp @ ..]) = bytes.get_mut(3 + id..) else {
            return false;
        };
        let Some(stamp) = stamp.first_chunk_mut() else { return false };
        *stamp = u32::try_from(ms).unwrap_or(u32::MAX).to_be_bytes();
        true
    }
}

/// Reads a header; on failure `place` says in which part.
fn read(reader: &mut Reader<'_>, length: usize, place: &mut &'static str) -> Result<Header, DecodeReason> {
    match length {
        0 => return Err(DecodeReason::Empty),
        MAX_HEADER.. if length > MAX_HEADER => {
            return Err(DecodeReason::TooLong { length, limit: MAX_HEADER });
        }
        _ => {}
    }
    let elements = reader.array()?;
    if elements < 4 {
        return Err(DecodeReason::Expected { expected: "an array of 4 or more: version, kind, id, fields" });
    }
    *place = "header.version";
    let version = reader.uint()?;
    if version != u64::from(VERSION) {
        return Err(DecodeReason::Version(version));
    }
    *place = "header.kind";
    let number = reader.uint()?;
    let kind = Kind::from_number(number).ok_or(DecodeReason::Kind(number))?;
    *place = "header.id";
    let id = reader.uint()?;
    *place = "header.fields";
    let limits = Limits::default();
    let mut budget = MAX_HEADER;
    let mut fields = Fields::default();
    for _ in 0..reader.map()? {
        *place = "header.fields";
        let key = match reader.text()? {
            Some(key) => key,
            None => {
                reader.skip(1, limits.depth - 2, &mut budget)?; // a key that isn't text is none of ours
                b""
            }
        };
        match key {
            b"dl" => {
                // No more than `encode` can write, so that what was read is written as it was.
                let ms = field(reader, place, "header.fields.dl", Reader::uint)?;
                fields.dl = ms.map(|ms| ms.min(u64::from(u32::MAX)));
            }
            b"sq" => fields.sq = field(reader, place, "header.fields.sq", Reader::uint)?,
            b"at" => fields.at = field(reader, place, "header.fields.at", uint32)?,
            b"cv" => fields.cv = field(reader, place, "header.fields.cv", uint32)?,
            b"rs" => {
                fields.rs = field(reader, place, "header.fields.rs", Reader::uint)?.map(Verdict::from_number)
            }
            b"tp" => text_field(reader, place, "header.fields.tp", &mut fields, |rare| &mut rare.tp)?,
            b"ts" => text_field(reader, place, "header.fields.ts", &mut fields, |rare| &mut rare.ts)?,
            b"k" => text_field(reader, place, "header.fields.k", &mut fields, |rare| &mut rare.k)?,
            b"ik" => text_field(reader, place, "header.fields.ik", &mut fields, |rare| &mut rare.ik)?,
            b"ct" => text_field(reader, place, "header.fields.ct", &mut fields, |rare| &mut rare.ct)?,
            b"ob" => text_field(reader, place, "header.fields.ob", &mut fields, |rare| &mut rare.ob)?,
            b"sj" => text_field(reader, place, "header.fields.sj", &mut fields, |rare| &mut rare.sj)?,
            b"ps" => {
                let pushed = field(reader, place, "header.fields.ps", Reader::uint)?;
                if pushed.is_some() || fields.rare.is_some() {
                    fields.rare_mut().ps = pushed;
                }
            }
            b"cr" => {
                let credit = field(reader, place, "header.fields.cr", uint32)?;
                if credit.is_some() || fields.rare.is_some() {
                    fields.rare_mut().cr = credit;
                }
            }
            _ => reader.skip(1, limits.depth - 2, &mut budget)?,
        }
    }
    *place = "header";
    for _ in 4..elements {
        reader.skip(1, limits.depth - 1, &mut budget)?;
    }
    reader.end()?;
    Ok(Header { version: VERSION, kind, id, fields })
}

fn field<'a, T>(
    reader: &mut Reader<'a>,
    place: &mut &'static str,
    name: &'static str,
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, DecodeReason>,
) -> Result<Option<T>, DecodeReason> {
    *place = name;
    if reader.nil()? { Ok(None) } else { read(reader).map(Some) }
}

fn uint32(reader: &mut Reader<'_>) -> Result<u32, DecodeReason> {
    u32::try_from(reader.uint()?).map_err(|_| DecodeReason::Expected { expected: "an integer below 2^32" })
}

fn text_field(
    reader: &mut Reader<'_>,
    place: &mut &'static str,
    name: &'static str,
    fields: &mut Fields,
    slot: impl FnOnce(&mut Rare) -> &mut Option<Box<str>>,
) -> Result<(), DecodeReason> {
    let text = field(reader, place, name, |reader| {
        let bytes = reader.text()?.ok_or(DecodeReason::Expected { expected: "text" })?;
        std::str::from_utf8(bytes).map_err(|_| DecodeReason::NotUtf8)
    })?;
    if text.is_some() || fields.rare.is_some() {
        *slot(fields.rare_mut()) = text.map(Into::into);
    }
    Ok(())
}

/// The shortest encoding of `value`.
#[inline]
fn put_uint(out: &mut Vec<u8>, value: u64) {
    match value {
        0..=0x7f => out.push(value as u8),
        0x80..=0xff => out.extend_from_slice(&[0xcc, value as u8]),
        0x100..=0xffff => {
            out.push(0xcd);
            out.extend_from_slice(&(value as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(0xce);
            out.extend_from_slice(&(value as u32).to_be_bytes());
        }
        _ => {
            out.push(0xcf);
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}

#[inline]
fn put_field(out: &mut Vec<u8>, key: &[u8; 2], value: Option<u64>) {
    if let Some(value) = value {
        out.extend_from_slice(&[0xa2, key[0], key[1]]);
        put_uint(out, value);
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    // A vector takes whatever it is given; rmp's error type can't say so.
    let _ = rmp::encode::write_str(out, text);
}
