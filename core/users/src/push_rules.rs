//! Push rules: the global account data `m.push_rules`, with the server's defaults (CS "Push Rules").

use std::sync::Arc;

use quick_cache::sync::Cache;
use ruma::{
    OwnedUserId, UserId,
    push::{
        Action, AnyPushRuleRef, InsertPushRuleError, NewPushRule, RemovePushRuleError, RuleKind,
        RuleNotFoundError, Ruleset,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    Users, UsersError,
    account_data::{ACCOUNT_DATA, PUSH_RULES},
};

/// Users whose rules are kept in memory.
const MAX_CACHED: usize = 10_000;
/// The longest rule ID in bytes.
const MAX_RULE_ID_BYTES: usize = 255;

/// The content of `m.push_rules`.
#[derive(Debug, Serialize, Deserialize)]
struct Content<R> {
    global: R,
}

#[derive(Clone, Debug)]
struct Known {
    rules: Arc<Ruleset>,
    is_own: bool,
}

/// Rules in memory, filled and emptied under the lock of their user.
#[derive(Debug)]
pub(crate) struct PushRulesCache(Cache<OwnedUserId, Known>);

impl PushRulesCache {
    pub(crate) fn new() -> Self {
        Self(Cache::new(MAX_CACHED))
    }

    pub(crate) fn remove(&self, user_id: &UserId) {
        self.0.remove(user_id);
    }
}

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

impl From<InsertPushRuleError> for PushRuleError {
    fn from(error: InsertPushRuleError) -> Self {
        match error {
            InsertPushRuleError::ServerDefaultRuleId => Self::ServerDefault,
            InsertPushRuleError::RelativeToServerDefaultRule => Self::RelativeToServerDefault,
            InsertPushRuleError::UnknownRuleId => Self::UnknownRelative,
            InsertPushRuleError::BeforeHigherThanAfter => Self::BeforeHigherThanAfter,
            _ => Self::InvalidRuleId,
        }
    }
}

impl From<RemovePushRuleError> for PushRuleError {
    fn from(error: RemovePushRuleError) -> Self {
        match error {
            RemovePushRuleError::ServerDefault => Self::ServerDefault,
            _ => Self::NotFound,
        }
    }
}

impl From<RuleNotFoundError> for PushRuleError {
    fn from(_: RuleNotFoundError) -> Self {
        Self::NotFound
    }
}

impl Users {
    /// The user's push rules, the server's defaults of this version merged in. Kept in memory.
    pub async fn push_rules(&self, user_id: &UserId) -> Result<Arc<Ruleset>, UsersError> {
        Ok(self.known_push_rules(user_id).await?.rules)
    }

    /// Did the user ever change their push rules? If not, the server's defaults apply to them.
    pub async fn has_own_push_rules(&self, user_id: &UserId) -> Result<bool, UsersError> {
        Ok(self.known_push_rules(user_id).await?.is_own)
    }

    async fn known_push_rules(&self, user_id: &UserId) -> Result<Known, UsersError> {
        if let Some(known) = self.inner.push_rules.0.get(user_id) {
            return Ok(known);
        }
        self.exclusive(user_id, move |users, user_id| async move {
            let known = users.stored_push_rules(&user_id).await?;
            users.inner.push_rules.0.insert(user_id, known.clone());
            Ok(known)
        })
        .await
    }

    async fn stored_push_rules(&self, user_id: &OwnedUserId) -> Result<Known, UsersError> {
        let defaults = Ruleset::server_default(user_id);
        let key = (String::new(), PUSH_RULES.to_owned());
        let Some(row) = self.store().get(&ACCOUNT_DATA, user_id, &key).await? else {
            return Ok(Known { rules: Arc::new(defaults), is_own: false });
        };
        let content: Content<Ruleset> = serde_json::from_str(&row.record.json)
            .map_err(|error| UsersError::Internal(format!("stored push rules: {error}")))?;
        let mut rules = content.global;
        rules.update_with_server_default(defaults);
        Ok(Known { rules: Arc::new(rules), is_own: true })
    }

    /// The content of the account data `m.push_rules`.
    pub(crate) async fn push_rules_content(
        &self,
        user_id: &UserId,
    ) -> Result<Box<RawValue>, UsersError> {
        let rules = self.push_rules(user_id).await?;
        to_raw_value(&Content { global: &*rules })
            .map_err(|error| UsersError::Internal(format!("push rules: {error}")))
    }

    /// Adds or replaces a rule, before or after another one.
    pub async fn put_push_rule(
        &self,
        user_id: &UserId,
        rule: NewPushRule,
        before: Option<&str>,
        after: Option<&str>,
    ) -> Result<(), UsersError> {
        if rule.rule_id().is_empty() || rule.rule_id().len() > MAX_RULE_ID_BYTES {
            return Err(PushRuleError::InvalidRuleId.into());
        }
        if [before, after].contains(&Some(rule.rule_id())) {
            return Err(PushRuleError::UnknownRelative.into());
        }
        let (before, after) = (before.map(ToOwned::to_owned), after.map(ToOwned::to_owned));
        self.change_push_rules(user_id, move |rules| {
            let (kind, rule_id) = (rule.kind(), rule.rule_id().to_owned());
            let old = rules.get(kind.clone(), &rule_id).filter(|old| !old.is_server_default());
            let enabled = old.map(AnyPushRuleRef::enabled);
            // A rule that moves is taken out first: its own place must not count when the new one is
            // found.
            if enabled.is_some() && (before.is_some() || after.is_some()) {
                rules.remove(kind.clone(), &rule_id)?;
            }
            rules.insert(rule, after.as_deref(), before.as_deref())?;
            if let Some(enabled) = enabled {
                rules.set_enabled(kind, &rule_id, enabled)?;
            }
            Ok(())
        })
        .await
    }

    /// Deletes a rule of the user's own.
    pub async fn delete_push_rule(
        &self,
        user_id: &UserId,
        kind: RuleKind,
        rule_id: &str,
    ) -> Result<(), UsersError> {
        let rule_id = rule_id.to_owned();
        self.change_push_rules(user_id, move |rules| Ok(rules.remove(kind, rule_id)?)).await
    }

    /// Switches a rule on or off.
    pub async fn set_push_rule_enabled(
        &self,
        user_id: &UserId,
        kind: RuleKind,
        rule_id: &str,
        enabled: bool,
    ) -> Result<(), UsersError> {
        let rule_id = rule_id.to_owned();
        self.change_push_rules(user_id, move |rules| Ok(rules.set_enabled(kind, rule_id, enabled)?))
            .await
    }

    /// Changes what a rule does.
    pub async fn set_push_rule_actions(
        &self,
        user_id: &UserId,
        kind: RuleKind,
        rule_id: &str,
        actions: Vec<Action>,
    ) -> Result<(), UsersError> {
        let rule_id = rule_id.to_owned();
        self.change_push_rules(user_id, move |rules| Ok(rules.set_actions(kind, rule_id, actions)?))
            .await
    }

    async fn change_push_rules(
        &self,
        user_id: &UserId,
        change: impl FnOnce(&mut Ruleset) -> Result<(), PushRuleError> + Send + 'static,
    ) -> Result<(), UsersError> {
        self.exclusive(user_id, move |users, user_id| async move {
            let mut rules = (*users.stored_push_rules(&user_id).await?.rules).clone();
            change(&mut rules)?;
            let json = serde_json::to_string(&Content { global: rules })
                .map_err(|error| UsersError::Internal(format!("push rules: {error}")))?;
            let key = (String::new(), PUSH_RULES.to_owned());
            match users.write_account_data_now(&user_id, key, json).await {
                Ok(_) => Ok(()),
                Err(UsersError::TooLarge { .. }) => Err(PushRuleError::TooMany.into()),
                Err(error) => Err(error),
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests;
