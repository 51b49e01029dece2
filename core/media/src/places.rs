//! How much of a kind runs at once, altogether and for one user.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId};

use crate::MediaError;

/// How much may run at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Altogether.
    pub(crate) all: usize,
    /// What is said when these are taken.
    pub(crate) all_taken: &'static str,
    /// Of one user.
    pub(crate) own: usize,
    /// What is said when these are taken.
    pub(crate) own_taken: &'static str,
}

/// Who runs how much at once. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    bounds: Bounds,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_user: HashMap<OwnedUserId, usize>,
}

/// The right to run; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
    user_id: OwnedUserId,
}

impl Places {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, taken: Arc::default() }
    }

    pub(crate) fn take(&self, user_id: &UserId) -> Result<Place, MediaError> {
        let mut taken = self.taken.lock();
        if taken.all >= self.bounds.all {
            return Err(MediaError::Busy(self.bounds.all_taken));
        }
        let own = taken.by_user.entry(user_id.to_owned()).or_default();
        if *own >= self.bounds.own {
            return Err(MediaError::Busy(self.bounds.own_taken));
        }
        *own += 1;
        taken.all += 1;
        Ok(Place { places: self.clone(), user_id: user_id.to_owned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.all = taken.all.saturating_sub(1);
        let left = taken.by_user.get_mut(&self.user_id).map(|own| {
            *own = own.saturating_sub(1);
            *own
        });
        if left == Some(0) {
            taken.by_user.remove(&self.user_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[test]
    fn users_and_everybody_have_so_many_places() {
        let (all_taken, own_taken) = ("all", "own");
        let places = Places::new(Bounds { all: 8, all_taken, own: 3, own_taken });
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(places.take(user_id!("@a:b")).unwrap());
        }
        assert!(matches!(places.take(user_id!("@a:b")), Err(MediaError::Busy("own"))));
        held.push(places.take(user_id!("@c:b")).unwrap());
        held.remove(0);
        held.push(places.take(user_id!("@a:b")).unwrap());
        for number in held.len()..8 {
            let user_id = UserId::parse(format!("@u{number}:b")).unwrap();
            held.push(places.take(&user_id).unwrap());
        }
        assert!(matches!(places.take(user_id!("@d:b")), Err(MediaError::Busy("all"))));
        drop(held);
        assert!(places.taken.lock().by_user.is_empty());
        assert_eq!(places.taken.lock().all, 0);
    }
}
