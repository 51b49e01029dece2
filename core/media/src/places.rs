//! How many uploads run at once.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId};

use crate::MediaError;

/// Uploads under way at once: each holds up to two parts in memory.
const MAX_UPLOADS: usize = 512;
/// Uploads of one user under way at once. Clients send a handful of pictures together.
const MAX_UPLOADS_OF_USER: usize = 16;

/// Who is uploading how much at once. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_user: HashMap<OwnedUserId, usize>,
}

/// The right to upload; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
    user_id: OwnedUserId,
}

impl Places {
    pub(crate) fn take(&self, user_id: &UserId) -> Result<Place, MediaError> {
        let mut taken = self.0.lock();
        if taken.all >= MAX_UPLOADS {
            return Err(MediaError::Busy("Too many uploads are under way"));
        }
        let own = taken.by_user.entry(user_id.to_owned()).or_default();
        if *own >= MAX_UPLOADS_OF_USER {
            return Err(MediaError::Busy("Too many of your uploads are under way"));
        }
        *own += 1;
        taken.all += 1;
        Ok(Place { places: self.clone(), user_id: user_id.to_owned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock();
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
        let places = Places::default();
        let mut held = Vec::new();
        for _ in 0..MAX_UPLOADS_OF_USER {
            held.push(places.take(user_id!("@a:b")).unwrap());
        }
        assert!(matches!(places.take(user_id!("@a:b")), Err(MediaError::Busy(_))));
        held.push(places.take(user_id!("@c:b")).unwrap());
        held.remove(0);
        held.push(places.take(user_id!("@a:b")).unwrap());
        for number in held.len()..MAX_UPLOADS {
            let user_id = UserId::parse(format!("@u{number}:b")).unwrap();
            held.push(places.take(&user_id).unwrap());
        }
        assert!(matches!(places.take(user_id!("@d:b")), Err(MediaError::Busy(_))));
        drop(held);
        assert!(places.0.lock().by_user.is_empty());
        assert_eq!(places.0.lock().all, 0);
    }
}
