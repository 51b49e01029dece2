//! `/pushrules` (CS "Push Rules"). Pushers and `/notifications` come with push delivery.

use hearth_http::{MatrixError, Ruma};
use ruma::{
    api::client::push::{
        delete_pushrule, get_pushrule, get_pushrule_actions, get_pushrule_enabled,
        get_pushrules_all, get_pushrules_global_scope, set_pushrule, set_pushrule_actions,
        set_pushrule_enabled,
    },
    push::{AnyPushRuleRef, RuleKind, Ruleset},
};

use crate::{ApiError, ClientApi, LocalUser};

/// `GET /_matrix/client/*/pushrules/`
pub(crate) async fn all_rules(
    app: ClientApi,
    request: Ruma<get_pushrules_all::v3::Request, LocalUser>,
) -> Result<get_pushrules_all::v3::Response, ApiError> {
    let rules = app.users().push_rules(request.identity.user_id()).await?;
    Ok(get_pushrules_all::v3::Response::new(Ruleset::clone(&rules)))
}

/// `GET /_matrix/client/*/pushrules/global/`
pub(crate) async fn global_rules(
    app: ClientApi,
    request: Ruma<get_pushrules_global_scope::v3::Request, LocalUser>,
) -> Result<get_pushrules_global_scope::v3::Response, ApiError> {
    let rules = app.users().push_rules(request.identity.user_id()).await?;
    Ok(get_pushrules_global_scope::v3::Response::new(Ruleset::clone(&rules)))
}

/// `GET /_matrix/client/*/pushrules/global/{kind}/{ruleId}`
pub(crate) async fn rule(
    app: ClientApi,
    request: Ruma<get_pushrule::v3::Request, LocalUser>,
) -> Result<get_pushrule::v3::Response, ApiError> {
    let rules = app.users().push_rules(request.identity.user_id()).await?;
    let rule = find(&rules, &request.kind, &request.rule_id)?;
    Ok(get_pushrule::v3::Response::new(rule.to_owned().into()))
}

/// `PUT /_matrix/client/*/pushrules/global/{kind}/{ruleId}`
pub(crate) async fn set_rule(
    app: ClientApi,
    request: Ruma<set_pushrule::v3::Request, LocalUser>,
) -> Result<set_pushrule::v3::Response, ApiError> {
    let set_pushrule::v3::Request { rule, before, after, .. } = request.body;
    let user_id = request.identity.user_id();
    app.users().put_push_rule(user_id, rule, before.as_deref(), after.as_deref()).await?;
    Ok(set_pushrule::v3::Response::new())
}

/// `DELETE /_matrix/client/*/pushrules/global/{kind}/{ruleId}`
pub(crate) async fn delete_rule(
    app: ClientApi,
    request: Ruma<delete_pushrule::v3::Request, LocalUser>,
) -> Result<delete_pushrule::v3::Response, ApiError> {
    let user_id = request.identity.user_id();
    app.users().delete_push_rule(user_id, request.kind.clone(), &request.rule_id).await?;
    Ok(delete_pushrule::v3::Response::new())
}

/// `GET /_matrix/client/*/pushrules/global/{kind}/{ruleId}/enabled`
pub(crate) async fn rule_enabled(
    app: ClientApi,
    request: Ruma<get_pushrule_enabled::v3::Request, LocalUser>,
) -> Result<get_pushrule_enabled::v3::Response, ApiError> {
    let rules = app.users().push_rules(request.identity.user_id()).await?;
    let rule = find(&rules, &request.kind, &request.rule_id)?;
    Ok(get_pushrule_enabled::v3::Response::new(rule.enabled()))
}

/// `PUT /_matrix/client/*/pushrules/global/{kind}/{ruleId}/enabled`
pub(crate) async fn set_rule_enabled(
    app: ClientApi,
    request: Ruma<set_pushrule_enabled::v3::Request, LocalUser>,
) -> Result<set_pushrule_enabled::v3::Response, ApiError> {
    let user_id = request.identity.user_id();
    app.users()
        .set_push_rule_enabled(user_id, request.kind.clone(), &request.rule_id, request.enabled)
        .await?;
    Ok(set_pushrule_enabled::v3::Response::new())
}

/// `GET /_matrix/client/*/pushrules/global/{kind}/{ruleId}/actions`
pub(crate) async fn rule_actions(
    app: ClientApi,
    request: Ruma<get_pushrule_actions::v3::Request, LocalUser>,
) -> Result<get_pushrule_actions::v3::Response, ApiError> {
    let rules = app.users().push_rules(request.identity.user_id()).await?;
    let rule = find(&rules, &request.kind, &request.rule_id)?;
    Ok(get_pushrule_actions::v3::Response::new(rule.actions().to_owned()))
}

/// `PUT /_matrix/client/*/pushrules/global/{kind}/{ruleId}/actions`
pub(crate) async fn set_rule_actions(
    app: ClientApi,
    request: Ruma<set_pushrule_actions::v3::Request, LocalUser>,
) -> Result<set_pushrule_actions::v3::Response, ApiError> {
    let set_pushrule_actions::v3::Request { kind, rule_id, actions, .. } = request.body;
    let user_id = request.identity.user_id();
    app.users().set_push_rule_actions(user_id, kind, &rule_id, actions).await?;
    Ok(set_pushrule_actions::v3::Response::new())
}

fn find<'a>(
    rules: &'a Ruleset,
    kind: &RuleKind,
    rule_id: &str,
) -> Result<AnyPushRuleRef<'a>, ApiError> {
    let rule = rules.get(kind.clone(), rule_id);
    rule.ok_or_else(|| MatrixError::not_found("You have no such push rule").into())
}
