//! The user directory (CS "User Directory"): an index in memory over local users' names.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::ControlFlow,
};

use hearth_storage::{Store, StoreError};
use ruma::{OwnedUserId, UserId};
use serde_json::Value;

use crate::{Users, profiles::PROFILES};

/// Users in the index; later ones are not found by name.
const MAX_USERS: usize = 500_000;
/// Words of one user, and of one search.
const MAX_WORDS: usize = 16;
/// The significant part of a word in characters.
const MAX_WORD_CHARS: usize = 64;
/// Users that one search looks at.
pub const MAX_CANDIDATES: usize = 5_000;

/// Local users by the words of their names.
#[derive(Debug, Default)]
pub(crate) struct DirectoryIndex {
    users: HashMap<OwnedUserId, Indexed>,
    words: BTreeMap<String, BTreeSet<OwnedUserId>>,
}

#[derive(Debug)]
struct Indexed {
    display_name: Option<String>,
    avatar_url: Option<String>,
    words: NameWords,
}

/// The words by which a user is found, or those that are searched for; in small letters.
#[derive(Clone, Debug)]
pub struct NameWords(Vec<String>);

impl NameWords {
    /// Those of a user's names, each once.
    #[must_use]
    pub fn of(user_id: &UserId, display_name: Option<&str>) -> Self {
        let localpart = user_id.localpart();
        let mut words: Vec<_> = words_of(localpart)
            .chain(display_name.into_iter().flat_map(words_of))
            .chain([localpart.chars().take(MAX_WORD_CHARS).collect()])
            .collect();
        words.sort_unstable();
        words.dedup();
        Self(words)
    }

    /// Those of a search term.
    #[must_use]
    pub fn searched(term: &str) -> Self {
        Self(words_of(term).collect())
    }

    /// The longest of them, which the fewest names have.
    #[must_use]
    pub fn longest(&self) -> Option<&str> {
        self.0.iter().max_by_key(|word| word.len()).map(String::as_str)
    }

    /// How many of the wanted words are whole words of these; `None` if one does not even start one.
    #[must_use]
    pub fn rank(&self, wanted: &Self) -> Option<usize> {
        wanted.0.iter().try_fold(0, |exact, word| {
            let mut own = self.0.iter().filter(|own| own.starts_with(word)).peekable();
            own.peek()?;
            Some(exact + usize::from(own.any(|own| own == word)))
        })
    }
}

impl IntoIterator for NameWords {
    type Item = String;
    type IntoIter = std::vec::IntoIter<String>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// The words of a text, in small letters.
fn words_of(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .take(MAX_WORDS)
        .map(|word| word.chars().flat_map(char::to_lowercase).take(MAX_WORD_CHARS).collect())
}

impl DirectoryIndex {
    pub(crate) async fn load(store: &Store) -> Result<Self, StoreError> {
        store
            .bulk(|view| {
                let mut index = Self::default();
                view.for_each(&PROFILES, |user_id, (), row| {
                    let profile: Value = serde_json::from_str(&row.json).unwrap_or_default();
                    let text = |key| profile.get(key).and_then(Value::as_str);
                    index.put(&user_id, text("displayname"), text("avatar_url"));
                    ControlFlow::Continue(())
                })?;
                Ok(index)
            })
            .await
    }

    pub(crate) fn put(
        &mut self,
        user_id: &OwnedUserId,
        display_name: Option<&str>,
        avatar_url: Option<&str>,
    ) {
        self.remove(user_id);
        if self.users.len() >= MAX_USERS {
            return;
        }
        let words = NameWords::of(user_id, display_name);
        for word in &words.0 {
            self.words.entry(word.clone()).or_default().insert(user_id.clone());
        }
        let indexed = Indexed {
            display_name: display_name.map(ToOwned::to_owned),
            avatar_url: avatar_url.map(ToOwned::to_owned),
            words,
        };
        self.users.insert(user_id.clone(), indexed);
    }

    pub(crate) fn remove(&mut self, user_id: &OwnedUserId) {
        let Some(indexed) = self.users.remove(user_id) else { return };
        for word in indexed.words {
            if let Some(users) = self.words.get_mut(&word) {
                users.remove(user_id);
                if users.is_empty() {
                    self.words.remove(&word);
                }
            }
        }
    }

    /// The best matches first.
    fn candidates(&self, wanted: &NameWords) -> Vec<DirectoryMatch> {
        // The longest word leaves the fewest to look at.
        let Some(longest) = wanted.longest() else { return Vec::new() };
        let starting = self.words.range(longest.to_owned()..);
        let found: BTreeSet<_> = starting
            .take_while(|(word, _)| word.starts_with(longest))
            .flat_map(|(_, users)| users)
            .take(MAX_CANDIDATES)
            .collect();
        let mut ranked: Vec<_> = found
            .into_iter()
            .filter_map(|user_id| {
                let indexed = self.users.get(user_id)?;
                Some((indexed.words.rank(wanted)?, user_id, indexed))
            })
            .collect();
        ranked.sort_by(|(one, one_id, _), (two, two_id, _)| {
            two.cmp(one).then_with(|| one_id.cmp(two_id))
        });
        let found = ranked.into_iter().map(|(_, user_id, indexed)| DirectoryMatch {
            user_id: user_id.clone(),
            display_name: indexed.display_name.clone(),
            avatar_url: indexed.avatar_url.clone(),
        });
        found.collect()
    }
}

/// A user that a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryMatch {
    /// The user.
    pub user_id: OwnedUserId,
    /// Their display name.
    pub display_name: Option<String>,
    /// Their avatar's URL.
    pub avatar_url: Option<String>,
}

impl Users {
    /// Active local users of whom every word of `term` starts a word of the user name or display name,
    /// whatever the case; whole words first, then by ID. `visible` says whether the searcher may see a
    /// user and is asked at most some thousand times. Returns at most `limit` matches, and whether
    /// there were more.
    #[must_use]
    pub fn search_directory(
        &self,
        term: &str,
        limit: usize,
        mut visible: impl FnMut(&UserId) -> bool,
    ) -> (Vec<DirectoryMatch>, bool) {
        let wanted = match self.named_by_id(term) {
            Some(user_id) => NameWords::searched(user_id.localpart()),
            None => NameWords::searched(term),
        };
        // The caller's question about visibility is asked with the index unlocked.
        let candidates = self.inner.directory.read().candidates(&wanted);
        let mut matches = candidates.into_iter().filter(|found| visible(&found.user_id));
        let page: Vec<_> = matches.by_ref().take(limit).collect();
        let is_limited = matches.next().is_some();
        (page, is_limited)
    }

    /// The local user whose whole ID the term is.
    fn named_by_id(&self, term: &str) -> Option<OwnedUserId> {
        let term = term.trim();
        if !term.starts_with('@') || !term.contains(':') {
            return None;
        }
        self.local_user_id(term)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::users::testing::Bench;

    async fn bench() -> Bench {
        let bench = Bench::new().await;
        for (username, display_name) in
            [("alice", "Alice Ångström"), ("alan", "Al"), ("bob", "Bob Alison"), ("c.al-lin", "")]
        {
            let user_id = bench.user(username).await;
            let name = json!(display_name);
            bench.users.set_profile_field(&user_id, "displayname", name).await.unwrap();
        }
        bench
    }

    fn found(bench: &Bench, term: &str) -> Vec<String> {
        let (matches, _) = bench.users.search_directory(term, 10, |_| true);
        matches.into_iter().map(|found| found.user_id.localpart().to_owned()).collect()
    }

    #[tokio::test]
    async fn words_match_by_their_beginning_whatever_the_case() {
        let bench = bench().await;
        assert_eq!(found(&bench, "ALI"), ["alice", "bob"]);
        assert_eq!(found(&bench, "al"), ["alan", "c.al-lin", "alice", "bob"]);
        assert_eq!(found(&bench, "ångs"), ["alice"]);
        assert_eq!(found(&bench, "bob ali"), ["bob"]);
        assert_eq!(found(&bench, "lice"), Vec::<String>::new());
        assert_eq!(found(&bench, "c.al-lin"), ["c.al-lin"]);
        assert_eq!(found(&bench, "@alice:hearth.test"), ["alice"]);
        assert_eq!(found(&bench, "@alice:elsewhere"), Vec::<String>::new());
        assert_eq!(found(&bench, ""), Vec::<String>::new());
        assert_eq!(found(&bench, "!?"), Vec::<String>::new());
    }

    #[tokio::test]
    async fn the_index_follows_names_and_outlives_the_process() {
        let bench = bench().await;
        let alice = bench.users.check_username("alice").unwrap();
        let bob = bench.users.check_username("bob").unwrap();
        bench.users.set_profile_field(&alice, "displayname", json!("Queen")).await.unwrap();
        bench.users.deactivate(&bob, false).await.unwrap();
        let bench = bench.reopen().await;
        assert_eq!(found(&bench, "queen"), ["alice"]);
        assert_eq!(found(&bench, "ångs"), Vec::<String>::new());
        assert_eq!(found(&bench, "bob"), Vec::<String>::new());
    }

    #[tokio::test]
    async fn what_is_not_visible_is_not_counted() {
        let bench = bench().await;
        let visible = |user_id: &UserId| user_id.localpart() != "alan";
        let (page, more) = bench.users.search_directory("al", 2, visible);
        assert_eq!(page.len(), 2);
        assert!(more);
        let (page, more) = bench.users.search_directory("al", 3, visible);
        assert_eq!(page.len(), 3);
        assert!(!more);
    }

    #[tokio::test]
    async fn nothing_of_a_removed_name_stays_in_the_index() {
        let mut index = DirectoryIndex::default();
        let user_id: OwnedUserId = ruma::owned_user_id!("@a.b:hearth.test");
        index.put(&user_id, Some("One Two"), None);
        index.put(&user_id, Some("Three"), None);
        index.remove(&user_id);
        assert!(index.users.is_empty() && index.words.is_empty());
    }
}
