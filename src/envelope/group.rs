//! The queue in which a publisher keeps events for one durable subscription: `@billing/orders.+` for the instances that
//! subscribe to `orders.*` under the name `billing`. Programs have no subjects of that form.

use super::{MAX_SUBJECT, Pattern, check_subject};

/// Whether the subject is the queue of a durable subscription.
#[inline]
pub(crate) fn is_group(subject: &str) -> bool {
    subject.starts_with('@')
}

/// The queue for a name and a pattern; or why there can be none.
pub(crate) fn group_queue(name: &str, pattern: &Pattern) -> Result<String, String> {
    if check_subject(name).is_err() || name.contains(['.', '/']) {
        return Err(format!(
            "`{name}` is no name for a durable subscription: write one token, such as billing"
        ));
    }
    if pattern.as_str().split('.').any(|token| matches!(token, "+" | "#")) {
        return Err(format!("the pattern {pattern} has a token + or #, which durable subscriptions cannot"));
    }
    let tokens = pattern.as_str().split('.').map(|token| match token {
        "*" => "+",
        ">" => "#",
        literal => literal,
    });
    let queue = format!("@{name}/{}", tokens.collect::<Vec<_>>().join("."));
    if queue.len() > MAX_SUBJECT {
        return Err(format!(
            "name and pattern have {} bytes together: {MAX_SUBJECT} are the most",
            queue.len()
        ));
    }
    Ok(queue)
}

/// Name and pattern of such a queue.
pub(crate) fn group_of(queue: &str) -> Option<(&str, Pattern)> {
    let (name, tokens) = queue.strip_prefix('@')?.split_once('/')?;
    let tokens = tokens.split('.').map(|token| match token {
        "+" => "*",
        "#" => ">",
        literal => literal,
    });
    let pattern = Pattern::parse(&tokens.collect::<Vec<_>>().join(".")).ok()?;
    check_subject(name).ok()?;
    Some((name, pattern))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for text in ["orders.*", "orders.>", "orders.created", ">", "*.x"] {
            let pattern = Pattern::parse(text).unwrap();
            let queue = group_queue("billing", &pattern).unwrap();
            assert_eq!(group_of(&queue), Some(("billing", pattern)), "{queue}");
            assert!(is_group(&queue) && check_subject(&queue).is_err());
            assert!(super::super::check_wire_subject(&queue).is_ok(), "{queue}");
        }
        let pattern = Pattern::parse("orders.*").unwrap();
        for name in ["", "a.b", "a/b", "$a", "@a", "a b"] {
            assert!(group_queue(name, &pattern).is_err(), "{name}");
        }
        assert!(group_queue("a", &Pattern::parse("x.+").unwrap()).is_err());
        assert!(group_queue(&"n".repeat(255), &pattern).is_err());
        for queue in ["orders", "@billing", "@/orders", "@billing/", "@billing/#.x"] {
            assert_eq!(group_of(queue), None, "{queue}");
        }
    }
}
