//! `/user_directory/search` (CS "User Directory").

use std::collections::HashSet;

use hearth_http::Ruma;
use hearth_rooms::DirectoryQuery;
use hearth_users::DirectoryMatch;
use ruma::{OwnedRoomId, UserId, api::client::user_directory::search_users};

use crate::{ApiError, ClientApi, LocalUser};

/// Results in one answer, at most.
const MAX_RESULTS: usize = 100;
/// Matches looked at for one answer, at most: those whom the caller may not see are left out.
const MAX_CANDIDATES: usize = 500;
/// Published rooms whose members are shown; the largest come first.
const MAX_PUBLISHED: usize = 500;

/// `POST /_matrix/client/*/user_directory/search`: finds those whom the caller shares a room with and
/// the members of published rooms; everybody, if the configuration says so.
pub(crate) async fn search(
    app: ClientApi,
    request: Ruma<search_users::v3::Request, LocalUser>,
) -> Result<search_users::v3::Response, ApiError> {
    let asked = usize::try_from(u64::from(request.limit)).unwrap_or(MAX_RESULTS);
    let limit = asked.min(MAX_RESULTS);
    let term = &request.search_term;
    let (mut matches, mut limited) = if app.users().config().search_all_users {
        app.users().search_directory(term, limit, |_| true)
    } else {
        let (candidates, more) = app.users().search_directory(term, MAX_CANDIDATES, |_| true);
        (seen_by(&app, request.identity.user_id(), candidates, limit).await?, more)
    };
    limited |= matches.len() > limit;
    matches.truncate(limit);
    let results = matches.into_iter().map(|found| {
        let mut user = search_users::v3::User::new(found.user_id);
        user.display_name = found.display_name;
        user.avatar_url = found.avatar_url.map(Into::into);
        user
    });
    Ok(search_users::v3::Response::new(results.collect(), limited))
}

/// Those whom the caller may see, one more than the limit at most.
async fn seen_by(
    app: &ClientApi,
    caller: &UserId,
    candidates: Vec<DirectoryMatch>,
    limit: usize,
) -> Result<Vec<DirectoryMatch>, ApiError> {
    let mut open: HashSet<OwnedRoomId> =
        app.rooms().joined_rooms(caller).await?.into_iter().collect();
    let published = DirectoryQuery { limit: Some(MAX_PUBLISHED), ..DirectoryQuery::default() };
    let published = app.rooms().public_rooms(&published).await?;
    open.extend(published.rooms.into_iter().map(|room| room.room_id));
    let mut seen = Vec::new();
    for candidate in candidates {
        let rooms = app.rooms().joined_rooms(&candidate.user_id).await?;
        if candidate.user_id == caller || rooms.iter().any(|room_id| open.contains(room_id)) {
            seen.push(candidate);
        }
        if seen.len() > limit {
            break;
        }
    }
    Ok(seen)
}
