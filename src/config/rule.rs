//! `[[allow]]` as it is written; [`Permissions`](crate::security::Permissions) is what it means.

use serde::{Deserialize, Serialize};

use crate::envelope::{Pattern, is_reserved};

/// Longest name of a service or of an enrolled key, in bytes.
const MAX_NAME: usize = 255;

/// One of `[[allow]]`: what `who` may do. A list that is there **replaces** the default of its action; see
/// [`Permissions`](crate::security::Permissions).
///
/// ```
/// use ripstop::config::AllowRule;
/// let rule = AllowRule { call: Some(vec!["pricing.*".into()]), ..AllowRule::new("billing") };
/// assert_eq!(rule.serve, None);
/// ```
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowRule {
    /// A service such as `billing`, an enrolled CURVE key such as `curve:reports`, or `*` for every member.
    pub who: String,
    /// Methods that it may call. Default: all.
    #[serde(default, deserialize_with = "super::values::some_list", skip_serializing_if = "Option::is_none")]
    pub call: Option<Vec<String>>,
    /// Methods that it may serve. Default: those with its name as first token.
    #[serde(default, deserialize_with = "super::values::some_list", skip_serializing_if = "Option::is_none")]
    pub serve: Option<Vec<String>>,
    /// Topics that it may publish to. Default: those with its name as first token.
    #[serde(default, deserialize_with = "super::values::some_list", skip_serializing_if = "Option::is_none")]
    pub publish: Option<Vec<String>>,
    /// Topics that it may subscribe to. Default: all.
    #[serde(default, deserialize_with = "super::values::some_list", skip_serializing_if = "Option::is_none")]
    pub subscribe: Option<Vec<String>>,
    /// Queues that it may push to. Default: all.
    #[serde(default, deserialize_with = "super::values::some_list", skip_serializing_if = "Option::is_none")]
    pub push: Option<Vec<String>>,
    /// Queues that it may pull from. Default: those with its name as first token.
    #[serde(default, deserialize_with = "super::values::some_list", skip_serializing_if = "Option::is_none")]
    pub pull: Option<Vec<String>>,
    /// Whether it may use the node's own subjects, which begin with `$`. Default: false.
    #[serde(default)]
    pub admin: bool,
}

impl AllowRule {
    /// A rule that changes nothing yet.
    ///
    /// ```
    /// assert_eq!(ripstop::config::AllowRule::new("*").who, "*");
    /// ```
    pub fn new(who: impl Into<String>) -> Self {
        Self { who: who.into(), ..Self::default() }
    }
}

/// Whom a rule speaks of.
pub(crate) enum Who<'a> {
    Everyone,
    Service(&'a str),
    Curve(&'a str),
}

/// Reads [`AllowRule::who`].
pub(crate) fn who(text: &str) -> Result<Who<'_>, String> {
    if text == "*" {
        return Ok(Who::Everyone);
    }
    let (who, checked) = match text.strip_prefix("curve:") {
        Some(name) => (Who::Curve(name), check_token(name)),
        None => (Who::Service(text), check_token(text)),
    };
    match checked {
        Ok(()) => Ok(who),
        Err(_) => Err(format!(
            "`{text}` is nobody: write a service such as billing, an enrolled key such as curve:reports, or * for every member"
        )),
    }
}

/// Reads one pattern of a rule.
pub(crate) fn pattern(text: &str) -> Result<Pattern, String> {
    if is_reserved(text) {
        return Err(format!("`{text}`: what begins with `$` takes admin = true, not a pattern"));
    }
    Pattern::parse(text).map_err(|error| error.to_string())
}

/// What names of services and of enrolled keys are made of.
pub(crate) fn check_token(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        Err("a name is empty")
    } else if name.len() > MAX_NAME {
        Err("a name is longer than 255 bytes")
    } else if !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')) {
        Err("a name has letters, digits, `-` and `_` only")
    } else {
        Ok(())
    }
}

/// Checks all rules: the key that is wrong, and what is wrong with it.
pub(super) fn check(rules: &[AllowRule]) -> Result<(), (String, String)> {
    for (index, rule) in rules.iter().enumerate() {
        let wrong = |key: &str, reason| (format!("allow.{index}.{key}"), reason);
        who(&rule.who).map_err(|reason| wrong("who", reason))?;
        let lists = [
            ("call", &rule.call),
            ("serve", &rule.serve),
            ("publish", &rule.publish),
            ("subscribe", &rule.subscribe),
            ("push", &rule.push),
            ("pull", &rule.pull),
        ];
        for (key, list) in lists {
            for (n, text) in list.iter().flatten().enumerate() {
                pattern(text).map_err(|reason| wrong(&format!("{key}.{n}"), reason))?;
            }
        }
    }
    Ok(())
}
