//! Who may do what: `[[allow]]`, and what holds where nothing is written.

use std::collections::HashMap;
use std::fmt;

use super::{Identity, SecurityError};
use crate::config::{AllowRule, Who, pattern, who};
use crate::envelope::{Pattern, group_of, is_group, is_reserved, root};

/// What may be asked of a node without being an admin, of the subjects that begin with `$`.
const OPEN: [&str; 2] = ["$node.ping", "$node.health"];

/// What somebody does with a subject.
///
/// ```
/// assert_eq!(ripstop::security::Action::Subscribe.to_string(), "subscribe");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Action {
    /// Calls a method: asked by the node that serves it.
    Call,
    /// Serves a method: asked by the node that calls it.
    Serve,
    /// Publishes to a topic: asked by the node that subscribes.
    Publish,
    /// Subscribes to a topic: asked by the node that publishes.
    Subscribe,
    /// Pushes to a queue: asked by the node that pulls.
    Push,
    /// Pulls from a queue: asked by the node that pushes.
    Pull,
}

impl Action {
    const ALL: [Self; 6] = [Self::Call, Self::Serve, Self::Publish, Self::Subscribe, Self::Push, Self::Pull];

    /// As the key in `[[allow]]`.
    ///
    /// ```
    /// assert_eq!(ripstop::security::Action::Call.as_str(), "call");
    /// ```
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Serve => "serve",
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Push => "push",
            Self::Pull => "pull",
        }
    }

    /// Whether it is allowed on every subject by default, or only on those that begin with one's own name.
    const fn is_open(self) -> bool {
        matches!(self, Self::Call | Self::Subscribe | Self::Push)
    }

    fn of(self, rule: &AllowRule) -> Option<&[String]> {
        match self {
            Self::Call => rule.call.as_deref(),
            Self::Serve => rule.serve.as_deref(),
            Self::Publish => rule.publish.as_deref(),
            Self::Subscribe => rule.subscribe.as_deref(),
            Self::Push => rule.push.as_deref(),
            Self::Pull => rule.pull.as_deref(),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The permission table of a node.
///
/// For each action, what counts is the first of these that there is:
/// 1. the rules whose `who` is that identity's name and that name the action, all together;
/// 2. the rules for `*`, every member, that name the action, all together;
/// 3. the default: members may call, subscribe to and push anything, and serve, publish and pull what has their own name as its
///    first token. With `deny_by_default` there is none.
///
/// So a rule **replaces** the default of the actions that it names, and leaves the others as they are: `call = []` takes the
/// right to call away. What begins with `$` is never a matter of patterns: every member may call `$node.ping` and
/// `$node.health`, and everything else takes `admin = true`.
///
/// ```
/// use ripstop::{config::AllowRule, security::{Action, Identity, Permissions}};
///
/// let billing = Identity::service("shop", "billing")?;
/// let rule = AllowRule { call: Some(vec!["pricing.*".into()]), ..AllowRule::new("billing") };
/// let table = Permissions::new(&[rule], false)?;
///
/// assert!(table.allows(&billing, Action::Call, "pricing.quote"));
/// assert!(!table.allows(&billing, Action::Call, "ledger.book"));
/// assert!(table.allows(&billing, Action::Publish, "billing.paid")); // by default
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Permissions {
    services: HashMap<Box<str>, Grants>,
    curve: HashMap<Box<str>, Grants>,
    everyone: Grants,
    deny_by_default: bool,
}

/// What rules say of one `who`.
#[derive(Clone, Debug, Default)]
struct Grants {
    /// By action; `None` where no rule names it.
    patterns: [Option<Vec<Pattern>>; 6],
    admin: bool,
}

/// Which of the three it is.
enum Scope<'a> {
    Patterns(&'a [Pattern]),
    Everything,
    /// What has this name as its first token.
    Own(&'a str),
    Nothing,
}

impl Permissions {
    /// The table that these rules make.
    ///
    /// # Errors
    /// [`SecurityError::Rule`] names the rule and what is wrong with it: a `who` that nobody can be, or a pattern that is none or
    /// begins with `$`.
    ///
    /// ```
    /// use ripstop::{config::AllowRule, security::Permissions};
    /// assert!(Permissions::new(&[AllowRule::new("no spaces")], false).is_err());
    /// ```
    pub fn new(rules: &[AllowRule], deny_by_default: bool) -> Result<Self, SecurityError> {
        let mut table = Self { deny_by_default, ..Self::default() };
        for (index, rule) in rules.iter().enumerate() {
            let wrong = |key: &str, reason: String| SecurityError::Rule {
                place: format!("allow.{index}.{key}"),
                reason,
            };
            let grants = match who(&rule.who).map_err(|reason| wrong("who", reason))? {
                Who::Everyone => &mut table.everyone,
                Who::Service(name) => table.services.entry(name.into()).or_default(),
                Who::Curve(name) => table.curve.entry(name.into()).or_default(),
            };
            grants.admin |= rule.admin;
            for action in Action::ALL {
                let Some(texts) = action.of(rule) else { continue };
                let Some(slot) = grants.patterns.get_mut(action as usize) else { continue };
                let patterns = slot.get_or_insert_default();
                for (n, text) in texts.iter().enumerate() {
                    patterns.push(pattern(text).map_err(|reason| wrong(&format!("{action}.{n}"), reason))?);
                }
            }
        }
        Ok(table)
    }

    /// Whether `who` may do this with this subject. Allocates nothing.
    ///
    /// ```
    /// use ripstop::security::{Action, Identity, Permissions};
    /// let table = Permissions::default();
    /// let billing = Identity::service("shop", "billing")?;
    /// assert!(table.allows(&billing, Action::Serve, "billing.invoice"));
    /// assert!(!table.allows(&billing, Action::Serve, "pricing.quote"));
    /// # Ok::<(), ripstop::security::IdentityError>(())
    /// ```
    pub fn allows(&self, who: &Identity, action: Action, subject: &str) -> bool {
        if is_reserved(subject) {
            // Every node answers to its own.
            let open = action == Action::Serve || (action == Action::Call && OPEN.contains(&subject));
            return open || self.is_admin(who);
        }
        if is_group(subject) {
            // The queue of a durable subscription: whoever may subscribe may pull it. Of what is pushed to it, each event's own topic
            // decides.
            let covered = |(_, pattern): (&str, Pattern)| self.allows_pattern(who, pattern.as_str());
            return action == Action::Push
                || (action == Action::Pull && group_of(subject).is_some_and(covered));
        }
        match self.scope(who, action) {
            Scope::Patterns(patterns) => patterns.iter().any(|pattern| pattern.matches(subject)),
            Scope::Everything => true,
            Scope::Own(name) => root(subject) == name,
            Scope::Nothing => false,
        }
    }

    /// Whether `who` may subscribe to **every** subject that begins with these bytes, as a plain ZeroMQ subscription asks for. One
    /// pattern has to cover them all: `orders.>` covers `orders.`, but neither `orders`, which also begins `ordersOLD.x`, nor
    /// the empty prefix. Subjects with `$` are never delivered to an empty prefix. Allocates nothing.
    ///
    /// ```
    /// use ripstop::{config::AllowRule, security::{Identity, Permissions}};
    /// let rule = AllowRule { subscribe: Some(vec!["orders.>".into()]), ..AllowRule::new("*") };
    /// let table = Permissions::new(&[rule], false)?;
    /// let reports = Identity::curve("reports")?;
    /// assert!(table.allows_prefix(&reports, "orders.") && !table.allows_prefix(&reports, "orders"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn allows_prefix(&self, who: &Identity, prefix: &str) -> bool {
        if is_reserved(prefix) {
            return self.is_admin(who);
        }
        match self.scope(who, Action::Subscribe) {
            Scope::Patterns(patterns) => {
                patterns.iter().any(|pattern| covers_prefix(pattern.as_str(), prefix))
            }
            Scope::Everything => true,
            // Not the case for subscriptions; right all the same.
            Scope::Own(name) => prefix.split_once('.').is_some_and(|(first, _)| first == name),
            Scope::Nothing => false,
        }
    }

    /// Whether `who` may subscribe to every subject that this pattern matches. One pattern of the table has to cover it. Give it
    /// the text of a [`Pattern`]. Allocates nothing.
    ///
    /// ```
    /// use ripstop::{config::AllowRule, security::{Identity, Permissions}};
    /// let rule = AllowRule { subscribe: Some(vec!["orders.*.paid".into()]), ..AllowRule::new("*") };
    /// let table = Permissions::new(&[rule], false)?;
    /// let reports = Identity::curve("reports")?;
    /// assert!(table.allows_pattern(&reports, "orders.7.paid") && !table.allows_pattern(&reports, "orders.>"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn allows_pattern(&self, who: &Identity, pattern: &str) -> bool {
        if is_reserved(pattern) {
            return self.is_admin(who);
        }
        match self.scope(who, Action::Subscribe) {
            Scope::Patterns(patterns) => patterns.iter().any(|allowed| covers(allowed.as_str(), pattern)),
            Scope::Everything => true,
            Scope::Own(name) => root(pattern) == name,
            Scope::Nothing => false,
        }
    }

    /// Whether a rule makes it an admin: it may use every subject that begins with `$`.
    ///
    /// ```
    /// use ripstop::{config::AllowRule, security::{Identity, Permissions}};
    /// let table = Permissions::new(&[AllowRule { admin: true, ..AllowRule::new("operator") }], false)?;
    /// assert!(table.is_admin(&Identity::service("shop", "operator")?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_admin(&self, who: &Identity) -> bool {
        self.everyone.admin || self.grants(who).is_some_and(|grants| grants.admin)
    }

    fn grants(&self, who: &Identity) -> Option<&Grants> {
        match who {
            Identity::Service { service, .. } => self.services.get(service.as_str()),
            Identity::Curve { name } => self.curve.get(name.as_str()),
        }
    }

    fn scope<'a>(&'a self, who: &'a Identity, action: Action) -> Scope<'a> {
        let of = |grants: &'a Grants| grants.patterns.get(action as usize).and_then(Option::as_deref);
        match self.grants(who).and_then(of).or_else(|| of(&self.everyone)) {
            Some(patterns) => Scope::Patterns(patterns),
            None if self.deny_by_default => Scope::Nothing,
            None if action.is_open() => Scope::Everything,
            None => Scope::Own(who.name()),
        }
    }
}

/// Whether `allowed` matches every subject that begins with `prefix`. Such a subject may always go on, so only `>` can cover
/// it; and the tokens before that have to be whole in the prefix, because the last one of it may go on, too.
fn covers_prefix(allowed: &str, prefix: &str) -> bool {
    let mut given = prefix.split('.');
    let mut whole = prefix.matches('.').count();
    for token in allowed.split('.') {
        if token == ">" {
            return true;
        }
        match given.next() {
            Some(part) if whole > 0 && (token == "*" || token == part) && !part.is_empty() => whole -= 1,
            _ => return false,
        }
    }
    false
}

/// Whether `allowed` matches everything that `wanted` does.
fn covers(allowed: &str, wanted: &str) -> bool {
    if wanted.is_empty() {
        return false;
    }
    let (mut allowed, mut wanted) = (allowed.split('.'), wanted.split('.'));
    loop {
        match (allowed.next(), wanted.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(one), Some(other)) if one == other && one != "*" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests;
