//! What changed, in order: the outbox of the whole server.
//!
//! A keyspace from position to what happened there. Consumers (federation, push, search, application
//! services) each keep a persisted cursor and read on from it, so that nothing is stranded by a crash.
//! The log is trimmed behind the slowest cursor; at least the newest 100,000 positions are kept,
//! because the notifier learns each topic's last position from them when the store opens.
//!
//! A row holds one entry and the topics that its commit touched. A commit that touches topics without
//! an entry has a row without one, which consumers never see.

use std::ops::ControlFlow;

use bytes::Bytes;
use hearth_types::StreamPosition;

use crate::{KeyDecoder, KeyEncoder, Keyspace, RecordError, Topic};

/// The log's rows by (position, number within the commit).
pub(crate) const LOG: Keyspace<(), (StreamPosition, u16), Bytes> = Keyspace::new("log");
/// Each consumer's cursor.
pub(crate) const CURSORS: Keyspace<(), String, StreamPosition> = Keyspace::new("log_cursors");

const WITH_ENTRY: u8 = 1;
const TOPICS_ONLY: u8 = 2;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// What kind of change: a constant of the crate that wrote it.
    pub kind: u8,
    /// Whose rows changed.
    pub topic: Topic,
    /// What consumers of this kind need; small, without message bodies.
    pub payload: Bytes,
}

/// A log entry read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// When it happened.
    pub position: StreamPosition,
    /// What happened.
    pub entry: LogEntry,
}

/// A row: a format byte, the entry's kind, the topics (the entry's first) with their count and
/// lengths, the entry's payload.
pub(crate) fn encode_row(
    entry: Option<&LogEntry>,
    touched: &[Topic],
    out: &mut KeyEncoder,
) -> Result<(), RecordError> {
    let too_long = |_| RecordError("a log row with too many or too long topics".to_owned());
    match entry {
        Some(entry) => out.extend(&[WITH_ENTRY, entry.kind]),
        None => out.extend(&[TOPICS_ONLY, 0]),
    }
    let own = entry.map(|entry| &entry.topic);
    let others = touched.iter().filter(|topic| Some(*topic) != own);
    let count = usize::from(own.is_some()) + others.clone().count();
    out.extend(&u16::try_from(count).map_err(too_long)?.to_be_bytes());
    for topic in own.into_iter().chain(others) {
        let name = topic.as_str().as_bytes();
        out.extend(&u16::try_from(name.len()).map_err(too_long)?.to_be_bytes());
        out.extend(name);
    }
    if let Some(entry) = entry {
        out.extend(&entry.payload);
    }
    Ok(())
}

struct Header<'a> {
    kind: Option<u8>,
    topics: u16,
    input: KeyDecoder<'a>,
}

fn decode_header(row: &[u8]) -> Result<Header<'_>, RecordError> {
    let mut input = KeyDecoder::new(row);
    let [format, kind] = input.array()?;
    let kind = match format {
        WITH_ENTRY => Some(kind),
        TOPICS_ONLY => None,
        _ => return Err(RecordError(format!("log row of format {format}"))),
    };
    let topics = u16::from_be_bytes(input.array()?);
    Ok(Header { kind, topics, input })
}

fn decode_topic<'a>(input: &mut KeyDecoder<'a>) -> Result<&'a str, RecordError> {
    let length = u16::from_be_bytes(input.array()?);
    let name = input.take(usize::from(length))?;
    str::from_utf8(name).map_err(|_| RecordError("a topic that is not UTF-8".to_owned()))
}

/// The row's entry, if it has one.
pub(crate) fn decode_entry(row: &Bytes) -> Result<Option<LogEntry>, RecordError> {
    let Header { kind, topics, mut input } = decode_header(row)?;
    let Some(kind) = kind else { return Ok(None) };
    let mut topic = None;
    for _ in 0..topics {
        let name = decode_topic(&mut input)?;
        topic.get_or_insert_with(|| Topic::new(name));
    }
    let topic = topic.ok_or_else(|| RecordError("a log entry without a topic".to_owned()))?;
    let payload = row.slice_ref(input.rest());
    Ok(Some(LogEntry { kind, topic, payload }))
}

/// Visits the row's topics.
pub(crate) fn visit_topics(
    row: &[u8],
    mut visit: impl FnMut(&str) -> ControlFlow<()>,
) -> Result<(), RecordError> {
    let Header { topics, mut input, .. } = decode_header(row)?;
    for _ in 0..topics {
        if visit(decode_topic(&mut input)?).is_break() {
            break;
        }
    }
    Ok(())
}
