//! Which handler serves which endpoint: one line each, in the order of the specification's chapters.
//! Guests may use those that the specification lists (CS "Guest Access"), and what `/sync` needs.

use axum::{
    Router,
    routing::{get, post, put},
};
use hearth_http::{Class, Endpoints, Policy};

use crate::{
    ClientApi,
    echoes::AnsweredFirst as First,
    routes::{
        account, account_data, admin, alias, appservice, backup, calls, cross_signing,
        dehydrated_device, delayed_events, device, directory, discovery, event_stream, filter,
        keys, knock, media, membership, message, presence, preview, profile, push, receipt, redact,
        relations, reporting, room, session, shared_secret, sliding_sync, space, state, sync, tag,
        thirdparty, threads, to_device, typing, user_directory, websocket,
    },
};

/// The client-server API over this state. The result is still to be
/// [finished](hearth_http::finish), once, together with other APIs.
pub fn router(api: ClientApi) -> Router {
    accounts()
        .merge(encryption())
        .merge(personal())
        .merge(calling())
        .merge(delayed())
        .merge(bridged())
        .merge(key_backup())
        .merge(content())
        .merge(rooms())
        .merge(reading())
        .into_router(api)
}

/// Discovery, registration, sessions, devices, administration.
fn accounts() -> Endpoints<ClientApi> {
    let guests = Policy::default().allow_guests();
    let long_poll = guests.long_poll();
    let leaving = guests.allow_locked();
    Endpoints::new()
        .ruma(discovery::versions)
        .ruma_with(guests, discovery::capabilities)
        .ruma(discovery::well_known_client)
        .ruma(discovery::well_known_support)
        .ruma_with(Class::Login, account::register)
        .ruma_with(Class::Login, account::username_availability)
        .ruma_with(Class::Login, account::registration_token_validity)
        .ruma_with(guests, account::whoami)
        .ruma(account::third_party_ids)
        .ruma_with(Class::Login, account::change_password)
        .ruma_with(Class::Login, account::deactivate)
        .ruma(account::openid_token)
        .ruma(session::login_types)
        .ruma_with(Policy::from(Class::Login).require("type"), session::login)
        .ruma_with(Class::Login, session::login_token)
        .ruma_with(Class::Login, session::refresh)
        .ruma_with(leaving, session::logout)
        .ruma_with(leaving, session::logout_all)
        .ruma_with(guests, device::list)
        .ruma_with(guests, device::get)
        .ruma_with(guests, device::update)
        .ruma_with(guests, device::delete)
        .ruma(device::delete_many)
        .ruma(cross_signing::query)
        .ruma(cross_signing::upload_keys)
        .ruma(cross_signing::upload_signatures)
        .ruma(admin::is_locked)
        .ruma(admin::lock)
        .ruma(admin::is_suspended)
        .ruma(admin::suspend)
        .ruma(admin::whois)
        .ruma_with(long_poll, sync::sync)
        .route(
            "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync",
            post(sliding_sync::deployed),
        )
        .route("/_matrix/client/v4/sync", post(sliding_sync::accepted))
        .route("/_matrix/client/unstable/org.hearth.websocket/sync", get(websocket::open))
        .route(
            "/_synapse/admin/v1/register",
            get(shared_secret::nonce).post(shared_secret::register),
        )
}

/// Keys of devices and users.
fn encryption() -> Endpoints<ClientApi> {
    let guests = Policy::default().allow_guests();
    Endpoints::new()
        .ruma_with(guests, keys::upload)
        .ruma_with(guests, keys::claim)
        .ruma_with(guests, keys::changes)
}

/// What belongs to a user: profile, data, filters, tags, push rules, presence, typing, receipts.
fn personal() -> Endpoints<ClientApi> {
    // The specification does not limit it, but other servers may have to be told each time.
    let to_device =
        Policy::default().class(Class::General).json_body(to_device::MAX_BYTES).allow_guests();
    let guests = Policy::default().allow_guests();
    Endpoints::new()
        .ruma(profile::get)
        .ruma(profile::get_field)
        .ruma_with(guests, profile::set_field)
        .ruma(profile::delete_field)
        .ruma(account_data::get_global)
        .ruma(account_data::set_global)
        .ruma(account_data::get_room)
        .ruma(account_data::set_room)
        .ruma_with(guests, filter::create)
        .ruma_with(guests, filter::get)
        .ruma(tag::list)
        .ruma(tag::create)
        .ruma(tag::delete)
        .ruma(push::all_rules)
        .ruma(push::global_rules)
        .ruma(push::rule)
        .ruma(push::set_rule)
        .ruma(push::delete_rule)
        .ruma(push::rule_enabled)
        .ruma(push::set_rule_enabled)
        .ruma(push::rule_actions)
        .ruma(push::set_rule_actions)
        .ruma(push::pushers)
        .ruma_with(Policy::default().require("kind"), push::set_pusher)
        .ruma(push::notifications)
        .ruma(presence::get)
        .ruma(presence::set)
        .ruma(typing::set)
        .ruma(receipt::create)
        .ruma(receipt::set_markers)
        .ruma_with(to_device, to_device::send)
        .ruma(user_directory::search)
        .ruma_with(Class::General, reporting::user)
        .ruma_with(Class::General, reporting::room)
        .ruma_with(Class::General, reporting::event)
}

/// Servers that carry calls.
fn calling() -> Endpoints<ClientApi> {
    let guests = Policy::default().allow_guests();
    Endpoints::new()
        .ruma_with(guests, calls::turn_server)
        .route("/_matrix/client/v1/rtc/transports", get(calls::rtc_transports))
        .route(
            "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports",
            get(calls::rtc_transports),
        )
}

/// Events that are sent later (MSC4140).
fn delayed() -> Endpoints<ClientApi> {
    const PREFIX: &str = "/_matrix/client/unstable/org.matrix.msc4140";
    Endpoints::new()
        .route(
            &format!("{PREFIX}/rooms/{{room_id}}/delayed_event/{{event_type}}/{{txn_id}}"),
            put(delayed_events::put),
        )
        .route(&format!("{PREFIX}/delayed_events"), get(delayed_events::list))
        .route(
            &format!("{PREFIX}/delayed_events/{{delay_id}}"),
            get(delayed_events::get).post(delayed_events::manage_by_body),
        )
        .route(
            &format!("{PREFIX}/delayed_events/{{delay_id}}/{{action}}"),
            post(delayed_events::manage),
        )
}

/// What bridges would know.
fn bridged() -> Endpoints<ClientApi> {
    Endpoints::new()
        .route("/_matrix/client/v1/appservice/{appservice_id}/ping", post(appservice::refuse))
        .route(
            "/_matrix/client/v3/directory/list/appservice/{network_id}/{room_id}",
            put(appservice::refuse),
        )
        .ruma(thirdparty::protocols)
        .ruma(thirdparty::protocol)
        .ruma(thirdparty::location)
        .ruma(thirdparty::location_of_alias)
        .ruma(thirdparty::user)
        .ruma(thirdparty::user_of_id)
}

/// What users upload. The paths without authentication are frozen: see [`media`].
fn content() -> Endpoints<ClientApi> {
    Endpoints::new()
        .route("/_matrix/media/v3/upload", post(media::upload))
        .route("/_matrix/media/r0/upload", post(media::upload))
        .route("/_matrix/media/v3/upload/{server_name}/{media_id}", put(media::upload_to))
        .ruma_with(Class::Upload, media::create)
        .ruma(media::config)
        .ruma(media::old_config)
        .ruma(media::download)
        .ruma(media::download_as)
        .ruma(media::thumbnail)
        .ruma(media::old_download)
        .ruma(media::old_download_as)
        .ruma(media::old_thumbnail)
        .route("/_matrix/client/v1/media/preview_url", get(preview::preview))
        .route("/_matrix/media/v3/preview_url", get(preview::preview))
        .route("/_matrix/media/r0/preview_url", get(preview::preview))
}

/// What a user's clients leave with the server for times without clients: key backup, dehydrated device.
fn key_backup() -> Endpoints<ClientApi> {
    Endpoints::new()
        .ruma(backup::create)
        .ruma(backup::latest)
        .ruma(backup::get)
        .ruma(backup::update)
        .ruma(backup::delete)
        .ruma(backup::add)
        .ruma(backup::add_room)
        .ruma(backup::add_session)
        .ruma(backup::keys)
        .ruma(backup::room_keys)
        .ruma(backup::session_key)
        .ruma(backup::delete_keys)
        .ruma(backup::delete_room_keys)
        .ruma(backup::delete_session_key)
        .ruma(dehydrated_device::put)
        .ruma(dehydrated_device::get)
        .ruma(dehydrated_device::delete)
        .ruma(dehydrated_device::events)
}

/// What changes rooms.
fn rooms() -> Endpoints<ClientApi> {
    let entering = Policy::from(Class::Membership).allow_guests();
    let talking = Policy::from(Class::Message).allow_guests();
    Endpoints::new()
        .ruma_with(Class::Membership, First(room::create))
        .ruma_with(Class::Membership, First(room::upgrade))
        .ruma_with(talking, First(message::send))
        .ruma_with(talking, First(state::send))
        .ruma_with(Class::Message, First(redact::redact))
        .ruma_with(entering, First(membership::join_by_id_or_alias))
        .ruma_with(entering, First(membership::join_by_id))
        .ruma_with(Class::Membership, First(membership::invite))
        .ruma_with(entering, First(membership::leave))
        .ruma(membership::forget)
        .ruma_with(Class::Membership, First(membership::kick))
        .ruma_with(Class::Membership, First(membership::ban))
        .ruma_with(Class::Membership, First(membership::unban))
        .ruma_with(Class::Membership, First(knock::knock))
        .ruma(alias::create)
        .ruma(alias::delete)
        .ruma(directory::set_visibility)
}

/// What reads rooms.
fn reading() -> Endpoints<ClientApi> {
    let guests = Policy::default().allow_guests();
    Endpoints::new()
        .ruma_with(guests, message::messages)
        .ruma_with(guests, message::context)
        .ruma_with(guests, message::event)
        .ruma(message::by_timestamp)
        .ruma_with(guests, state::all)
        .ruma_with(guests, state::one)
        .ruma(membership::members)
        .ruma(membership::joined_members)
        .ruma(membership::joined_rooms)
        .ruma(membership::mutual_rooms)
        .ruma(relations::all)
        .ruma(relations::of_type)
        .ruma(relations::of_type_and_event_type)
        .ruma(threads::list)
        .ruma(space::hierarchy)
        .ruma(room::summary)
        .ruma(alias::get)
        .ruma(alias::of_room)
        .ruma(directory::visibility)
        .ruma(directory::list)
        .ruma(directory::search)
        .merge(event_stream())
}

/// What was before `/sync`, under both prefixes that it was known by.
fn event_stream() -> Endpoints<ClientApi> {
    ["/_matrix/client/v3", "/_matrix/client/r0"].into_iter().fold(
        Endpoints::new(),
        |all, prefix| {
            all.route(&format!("{prefix}/events"), get(event_stream::events))
                .route(&format!("{prefix}/initialSync"), get(event_stream::of_user))
                .route(
                    &format!("{prefix}/rooms/{{room_id}}/initialSync"),
                    get(event_stream::of_room),
                )
        },
    )
}
