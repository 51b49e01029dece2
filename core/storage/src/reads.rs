//! Typed reads over any view.

use std::ops::{Bound, ControlFlow, RangeBounds};

use bytes::Bytes;

use crate::{
    Direction, KeyDecoder, KeyEncoder, KeyPart, Keyspace, Record, RecordError, StoreError, View,
    engine::KeyspaceIndex, store::Places,
};

/// Encoded bounds that never leave a partition.
pub(crate) struct Range {
    /// The partition's encoding, which every key in the range begins with.
    partition: usize,
    lower: Bound<Vec<u8>>,
    upper: Bound<Vec<u8>>,
}

impl Range {
    pub(crate) fn new<P: KeyPart, C: KeyPart>(partition: &P, range: &impl RangeBounds<C>) -> Self {
        let prefix = encode(partition, &());
        let key = |clustering: &C| encode(partition, clustering);
        let lower = match range.start_bound() {
            Bound::Unbounded => Bound::Included(prefix.clone()),
            bound => bound.map(key),
        };
        let upper = match range.end_bound() {
            Bound::Unbounded => after_prefix(prefix.clone()),
            bound => bound.map(key),
        };
        Self { partition: prefix.len(), lower, upper }
    }

    pub(crate) fn prefix<P: KeyPart>(partition: &P, prefix: &impl KeyPart) -> Self {
        let whole = encode(partition, prefix);
        Self {
            partition: encode(partition, &()).len(),
            lower: Bound::Included(whole.clone()),
            upper: after_prefix(whole),
        }
    }
}

fn encode<P: KeyPart, C: KeyPart>(partition: &P, clustering: &C) -> Vec<u8> {
    let mut key = KeyEncoder::default();
    key.bytes.reserve(64);
    partition.encode(&mut key);
    clustering.encode(&mut key);
    key.bytes
}

/// The upper bound of all keys with this prefix.
fn after_prefix(mut prefix: Vec<u8>) -> Bound<Vec<u8>> {
    while let Some(last) = prefix.pop() {
        if let Some(next) = last.checked_add(1) {
            prefix.push(next);
            return Bound::Excluded(prefix);
        }
    }
    Bound::Unbounded
}

fn place(places: &Places, keyspace: &'static str) -> Result<KeyspaceIndex, StoreError> {
    let unknown = || StoreError::Engine(format!("keyspace {keyspace} is not open"));
    places.get(keyspace).copied().ok_or_else(unknown)
}

fn decode_value<V: Record>(keyspace: &'static str, value: &Bytes) -> Result<V, StoreError> {
    V::decode(value).map_err(|error| damaged(keyspace, &error))
}

fn damaged(keyspace: &'static str, error: &RecordError) -> StoreError {
    StoreError::Damaged { keyspace, reason: error.0.clone() }
}

pub(crate) fn get<P: KeyPart, C: KeyPart, V: Record>(
    view: &dyn View,
    places: &Places,
    keyspace: &Keyspace<P, C, V>,
    partition: &P,
    clustering: &C,
) -> Result<Option<V>, StoreError> {
    let key = encode(partition, clustering);
    let value = view.get(place(places, keyspace.name())?, &key)?;
    value.map(|value| decode_value(keyspace.name(), &value)).transpose()
}

pub(crate) fn get_many<P: KeyPart, C: KeyPart, V: Record>(
    view: &dyn View,
    places: &Places,
    keyspace: &Keyspace<P, C, V>,
    partition: &P,
    clusterings: &[C],
) -> Result<Vec<Option<V>>, StoreError> {
    let place = place(places, keyspace.name())?;
    let mut key = KeyEncoder::default();
    partition.encode(&mut key);
    let prefix = key.len();
    let one = |clustering: &C| {
        key.bytes.truncate(prefix);
        clustering.encode(&mut key);
        let value = view.get(place, &key.bytes)?;
        value.map(|value| decode_value(keyspace.name(), &value)).transpose()
    };
    clusterings.iter().map(one).collect()
}

pub(crate) fn page<P: KeyPart, C: KeyPart, V: Record>(
    view: &dyn View,
    places: &Places,
    keyspace: &Keyspace<P, C, V>,
    range: &Range,
    direction: Direction,
    limit: usize,
) -> Result<Vec<(C, V)>, StoreError> {
    let mut rows = Vec::new();
    if limit == 0 {
        return Ok(rows);
    }
    visit(view, places, keyspace, range, direction, |clustering, value| {
        rows.push((clustering, value));
        let full = rows.len() >= limit;
        Ok(if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    Ok(rows)
}

/// Visits the typed rows of a range, until the visitor breaks or a row cannot be read.
pub(crate) fn visit<P: KeyPart, C: KeyPart, V: Record>(
    view: &dyn View,
    places: &Places,
    keyspace: &Keyspace<P, C, V>,
    range: &Range,
    direction: Direction,
    mut visit: impl FnMut(C, V) -> Result<ControlFlow<()>, RecordError>,
) -> Result<(), StoreError> {
    let mut failure = None;
    let mut one = |key: &[u8], value: Bytes| -> Result<ControlFlow<()>, RecordError> {
        let mut input = KeyDecoder::new(key.get(range.partition..).unwrap_or_default());
        let clustering = C::decode(&mut input)?;
        input.finish()?;
        visit(clustering, V::decode(&value)?)
    };
    let bounds = (range.lower.as_ref().map(Vec::as_slice), range.upper.as_ref().map(Vec::as_slice));
    let place = place(places, keyspace.name())?;
    view.scan(place, bounds, direction, &mut |key, value| {
        one(key, value).unwrap_or_else(|error| {
            failure = Some(damaged(keyspace.name(), &error));
            ControlFlow::Break(())
        })
    })?;
    failure.map_or(Ok(()), Err)
}
