//! The children of an event (`GET /rooms/{roomId}/relations/…`, CS "Relationships API").

use std::{
    collections::{BTreeMap, HashSet},
    ops::Bound,
    sync::Arc,
};

use hearth_storage::Direction;
use ruma::{OwnedEventId, RoomId, UserId};

use super::{
    aggregations::{RelationKey, all_children},
    timeline::{Ignored, is_ignored},
    tokens::TimelineToken,
    visibility::Visibility,
};
use crate::{
    ReadError, Rooms,
    schema::{RELATIONS, RelationRow, StoredEvent, TimelineIndex},
};

/// Greatest page; larger limits are cut to it.
pub const MAX_RELATIONS: usize = 100;
/// How deep `recurse` goes.
pub const RECURSION_DEPTH: u32 = 3;
/// Direct children by one relation that a recursive request looks at on each side of where it begins.
/// What hangs on children further away is found from there.
const MAX_DIRECT: usize = 2_500;
/// Children of children that a recursive request looks at on each level.
const MAX_INDIRECT: usize = 2_500;
/// Rows that one request looks at.
const MAX_SCANNED: usize = 1_000;
/// Different relation types of one parent that are looked at.
const MAX_REL_TYPES: usize = 32;
/// Rows in one read.
const PAGE: usize = 100;

/// Which children.
#[derive(Clone, Debug)]
pub struct RelationsRequest {
    /// The parent.
    pub parent: OwnedEventId,
    /// Only children by this relation.
    pub rel_type: Option<String>,
    /// Only children of this type.
    pub event_type: Option<String>,
    /// Where to begin; the near end if absent.
    pub from: Option<TimelineToken>,
    /// Where to stop.
    pub to: Option<TimelineToken>,
    /// In which direction.
    pub direction: Direction,
    /// How many events at most; cut to [`MAX_RELATIONS`].
    pub limit: usize,
    /// Children's children too, down to [`RECURSION_DEPTH`].
    pub recurse: bool,
}

/// What [`Rooms::relations`] found.
#[derive(Clone, Debug)]
pub struct RelationsPage {
    /// The children, in the direction of reading.
    pub events: Vec<Arc<StoredEvent>>,
    /// Where to go on; `None` when nothing is left.
    pub next: Option<TimelineToken>,
    /// Where the page began, unless at the beginning.
    pub previous: Option<TimelineToken>,
    /// How deep was looked, if that was asked for.
    pub recursion_depth: Option<u32>,
}

/// A stretch of rows.
type KeyRange = (Bound<RelationKey>, Bound<RelationKey>);
/// The rows of one child each, in the direction of reading.
type Rows = Vec<(TimelineIndex, RelationRow)>;

impl Rooms {
    /// Children of an event that the reader may see. [`RoomError::UnknownEvent`](crate::RoomError) if
    /// the parent is not one that they may see.
    pub async fn relations(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        ignored: &Ignored,
        request: &RelationsRequest,
    ) -> Result<RelationsPage, ReadError> {
        let parent = self.readable_event(room_id, user_id, &request.parent).await?;
        let mut page = Page {
            events: Vec::new(),
            last: None,
            left: false,
            limit: request.limit.clamp(1, MAX_RELATIONS),
            visibility: self.visibility(room_id, user_id).await?,
            ignored,
            event_type: request.event_type.as_deref(),
        };
        let bounds = Bounds::of(request);
        if request.recurse {
            let (rows, end) = self.descendants(room_id, &parent, request, &bounds).await?;
            page.take(self, room_id, rows).await?;
            if !page.left && end.is_some() {
                page.left = true;
                page.last = end;
            }
        } else {
            self.direct_children(room_id, request, bounds, &mut page).await?;
        }
        let next = page.last.filter(|_| page.left).map(|index| match request.direction {
            Direction::Backward => TimelineToken::before(index),
            Direction::Forward => TimelineToken::after(index),
        });
        Ok(RelationsPage {
            events: page.events,
            next,
            previous: request.from,
            recursion_depth: request.recurse.then_some(RECURSION_DEPTH),
        })
    }

    /// Fills a page with direct children.
    async fn direct_children(
        &self,
        room_id: &RoomId,
        request: &RelationsRequest,
        mut bounds: Bounds,
        page: &mut Page<'_>,
    ) -> Result<(), ReadError> {
        let rel_types = match &request.rel_type {
            Some(rel_type) => vec![rel_type.clone()],
            None => self.rel_types(room_id, &request.parent).await?,
        };
        let mut budget = MAX_SCANNED;
        loop {
            let mut rows = Rows::new();
            for rel_type in &rel_types {
                let range = bounds.range(&request.parent, rel_type);
                rows.extend(self.child_rows(room_id, range, request.direction, PAGE).await?);
            }
            sort(&mut rows, request.direction);
            // Beyond this many the relation types are not read evenly.
            rows.truncate(PAGE);
            let (found, last) = (rows.len(), rows.last().map(|(index, _)| *index));
            page.take(self, room_id, rows).await?;
            let Some(last) = last.filter(|_| found == PAGE && !page.left) else { return Ok(()) };
            budget = budget.saturating_sub(found);
            if budget == 0 {
                page.left = true;
                return Ok(());
            }
            bounds.go_on_after(last, request.direction);
        }
    }

    /// The relation types of a parent's children.
    async fn rel_types(
        &self,
        room_id: &RoomId,
        parent: &OwnedEventId,
    ) -> Result<Vec<String>, ReadError> {
        let mut rel_types: Vec<String> = Vec::new();
        let (first, last) = all_children(parent).into_inner();
        let mut start = Bound::Included(first);
        let room_id = room_id.to_owned();
        while rel_types.len() < MAX_REL_TYPES {
            let range = (start, Bound::Included(last.clone()));
            let rows =
                self.store().page(&RELATIONS, &room_id, range, Direction::Forward, 1).await?;
            let Some(((_, rel_type, _), _)) = rows.into_iter().next() else { break };
            start = Bound::Excluded((parent.clone(), rel_type.clone(), TimelineIndex::END));
            rel_types.push(rel_type);
        }
        Ok(rel_types)
    }

    async fn child_rows(
        &self,
        room_id: &RoomId,
        range: KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Result<Rows, ReadError> {
        if is_empty(&range) {
            return Ok(Rows::new());
        }
        let rows =
            self.store().page(&RELATIONS, &room_id.to_owned(), range, direction, limit).await?;
        Ok(rows.into_iter().map(|((_, _, index), row)| (index, row)).collect())
    }

    /// Children, their children and so on: those that the request wants, within its bounds. All of them
    /// are traversed, whatever their relation. Also tells the last direct child that was
    /// looked at, if there may be more.
    ///
    /// A child is younger than its parent, so that nothing below a child that is beyond the page's
    /// upper bound can be within it.
    async fn descendants(
        &self,
        room_id: &RoomId,
        parent: &StoredEvent,
        request: &RelationsRequest,
        bounds: &Bounds,
    ) -> Result<(Rows, Option<TimelineIndex>), ReadError> {
        let rel_types = self.rel_types(room_id, &request.parent).await?;
        let stretches = bounds.around(request.direction);
        let ranges = rel_types.iter().flat_map(|rel_type| {
            let near = stretches.iter();
            near.map(|(bounds, direction)| {
                (bounds.range(&request.parent, rel_type), *direction, MAX_DIRECT)
            })
        });
        let mut level = self.bulk_rows(room_id, ranges.collect(), usize::MAX).await?;
        let end = bounds.keep_nearest(&mut level, request.direction);
        let mut wanted: BTreeMap<TimelineIndex, RelationRow> = BTreeMap::new();
        let mut seen = HashSet::from([parent.ordinal]);
        for depth in 1..=RECURSION_DEPTH {
            let mut found = Vec::new();
            for ((_, rel_type, index), row) in level {
                if !seen.insert(row.ordinal) {
                    continue;
                }
                found.push(row.ordinal);
                if bounds.contain(index)
                    && request.rel_type.as_ref().is_none_or(|wanted| *wanted == rel_type)
                {
                    wanted.insert(index, row);
                }
            }
            if depth == RECURSION_DEPTH {
                break;
            }
            let events = self.events(room_id, &found).await?;
            let ranges = events.iter().map(|event| {
                let (first, last) = all_children(&event.header.event_id).into_inner();
                let range = (Bound::Included(first), Bound::Included(last));
                (range, Direction::Forward, PAGE)
            });
            level = self.bulk_rows(room_id, ranges.collect(), MAX_INDIRECT).await?;
        }
        let mut rows: Rows = wanted.into_iter().collect();
        if let Some(end) = end {
            // What is further away than the last direct child is told together with the next ones.
            rows.retain(|(index, _)| match request.direction {
                Direction::Backward => *index >= end,
                Direction::Forward => *index <= end,
            });
        }
        sort(&mut rows, request.direction);
        Ok((rows, end))
    }

    /// The rows of many ranges as one blocking job.
    async fn bulk_rows(
        &self,
        room_id: &RoomId,
        ranges: Vec<(KeyRange, Direction, usize)>,
        limit: usize,
    ) -> Result<Vec<(RelationKey, RelationRow)>, ReadError> {
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        let room_id = room_id.to_owned();
        let read = move |snapshot: &hearth_storage::Snapshot| {
            let mut rows = Vec::new();
            for (range, direction, each) in ranges {
                let each = each.min(limit - rows.len());
                if each > 0 && !is_empty(&range) {
                    rows.extend(snapshot.page(&RELATIONS, &room_id, range, direction, each)?);
                }
            }
            Ok(rows)
        };
        Ok(self.store().bulk(read).await?)
    }
}

/// The stretch of the timeline that a request is about.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    after: TimelineToken,
    until: TimelineToken,
}

impl Bounds {
    fn of(request: &RelationsRequest) -> Self {
        let (after, until) = match request.direction {
            Direction::Backward => (request.to, request.from),
            Direction::Forward => (request.from, request.to),
        };
        Self {
            after: after.unwrap_or(TimelineToken::START),
            until: until.unwrap_or(TimelineToken::END),
        }
    }

    fn contain(&self, index: TimelineIndex) -> bool {
        self.after.0 < index && index <= self.until.0
    }

    /// Where to look for what leads into these bounds, and from which end.
    fn around(&self, direction: Direction) -> Vec<(Self, Direction)> {
        let older = |until| (Self { after: TimelineToken::START, until }, Direction::Backward);
        match direction {
            Direction::Backward => vec![older(self.until)],
            Direction::Forward => vec![(*self, Direction::Forward), older(self.after)],
        }
    }

    /// Cuts direct children, read from around these bounds, to those nearest to where reading begins.
    /// Returns the last one that is kept, if there may be more.
    fn keep_nearest(
        &self,
        children: &mut Vec<(RelationKey, RelationRow)>,
        direction: Direction,
    ) -> Option<TimelineIndex> {
        children.sort_unstable_by_key(|((_, _, index), _)| *index);
        let older = match direction {
            Direction::Backward => children.len(),
            Direction::Forward => {
                children.partition_point(|((_, _, index), _)| *index <= self.after.0)
            }
        };
        let newer_end = older.saturating_add(MAX_DIRECT);
        children.truncate(newer_end);
        let cut = children.len() == newer_end;
        children.drain(..older.saturating_sub(MAX_DIRECT));
        let end = match direction {
            Direction::Backward => children.first().filter(|_| older >= MAX_DIRECT),
            Direction::Forward => children.last().filter(|_| cut),
        };
        end.map(|((_, _, index), _)| *index)
    }

    fn go_on_after(&mut self, last: TimelineIndex, direction: Direction) {
        match direction {
            Direction::Backward => self.until = TimelineToken::before(last),
            Direction::Forward => self.after = TimelineToken::after(last),
        }
    }

    fn range(&self, parent: &OwnedEventId, rel_type: &str) -> KeyRange {
        let key = |token: TimelineToken| (parent.clone(), rel_type.to_owned(), token.0);
        (Bound::Excluded(key(self.after)), Bound::Included(key(self.until)))
    }
}

/// A range that ends before it begins asks for nothing; stores need not accept one.
fn is_empty(range: &KeyRange) -> bool {
    match range {
        (Bound::Excluded((_, _, after)), Bound::Included((_, _, until))) => after >= until,
        _ => false,
    }
}

fn sort(rows: &mut Rows, direction: Direction) {
    rows.sort_unstable_by_key(|(index, _)| *index);
    if direction == Direction::Backward {
        rows.reverse();
    }
}

/// A page being filled.
struct Page<'a> {
    events: Vec<Arc<StoredEvent>>,
    /// The last row that was looked at.
    last: Option<TimelineIndex>,
    /// More is there than what was looked at.
    left: bool,
    limit: usize,
    visibility: Visibility,
    ignored: &'a Ignored,
    event_type: Option<&'a str>,
}

impl Page<'_> {
    /// Takes the wanted ones of these rows until the page is full.
    async fn take(&mut self, rooms: &Rooms, room_id: &RoomId, rows: Rows) -> Result<(), ReadError> {
        for chunk in rows.chunks(PAGE) {
            let ordinals: Vec<_> = chunk.iter().map(|(_, row)| row.ordinal).collect();
            let events = rooms.events(room_id, &ordinals).await?;
            for ((index, row), event) in chunk.iter().zip(events) {
                if self.events.len() >= self.limit {
                    self.left = true;
                    return Ok(());
                }
                self.last = Some(*index);
                if self.event_type.is_none_or(|wanted| wanted == row.event_type)
                    && event.header.redacted_by.is_none()
                    && !is_ignored(self.ignored, &event)
                    && self.visibility.can_see(&event).await?
                {
                    self.events.push(event);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use hearth_types::StreamPosition;
    use ruma::{owned_event_id, user_id};

    use super::*;

    fn place(number: usize) -> TimelineIndex {
        TimelineIndex::Live(StreamPosition::new(number as u64))
    }

    fn children(count: usize) -> Vec<(RelationKey, RelationRow)> {
        let row = |ordinal| RelationRow {
            ordinal,
            event_type: "m.room.message".to_owned(),
            sender: user_id!("@a:b").to_owned(),
        };
        let key = |number| (owned_event_id!("$p"), "m.thread".to_owned(), place(number));
        (1..=count).map(|number| (key(number), row(0))).collect()
    }

    #[test]
    fn keeps_the_children_nearest_to_where_reading_begins() {
        let cut = |count, after, direction| {
            let bounds = Bounds { after, until: TimelineToken::END };
            let mut kept = children(count);
            let end = bounds.keep_nearest(&mut kept, direction);
            (kept.first().unwrap().0.2, kept.last().unwrap().0.2, end)
        };
        let many = 3 * MAX_DIRECT;
        let start = TimelineToken::START;
        let oldest = place(many - MAX_DIRECT + 1);
        let backward = cut(many, start, Direction::Backward);
        assert_eq!(backward, (oldest, place(many), Some(oldest)));
        assert_eq!(cut(9, start, Direction::Backward), (place(1), place(9), None));
        let newest = place(MAX_DIRECT);
        let forward = cut(many, start, Direction::Forward);
        assert_eq!(forward, (place(1), newest, Some(newest)));
        assert_eq!(cut(9, start, Direction::Forward), (place(1), place(9), None));
        // In the middle: as many on each side.
        let middle = many / 2;
        let (first, last, end) = cut(many, TimelineToken(place(middle)), Direction::Forward);
        assert_eq!(first, place(middle - MAX_DIRECT + 1));
        assert_eq!((last, end), (place(middle + MAX_DIRECT), Some(place(middle + MAX_DIRECT))));
    }
}
