//! What every engine must do, as a suite that runs on any of them.
//!
//! The checks panic with what went wrong. They take a function that opens the engine, always in the
//! same place, because some of them open it again.

use std::{
    collections::BTreeMap,
    ops::{Bound, ControlFlow},
};

use bytes::Bytes;

use crate::{
    Direction, Engine, EngineError, View,
    engine::{KeyRange, Write},
};

/// The keyspaces to open the engine with: one for each check.
pub const KEYSPACES: &[&str] =
    &["points", "ranges", "bounds", "views", "model", "model2", "reopen"];

const POINTS: usize = 0;
const RANGES: usize = 1;
const BOUNDS: usize = 2;
const VIEWS: usize = 3;
const MODEL: [usize; 2] = [4, 5];
const REOPEN: usize = 6;

/// An engine under test.
pub struct Contract<'a> {
    /// Opens the engine with [`KEYSPACES`].
    pub open: &'a dyn Fn() -> Result<Box<dyn Engine>, EngineError>,
    /// Do views stay as they were? Not so in sled.
    pub stable_views: bool,
    /// Are rows there after closing and opening? Not so in memory.
    pub keeps_rows: bool,
}

impl std::fmt::Debug for Contract<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contract").finish_non_exhaustive()
    }
}

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

fn put(keyspace: usize, key: &[u8], value: &[u8]) -> Write {
    let value = Some(Bytes::copy_from_slice(value));
    Write { keyspace, key: Bytes::copy_from_slice(key), value }
}

fn delete(keyspace: usize, key: &[u8]) -> Write {
    Write { keyspace, key: Bytes::copy_from_slice(key), value: None }
}

fn rows(
    view: &dyn View,
    keyspace: usize,
    range: KeyRange<'_>,
    direction: Direction,
) -> Result<Rows, EngineError> {
    let mut rows = Vec::new();
    view.scan(keyspace, range, direction, &mut |key, value| {
        rows.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    })?;
    Ok(rows)
}

fn all(view: &dyn View, keyspace: usize) -> Result<Rows, EngineError> {
    rows(view, keyspace, (Bound::Unbounded, Bound::Unbounded), Direction::Forward)
}

impl Contract<'_> {
    /// Runs all checks. `seed` chooses the random ones.
    ///
    /// # Panics
    ///
    /// When the engine breaks the contract.
    pub fn check(&self, seed: u64) -> Result<(), EngineError> {
        let engine = (self.open)()?;
        points(engine.as_ref())?;
        ranges(engine.as_ref())?;
        bounds_around_neighbors(engine.as_ref())?;
        unknown_keyspaces(engine.as_ref());
        self.views(engine.as_ref())?;
        let expected = model(engine.as_ref(), seed)?;
        drop(engine);
        if self.keeps_rows {
            let engine = (self.open)()?;
            for (keyspace, expected) in MODEL.into_iter().zip(expected) {
                assert_eq!(all(engine.as_ref(), keyspace)?, expected, "after opening again");
            }
            drop(engine);
            self.lazy_rows_after_sync()?;
        }
        Ok(())
    }

    fn views(&self, engine: &dyn Engine) -> Result<(), EngineError> {
        engine.apply(vec![put(VIEWS, b"a", b"1"), put(VIEWS, b"b", b"1")], true)?;
        let view = engine.view();
        engine.apply(
            vec![put(VIEWS, b"a", b"2"), delete(VIEWS, b"b"), put(VIEWS, b"c", b"2")],
            true,
        )?;
        let newest = vec![(b"a".to_vec(), b"2".to_vec()), (b"c".to_vec(), b"2".to_vec())];
        assert_eq!(all(engine, VIEWS)?, newest, "the engine shows the newest rows");
        if self.stable_views {
            let then = vec![(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), b"1".to_vec())];
            assert_eq!(all(view.as_ref(), VIEWS)?, then, "a view shows the rows of its moment");
            assert_eq!(view.get(VIEWS, b"c")?, None);
        } else {
            assert_eq!(all(view.as_ref(), VIEWS)?, newest, "a live view shows the newest rows");
        }
        Ok(())
    }

    fn lazy_rows_after_sync(&self) -> Result<(), EngineError> {
        let engine = (self.open)()?;
        engine.apply(vec![put(REOPEN, b"lazy", b"1")], false)?;
        engine.sync()?;
        engine.close()?;
        drop(engine);
        let engine = (self.open)()?;
        assert_eq!(engine.get(REOPEN, b"lazy")?.as_deref(), Some(&b"1"[..]));
        Ok(())
    }
}

fn points(engine: &dyn Engine) -> Result<(), EngineError> {
    assert_eq!(engine.get(POINTS, b"a")?, None, "a new keyspace is empty");
    engine.apply(vec![put(POINTS, b"a", b"1"), put(POINTS, b"b", b"")], true)?;
    assert_eq!(engine.get(POINTS, b"a")?.as_deref(), Some(&b"1"[..]));
    assert_eq!(engine.get(POINTS, b"b")?.as_deref(), Some(&b""[..]), "an empty value is a row");
    assert_eq!(engine.get(RANGES, b"a")?, None, "keyspaces are apart");
    let large = vec![7; 96 << 10];
    engine.apply(vec![delete(POINTS, b"a"), put(POINTS, b"large", &large)], true)?;
    assert_eq!(engine.get(POINTS, b"a")?, None, "deleted");
    assert_eq!(engine.get(POINTS, b"large")?.as_deref(), Some(&large[..]));
    engine.apply(vec![delete(POINTS, b"never")], true)?;
    engine.apply(Vec::new(), true)
}

fn ranges(engine: &dyn Engine) -> Result<(), EngineError> {
    let keys: [&[u8]; 6] = [b"\x00", b"\x00\x00", b"a", b"a\x00", b"b", b"\xFF\xFF"];
    engine.apply(keys.iter().rev().map(|key| put(RANGES, key, key)).collect(), true)?;
    let found = |range, direction| -> Result<Vec<Vec<u8>>, EngineError> {
        Ok(rows(engine, RANGES, range, direction)?.into_iter().map(|(key, _)| key).collect())
    };
    let bounds = keys.iter().flat_map(|key| [Bound::Included(*key), Bound::Excluded(*key)]);
    let bounds: Vec<_> = bounds.chain([Bound::Unbounded]).collect();
    for lower in &bounds {
        for upper in &bounds {
            let above = |key: &[u8]| match lower {
                Bound::Included(lower) => key >= *lower,
                Bound::Excluded(lower) => key > *lower,
                Bound::Unbounded => true,
            };
            let below = |key: &[u8]| match upper {
                Bound::Included(upper) => key <= *upper,
                Bound::Excluded(upper) => key < *upper,
                Bound::Unbounded => true,
            };
            let within = keys.iter().filter(|key| above(key) && below(key));
            let mut expected: Vec<_> = within.map(|key| key.to_vec()).collect();
            assert_eq!(found((*lower, *upper), Direction::Forward)?, expected);
            expected.reverse();
            assert_eq!(found((*lower, *upper), Direction::Backward)?, expected);
        }
    }
    let mut visited = 0;
    engine.scan(
        RANGES,
        (Bound::Unbounded, Bound::Unbounded),
        Direction::Forward,
        &mut |_, _| {
            visited += 1;
            if visited == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        },
    )?;
    assert_eq!(visited, 2, "a scan stops when its visitor breaks");
    Ok(())
}

/// Unbounded scans stay in their keyspace, whatever its neighbors hold.
fn bounds_around_neighbors(engine: &dyn Engine) -> Result<(), EngineError> {
    engine.apply(vec![put(BOUNDS, b"\xFF", b"1"), put(BOUNDS, b"\x00", b"1")], true)?;
    let keys: Vec<_> = all(engine, BOUNDS)?.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [b"\x00".to_vec(), b"\xFF".to_vec()]);
    let mut exported = Vec::new();
    engine.export(KEYSPACES.len(), &mut |keyspace, key, _| {
        if keyspace == BOUNDS {
            exported.push(key.to_vec());
        }
        ControlFlow::Continue(())
    })?;
    assert_eq!(exported, keys, "an export has each row once");
    Ok(())
}

/// A batch with a keyspace that is not open fails before anything of it is applied.
fn unknown_keyspaces(engine: &dyn Engine) {
    let unknown = KEYSPACES.len();
    assert!(engine.get(unknown, b"a").is_err());
    assert!(
        engine.apply(vec![put(POINTS, b"half", b"1"), put(unknown, b"a", b"1")], true).is_err()
    );
    assert!(matches!(engine.get(POINTS, b"half"), Ok(None)), "a failed batch has no rows");
}

/// Random batches over two keyspaces against ordinary maps. Returns the rows at the end.
fn model(engine: &dyn Engine, seed: u64) -> Result<[Rows; 2], EngineError> {
    let mut random = seed | 1;
    let mut next = |bound: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % bound
    };
    let mut model = [BTreeMap::new(), BTreeMap::new()];
    for round in 0_u64..200 {
        let mut batch = BTreeMap::new();
        for _ in 0..next(40) {
            let place = usize::from(next(2) == 1);
            let key = next(500).to_be_bytes().to_vec();
            let length = usize::try_from(next(300)).unwrap_or(0);
            let value = (next(4) > 0).then(|| round.to_be_bytes().repeat(1 + length / 8));
            batch.insert((place, key), value);
        }
        let write = |((place, key), value): (&(usize, Vec<u8>), &Option<Vec<u8>>)| match value {
            Some(value) => put(model_keyspace(*place), key, value),
            None => delete(model_keyspace(*place), key),
        };
        engine.apply(batch.iter().map(write).collect(), round % 8 == 0)?;
        for ((place, key), value) in batch {
            let Some(rows) = model.get_mut(place) else { continue };
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
    }
    engine.sync()?;
    let expected = model.map(|rows| rows.into_iter().collect::<Rows>());
    for (keyspace, expected) in MODEL.into_iter().zip(&expected) {
        assert_eq!(all(engine, keyspace)?, *expected, "seed {seed}");
        let mut backward =
            rows(engine, keyspace, (Bound::Unbounded, Bound::Unbounded), Direction::Backward)?;
        backward.reverse();
        assert_eq!(backward, *expected, "seed {seed}");
    }
    Ok(expected)
}

fn model_keyspace(place: usize) -> usize {
    let [first, second] = MODEL;
    if place == 0 { first } else { second }
}
