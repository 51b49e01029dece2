//! Which state events a client wants of a room (`required_state`).

use std::sync::Arc;

use ruma::UserId;

const MEMBER: &str = "m.room.member";

/// One or several sets of state: what any of them wants is wanted (MSC4186, "Combining room configs").
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct RequiredState {
    /// Without repetitions, in order.
    sets: Vec<Arc<StateSet>>,
}

/// A set of state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct StateSet {
    pub(crate) include: Vec<Element>,
    pub(crate) exclude: Vec<Element>,
    /// Members only of those whom the client needs to show the timeline, but for those that an element
    /// names by their IDs.
    pub(crate) lazy_members: bool,
}

/// A type and a state key; `None`: any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Element {
    pub(crate) kind: Option<String>,
    pub(crate) key: Option<String>,
}

impl Element {
    fn parts(&self) -> impl Iterator<Item = &str> {
        [&self.kind, &self.key].into_iter().flatten().map(String::as_str)
    }

    fn matches(&self, kind: &str, key: &str) -> bool {
        self.kind.as_deref().is_none_or(|wanted| wanted == kind)
            && self.key.as_deref().is_none_or(|wanted| wanted == key)
    }
}

impl StateSet {
    /// A set in the deployed form: pairs of a type and a state key, where `*` is any, and for the key
    /// of a member `$ME` is the user and `$LAZY` whoever the timeline needs.
    pub(crate) fn of_pairs(pairs: &[(String, String)], user_id: &UserId) -> Self {
        let any = |text: &str| (text != "*").then(|| text.to_owned());
        let mut set = Self::default();
        let mut all_members = false;
        for (kind, key) in pairs {
            if kind == MEMBER && key == "$LAZY" {
                set.lazy_members = true;
                continue;
            }
            all_members |= kind == MEMBER && key == "*";
            let key = if key == "$ME" { Some(user_id.to_string()) } else { any(key) };
            set.include.push(Element { kind: any(kind), key });
        }
        set.lazy_members &= !all_members;
        set.include.sort();
        set.include.dedup();
        set
    }

    fn matches(&self, kind: &str, key: &str) -> bool {
        let lazy = self.lazy_members && kind == MEMBER;
        let includes =
            |element: &Element| element.matches(kind, key) && !(lazy && element.key.is_none());
        self.include.iter().any(includes)
            && !self.exclude.iter().any(|element| element.matches(kind, key))
    }

    /// Can it want members beside those that it names?
    fn wants_members(&self) -> bool {
        let whole = |element: &Element| {
            element.key.is_none() && element.kind.as_deref().is_none_or(|kind| kind == MEMBER)
        };
        !self.lazy_members && self.include.iter().any(whole)
    }
}

impl From<StateSet> for RequiredState {
    fn from(set: StateSet) -> Self {
        Self { sets: vec![Arc::new(set)] }
    }
}

impl RequiredState {
    pub(crate) fn len(&self) -> usize {
        self.elements().count()
    }

    fn elements(&self) -> impl Iterator<Item = &Element> {
        self.sets.iter().flat_map(|set| set.include.iter().chain(&set.exclude))
    }

    /// The length of the longest type or state key, in bytes.
    pub(crate) fn longest_part(&self) -> usize {
        self.elements().flat_map(Element::parts).map(str::len).max().unwrap_or_default()
    }

    /// How much memory the elements take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let of_element =
            |element: &Element| size_of::<Element>() + element.parts().map(str::len).sum::<usize>();
        self.elements().map(of_element).sum()
    }

    /// What this or the other wants.
    pub(crate) fn union(mut self, other: &Self) -> Self {
        self.sets.extend(other.sets.iter().cloned());
        self.sets.sort();
        self.sets.dedup();
        self
    }

    /// Is the state event of this type and key wanted, whatever the timeline has?
    pub(crate) fn matches(&self, kind: &str, key: &str) -> bool {
        self.sets.iter().any(|set| set.matches(kind, key))
    }

    /// Are members loaded as the timeline needs them? Not where all of them are wanted anyway.
    pub(crate) fn lazy_members(&self) -> bool {
        self.sets.iter().any(|set| set.lazy_members) && !self.all_members()
    }

    /// Can any member be wanted?
    pub(crate) fn all_members(&self) -> bool {
        self.sets.iter().any(|set| set.wants_members())
    }

    /// The members that are wanted by name, and the keys of elements that speak of any type.
    pub(crate) fn named_members(&self) -> impl Iterator<Item = &str> {
        let elements = self.sets.iter().flat_map(|set| &set.include);
        let members =
            elements.filter(|element| element.kind.as_deref().is_none_or(|kind| kind == MEMBER));
        members.filter_map(|element| element.key.as_deref())
    }

    /// The types and keys that are wanted, members aside, if each is named: then nothing else need be
    /// read.
    pub(crate) fn exact(&self) -> Option<Vec<(&str, &str)>> {
        let elements = self.sets.iter().flat_map(|set| &set.include);
        let others = elements.filter(|element| element.kind.as_deref() != Some(MEMBER));
        // Mostly some are not: that costs nothing.
        if others.clone().any(|element| element.kind.is_none() || element.key.is_none()) {
            return None;
        }
        others.map(|e| Some((e.kind.as_deref()?, e.key.as_deref()?))).collect()
    }

    /// May this want anything that the other does not? Errs on the side of "yes".
    pub(crate) fn exceeds(&self, other: &Self) -> bool {
        self.sets.iter().any(|set| !other.sets.contains(set))
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> RequiredState {
        let pairs: Vec<_> =
            pairs.iter().map(|(kind, key)| ((*kind).to_owned(), (*key).to_owned())).collect();
        StateSet::of_pairs(&pairs, user_id!("@me:x")).into()
    }

    #[test]
    fn pairs_name_types_keys_and_wildcards() {
        let wanted = pairs(&[("m.room.name", ""), ("m.space.child", "*"), (MEMBER, "$ME")]);
        assert!(wanted.matches("m.room.name", ""));
        assert!(!wanted.matches("m.room.name", "x"));
        assert!(wanted.matches("m.space.child", "!r:x"));
        assert!(wanted.matches(MEMBER, "@me:x"));
        assert!(!wanted.matches(MEMBER, "@you:x"));
        assert!(!wanted.lazy_members());
        assert_eq!(wanted.exact(), None, "a wildcard is among them");
        assert_eq!(pairs(&[("a", "b"), (MEMBER, "$ME")]).exact(), Some(vec![("a", "b")]));
    }

    #[test]
    fn members_are_lazy_unless_all_are_asked_for_by_type() {
        let lazy = pairs(&[("*", "*"), (MEMBER, "$LAZY")]);
        assert!(lazy.lazy_members() && !lazy.all_members());
        assert!(lazy.matches("m.room.topic", ""));
        assert!(!lazy.matches(MEMBER, "@you:x"));
        let all = pairs(&[(MEMBER, "*"), (MEMBER, "$LAZY")]);
        assert!(all.all_members() && !all.lazy_members());
        assert!(all.matches(MEMBER, "@you:x"));
        let both = lazy.union(&all);
        assert!(both.all_members() && !both.lazy_members());
    }

    #[test]
    fn what_is_excluded_is_excluded_from_its_own_set_only() {
        let element = |kind: &str| Element { kind: Some(kind.to_owned()), key: None };
        let set = StateSet {
            include: vec![Element::default()],
            exclude: vec![element("m.room.create")],
            lazy_members: true,
        };
        let wanted = RequiredState::from(set);
        assert!(wanted.matches("m.room.name", "") && !wanted.matches("m.room.create", ""));
        assert!(!wanted.matches(MEMBER, "@you:x"));
        let union = wanted.clone().union(&pairs(&[("m.room.create", "")]));
        assert!(union.matches("m.room.create", "") && union.lazy_members());
        assert!(union.exceeds(&wanted) && !wanted.exceeds(&union));
        assert_eq!(union.clone().union(&wanted), union);
    }
}
