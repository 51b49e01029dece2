//! Push rules: the global account data `m.push_rules`, with the server's defaults (CS "Push Rules").

use std::sync::Arc;

use ruma::{
    UserId,
    push::{Action, NewPushRule, RuleKind, Ruleset},
};

use crate::{Users, UsersError};

/// A push rule operation that the specification refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushRuleError {
    /// No such rule (`M_NOT_FOUND`).
    #[error("no such push rule")]
    NotFound,
    /// The server's own rules can be switched, not replaced or deleted (`M_INVALID_PARAM`).
    #[error("server-default push rules cannot be replaced or deleted")]
    ServerDefault,
    /// The rule ID holds a slash or backslash, starts with a dot, or is too long (`M_INVALID_PARAM`).
    #[error("not a valid rule ID")]
    InvalidRuleId,
    /// `before` or `after` names no rule of the user (`M_UNKNOWN`, 400).
    #[error("the rule named by before or after is unknown")]
    UnknownRelative,
    /// `before` or `after` names a server-default rule (`M_UNKNOWN`, 400).
    #[error("before and after cannot name a server-default rule")]
    RelativeToServerDefault,
    /// `before` is more important than `after` (`M_UNKNOWN`, 400).
    #[error("before has a higher priority than after")]
    BeforeHigherThanAfter,
    /// The user has as many rules as this server keeps (`M_TOO_LARGE`).
    #[error("too many push rules")]
    TooMany,
}

impl Users {
    /// The user's push rules, the server's defaults of this version merged in. Kept in memory.
    pub async fn push_rules(&self, user_id: &UserId) -> Result<Arc<Ruleset>, UsersError> {
        todo!()
    }

    /// Did the user ever change their push rules? If not, the server's defaults apply to them.
    pub async fn has_own_push_rules(&self, user_id: &UserId) -> Result<bool, UsersError> {
        todo!()
    }

    /// Adds or replaces a rule, before or after another one.
    pub async fn put_push_rule(
        &self,
        user_id: &UserId,
        rule: NewPushRule,
        before: Option<&str>,
        after: Option<&str>,
    ) -> Result<(), UsersError> {
        todo!()
    }

    /// Deletes a rule of the user's own.
    pub async fn delete_push_rule(
        &self,
        user_id: &UserId,
        kind: RuleKind,
        rule_id: &str,
    ) -> Result<(), UsersError> {
        todo!()
    }

    /// Switches a rule on or off.
    pub async fn set_push_rule_enabled(
        &self,
        user_id: &UserId,
        kind: RuleKind,
        rule_id: &str,
        enabled: bool,
    ) -> Result<(), UsersError> {
        todo!()
    }

    /// Changes what a rule does.
    pub async fn set_push_rule_actions(
        &self,
        user_id: &UserId,
        kind: RuleKind,
        rule_id: &str,
        actions: Vec<Action>,
    ) -> Result<(), UsersError> {
        todo!()
    }
}
