//! `/pushrules`, `/pushers` and `/notifications` (CS "Push Notifications").

use hearth_http::{MatrixError, Ruma};
use hearth_push::{NewPusher, NotificationsRequest, Notified};
use ruma::{
    api::client::push::{
        delete_pushrule, get_notifications, get_pushers, get_pushrule, get_pushrule_actions,
        get_pushrule_enabled, get_pushrules_all, get_pushrules_global_scope, set_pusher,
        set_pusher::v3::PusherAction, set_pushrule, set_pushrule_actions, set_pushrule_enabled,
    },
    push::{AnyPushRuleRef, RuleKind, Ruleset},
    serde::Raw,
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

/// `GET /_matrix/client/*/pushers`
pub(crate) async fn pushers(
    app: ClientApi,
    request: Ruma<get_pushers::v3::Request, LocalUser>,
) -> Result<get_pushers::v3::Response, ApiError> {
    Ok(get_pushers::v3::Response::new(app.push().pushers(request.identity.user_id())))
}

/// `POST /_matrix/client/*/pushers/set`
pub(crate) async fn set_pusher(
    app: ClientApi,
    request: Ruma<set_pusher::v3::Request, LocalUser>,
) -> Result<set_pusher::v3::Response, ApiError> {
    let caller = &request.identity;
    match request.body.action {
        PusherAction::Post(wanted) => {
            let allow_http = app.push().config().allow_http;
            let (device_id, now_ms) = (caller.device_id(), app.clock().now_ms());
            let new = NewPusher::check(wanted.pusher, device_id, now_ms, allow_http)?;
            app.push().set_pusher(caller.user_id(), new, wanted.append).await?;
        }
        PusherAction::Delete(ids) => {
            app.push().delete_pusher(caller.user_id(), &ids.app_id, &ids.pushkey).await?;
        }
        _ => return Err(MatrixError::unrecognized("No such action").into()),
    }
    Ok(set_pusher::v3::Response::new())
}

/// `GET /_matrix/client/*/notifications`
pub(crate) async fn notifications(
    app: ClientApi,
    request: Ruma<get_notifications::v3::Request, LocalUser>,
) -> Result<get_notifications::v3::Response, ApiError> {
    let wanted = NotificationsRequest {
        from: request.from.clone(),
        limit: request.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
        only_highlights: request.only.as_deref() == Some("highlight"),
    };
    let caller = &request.identity;
    let page = app.push().notifications(caller.user_id(), caller.device_id(), &wanted).await?;
    let shown = page.notified.into_iter().map(|notified| {
        let Notified { room_id, event, actions, read, sent } = notified;
        let event = Raw::from_json(event);
        get_notifications::v3::Notification::new(actions, event, read, room_id, sent)
    });
    let mut response = get_notifications::v3::Response::new(shown.collect());
    response.next_token = page.next_token;
    Ok(response)
}

fn find<'a>(
    rules: &'a Ruleset,
    kind: &RuleKind,
    rule_id: &str,
) -> Result<AnyPushRuleRef<'a>, ApiError> {
    let rule = rules.get(kind.clone(), rule_id);
    rule.ok_or_else(|| MatrixError::not_found("You have no such push rule").into())
}
