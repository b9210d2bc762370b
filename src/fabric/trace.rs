//! Which request something belongs to: W3C Trace Context, level 1.

use std::future::Future;
#[cfg(feature = "durable")]
use std::sync::Arc;

tokio::task_local! {
    /// The `traceparent` of what is being handled.
    static TRACE: Option<Box<str>>;
}

/// Handles something that belongs to this trace.
pub(crate) async fn within<F: Future>(traceparent: Option<&str>, handling: F) -> F::Output {
    TRACE.scope(traceparent.map(Into::into), handling).await
}

/// The trace's id in a `traceparent`: 32 hexadecimal digits; `None`: it is none.
pub(crate) fn id(traceparent: &str) -> Option<&str> {
    let mut parts = traceparent.split('-');
    let (version, id, parent) = (parts.next()?, parts.next()?, parts.next()?);
    let is_hex =
        |text: &str, length| text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_zero = |text: &str| text.bytes().all(|byte| byte == b'0');
    let right = is_hex(version, 2) && version != "ff" && is_hex(id, 32) && is_hex(parent, 16);
    (right && !is_zero(id) && !is_zero(parent)).then_some(id)
}

/// A `traceparent` for what comes out of what is being handled; of a new trace where there is none.
#[cfg(feature = "durable")]
pub(crate) fn child() -> Arc<str> {
    let parent = fastrand::u64(1..);
    let child = TRACE.try_with(|current| {
        let id = id(current.as_deref()?)?;
        Some(format!("00-{id}-{parent:016x}-01").into())
    });
    child.ok().flatten().unwrap_or_else(|| format!("00-{:032x}-{parent:016x}-01", fastrand::u128(1..)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_standard_calls_one() {
        let right = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(id(right), Some("0af7651916cd43dd8448eb211c80319c"));
        for wrong in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
        ] {
            assert_eq!(id(wrong), None, "{wrong}");
        }
    }

    #[cfg(feature = "durable")]
    #[tokio::test]
    async fn what_comes_out_of_it_belongs_to_it() {
        let outer = child();
        assert_ne!(id(&outer), id(&child()), "nothing is being handled");
        let inner = within(Some(&outer), async { child() }).await;
        assert_eq!(id(&outer), id(&inner));
        assert_ne!(outer, inner);
    }
}
