//! `/user_directory/search` (CS "User Directory").

use std::collections::{HashMap, HashSet, hash_map::Entry};

use hearth_http::Ruma;
use hearth_users::DirectoryMatch;
use ruma::{OwnedRoomId, UserId, api::client::user_directory::search_users, room::JoinRuleSummary};

use crate::{ApiError, ClientApi, LocalUser};

/// Results in one answer, at most.
const MAX_RESULTS: usize = 100;
/// Matches looked at for one answer, at most: those whom the caller may not see are left out.
const MAX_CANDIDATES: usize = 500;
/// Rooms whose openness is looked up for one answer, at most; the members of further ones are left out.
const MAX_JUDGED_ROOMS: usize = 1_000;

/// `POST /_matrix/client/*/user_directory/search`: finds those whom the caller shares a room with and
/// the members of rooms that anybody may join or read; every user of this server, if the configuration says
/// so. Users of other servers come last.
pub(crate) async fn search(
    app: ClientApi,
    request: Ruma<search_users::v3::Request, LocalUser>,
) -> Result<search_users::v3::Response, ApiError> {
    let asked = usize::try_from(u64::from(request.limit)).unwrap_or(MAX_RESULTS);
    let limit = asked.min(MAX_RESULTS);
    let term = &request.search_term;
    let caller = request.identity.user_id();
    let shared: HashSet<OwnedRoomId> =
        app.rooms().joined_rooms(caller).await?.into_iter().collect();
    let (matches, mut limited) = if app.users().config().search_all_users {
        app.users().search_directory(term, limit, |_| true)
    } else {
        let (candidates, more) = app.users().search_directory(term, MAX_CANDIDATES, |_| true);
        (seen_by(&app, caller, &shared, candidates, limit).await?, more)
    };
    let (remote, more) = app.sync().search_remote_users(term, limit, &shared).await?;
    let local = matches.into_iter().map(|one| (one.user_id, one.display_name, one.avatar_url));
    let remote = remote.into_iter().map(|one| (one.user_id, one.display_name, one.avatar_url));
    let mut results: Vec<_> = local
        .chain(remote)
        .map(|(user_id, display_name, avatar_url)| {
            let mut user = search_users::v3::User::new(user_id);
            user.display_name = display_name;
            user.avatar_url = avatar_url.map(Into::into);
            user
        })
        .collect();
    limited |= more || results.len() > limit;
    results.truncate(limit);
    Ok(search_users::v3::Response::new(results, limited))
}

/// Those of this server whom the caller may see, one more than the limit at most. The caller is one of them where others
/// would find them too: in an open room.
async fn seen_by(
    app: &ClientApi,
    caller: &UserId,
    shared: &HashSet<OwnedRoomId>,
    candidates: Vec<DirectoryMatch>,
    limit: usize,
) -> Result<Vec<DirectoryMatch>, ApiError> {
    let mut is_open: HashMap<OwnedRoomId, bool> = HashMap::new();
    let mut seen = Vec::new();
    for candidate in candidates {
        let mut visible = false;
        for room_id in app.rooms().joined_rooms(&candidate.user_id).await? {
            visible = candidate.user_id != caller && shared.contains(&room_id);
            if visible {
                break;
            }
            let full = is_open.len() >= MAX_JUDGED_ROOMS;
            visible = match is_open.entry(room_id) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(_) if full => false,
                Entry::Vacant(unknown) => {
                    let summary = app.rooms().room_summary(unknown.key()).await?;
                    *unknown.insert(summary.is_some_and(|room| {
                        room.world_readable || matches!(room.join_rule, JoinRuleSummary::Public)
                    }))
                }
            };
            if visible {
                break;
            }
        }
        if visible {
            seen.push(candidate);
        }
        if seen.len() > limit {
            break;
        }
    }
    Ok(seen)
}
