//! Users of other servers by the words of their names, in memory.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use hearth_users::{MAX_DIRECTORY_CANDIDATES, NameWords};
use ruma::{OwnedUserId, UserId};

/// Members of rooms in the index, one counted once for each room; further ones are not found by name.
const MAX_PLACES: usize = 500_000;
/// Profiles that one search looks at: somebody may have one in each of many rooms.
const MAX_LOOKED_AT: usize = 50_000;
/// The part of a display name that counts, in characters.
const MAX_NAME_CHARS: usize = 256;
/// Longer avatar URLs are none.
const MAX_AVATAR_BYTES: usize = 1_024;

/// A room's number in the index.
pub(super) type RoomNumber = u32;

/// What somebody shows of themselves in a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Profile {
    displayname: Option<Box<str>>,
    avatar_url: Option<Box<str>>,
}

impl Profile {
    /// What is too long is cut, or is none.
    pub(super) fn new(displayname: Option<&str>, avatar_url: Option<&str>) -> Self {
        let displayname = displayname.map(|name| {
            let end = name.char_indices().nth(MAX_NAME_CHARS).map(|(end, _)| end);
            end.and_then(|end| name.get(..end)).unwrap_or(name).into()
        });
        let avatar_url = avatar_url.filter(|url| url.len() <= MAX_AVATAR_BYTES).map(Into::into);
        Self { displayname, avatar_url }
    }

    fn words(&self, user_id: &UserId) -> NameWords {
        NameWords::of(user_id, self.displayname.as_deref())
    }
}

#[derive(Debug)]
struct Place {
    room: RoomNumber,
    profile: Profile,
}

/// A user of another server whom a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteMatch {
    /// The user.
    pub user_id: OwnedUserId,
    /// Their display name, in a room where the searcher may see it.
    pub display_name: Option<String>,
    /// Their avatar's URL there.
    pub avatar_url: Option<String>,
}

/// Who is in which room, and under which name.
#[derive(Debug, Default)]
pub(super) struct Index {
    users: HashMap<Arc<OwnedUserId>, Vec<Place>>,
    words: BTreeMap<String, BTreeSet<Arc<OwnedUserId>>>,
    places: usize,
}

impl Index {
    /// Somebody is in a room and shows this of themselves.
    pub(super) fn put(&mut self, room: RoomNumber, user_id: &OwnedUserId, profile: Profile) {
        self.remove(room, user_id);
        if self.places >= MAX_PLACES {
            return;
        }
        let known = self.users.get_key_value(user_id).map(|(known, _)| Arc::clone(known));
        let user_id = known.unwrap_or_else(|| Arc::new(user_id.clone()));
        for word in profile.words(&user_id) {
            self.words.entry(word).or_default().insert(Arc::clone(&user_id));
        }
        self.users.entry(user_id).or_default().push(Place { room, profile });
        self.places += 1;
    }

    /// Somebody is not in a room any more.
    pub(super) fn remove(&mut self, room: RoomNumber, user_id: &OwnedUserId) {
        let Some(places) = self.users.get_mut(user_id) else { return };
        let Some(at) = places.iter().position(|place| place.room == room) else { return };
        let gone = places.swap_remove(at);
        self.places -= 1;
        let kept: HashSet<String> =
            places.iter().flat_map(|place| place.profile.words(user_id)).collect();
        if places.is_empty() {
            self.users.remove(user_id);
        }
        for word in gone.profile.words(user_id).into_iter().filter(|word| !kept.contains(word)) {
            if let Some(users) = self.words.get_mut(&word) {
                users.remove(user_id);
                if users.is_empty() {
                    self.words.remove(&word);
                }
            }
        }
    }

    /// Nobody is in a room any more. Looks at everybody.
    pub(super) fn remove_room(&mut self, room: RoomNumber) {
        let members = self.users.iter().filter(|(_, places)| places.iter().any(|p| p.room == room));
        let members: Vec<_> = members.map(|(user_id, _)| Arc::clone(user_id)).collect();
        for user_id in members {
            self.remove(room, &user_id);
        }
    }

    /// Those of whom every word that is searched for starts a word of their user name or display name, in
    /// a room that is `visible`: whole words first, then by ID.
    pub(super) fn search(
        &self,
        wanted: &NameWords,
        visible: impl Fn(RoomNumber) -> bool,
    ) -> Vec<RemoteMatch> {
        // The longest word leaves the fewest to look at.
        let Some(longest) = wanted.longest() else { return Vec::new() };
        let found: BTreeSet<&Arc<OwnedUserId>> = self
            .words
            .range(longest.to_owned()..)
            .take_while(|(word, _)| word.starts_with(longest))
            .flat_map(|(_, users)| users)
            .take(MAX_DIRECTORY_CANDIDATES)
            .collect();
        let mut budget = MAX_LOOKED_AT;
        let mut ranked: Vec<_> = found
            .into_iter()
            .filter_map(|user_id| {
                let places = self.users.get(user_id)?.iter().take(budget);
                budget = budget.saturating_sub(places.len());
                let seen = places.filter(|place| visible(place.room));
                let ranked = seen.filter_map(|place| {
                    Some((place.profile.words(user_id).rank(wanted)?, &place.profile))
                });
                let (rank, profile) = ranked.max_by_key(|(rank, _)| *rank)?;
                Some((rank, user_id, profile))
            })
            .collect();
        ranked.sort_by(|(one, one_id, _), (two, two_id, _)| {
            two.cmp(one).then_with(|| one_id.cmp(two_id))
        });
        let found = ranked.into_iter().map(|(_, user_id, profile)| RemoteMatch {
            user_id: OwnedUserId::clone(user_id),
            display_name: profile.displayname.as_deref().map(str::to_owned),
            avatar_url: profile.avatar_url.as_deref().map(str::to_owned),
        });
        found.collect()
    }
}

#[cfg(test)]
mod tests {
    use ruma::owned_user_id;

    use super::*;

    fn found(index: &Index, term: &str, rooms: &[RoomNumber]) -> Vec<(String, Option<String>)> {
        let found = index.search(&NameWords::searched(term), |room| rooms.contains(&room));
        found.into_iter().map(|one| (one.user_id.to_string(), one.display_name)).collect()
    }

    fn named(name: &str) -> Profile {
        Profile::new(Some(name), None)
    }

    #[test]
    fn a_name_is_found_where_it_is_seen() {
        let mut index = Index::default();
        let (bob, zoe) = (&owned_user_id!("@bob:far.test"), &owned_user_id!("@zoe:far.test"));
        index.put(1, bob, named("Robert"));
        index.put(2, bob, named("The Boss"));
        index.put(1, zoe, Profile::default());
        let robert = ("@bob:far.test".to_owned(), Some("Robert".to_owned()));
        assert_eq!(found(&index, "ROB", &[1]), std::slice::from_ref(&robert));
        assert_eq!(found(&index, "boss", &[1]), [], "that is what he is called elsewhere");
        assert_eq!(found(&index, "bob", &[1]), [robert]);
        assert_eq!(found(&index, "boss", &[1, 2]).len(), 1);
        assert_eq!(found(&index, "zo", &[1]), [("@zoe:far.test".to_owned(), None)]);
        assert_eq!(found(&index, "zo", &[]), []);
    }

    #[test]
    fn nothing_stays_of_who_is_gone() {
        let mut index = Index::default();
        let bob = &owned_user_id!("@bob:far.test");
        index.put(1, bob, named("Robert"));
        index.put(1, bob, named("Bert"));
        index.put(2, bob, named("Bert Two"));
        assert_eq!(found(&index, "robert", &[1, 2]), []);
        index.remove(2, bob);
        assert_eq!(found(&index, "two", &[1, 2]), []);
        assert_eq!(found(&index, "bert", &[1, 2]).len(), 1);
        index.remove(1, bob);
        index.remove(1, bob);
        assert!(index.users.is_empty() && index.words.is_empty() && index.places == 0);
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let name = "ä".repeat(10 * MAX_NAME_CHARS);
        assert_eq!(named(&name).displayname.map(|name| name.chars().count()), Some(MAX_NAME_CHARS));
    }
}
