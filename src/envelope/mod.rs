//! What a message says: the subject, the header and the body, as they travel in the frames of every lane.
//!
//! ```text
//!   ┌─────────┐┌────────────────────────────────┐┌──────────────────────┐
//!   │ subject ││ [version, kind, id, {fields}]  ││ one MessagePack value │
//!   └─────────┘└────────────────────────────────┘└──────────────────────┘
//!    UTF-8,      MessagePack array; readers        never empty: "nothing"
//!    never empty ignore what later versions append  is nil, 0xc0
//! ```
//!
//! Two frames mean `[subject] [body]`: every default, and the kind follows from the lane. `docs/wire.md` draws the
//! bytes; `tests/golden/` pins them. Nothing in here does I/O, and nothing trusts a length it has read.

mod bodies;
mod body;
mod error;
mod group;
mod header;
mod limits;
mod parts;
mod subject;
#[cfg(test)]
mod tests;

pub use bodies::{CreditBody, ErrorBody, GapBody, HelloBody, ManifestBody, Verdict};
pub use body::{NIL, decode_body, decode_body_within, encode_body};
pub use error::{DecodeError, DecodeReason, EncodeError, SubjectError, SubjectProblem};
pub(crate) use group::{group_of, group_queue, is_group};
pub use header::{Fields, Header, Kind, MAX_HEADER, Rare, VERSION};
pub use limits::{Limits, check};
pub(crate) use parts::Repeated;
pub use parts::{MAX_ROUTE, Parts, route};
pub use subject::{MAX_SUBJECT, Pattern, check_subject, check_wire_subject, is_reserved, root};
