//! Numbered, resumable changes to the rows of a store that an older Hearth wrote.

use bytes::Bytes;

use crate::{Engine, EngineError, StoreError, engine::Write, meta::Meta, store::Places};

/// The schema that a new store has before any migration.
const FIRST_SCHEMA: u32 = 1;

/// The migrations of this program, in the order of their schemas.
pub const MIGRATIONS: &[Migration] = &[];

/// One step from a schema to the next.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// The schema that the store has afterwards: one more than before.
    pub schema: u32,
    /// For the log.
    pub name: &'static str,
    /// Makes the next part of the change. Called again with the returned mark until that is `None`;
    /// first, and after a crash before the first part was written, with no mark.
    pub part: fn(&MigrationRows<'_>, Option<&[u8]>) -> Result<MigrationPart, EngineError>,
}

/// The store's rows as a migration sees them: by keyspace name, as bytes.
#[derive(Debug)]
pub struct MigrationRows<'a> {
    engine: &'a dyn Engine,
    places: &'a Places,
}

/// What one part of a migration changes: applied in one batch together with the mark.
#[derive(Clone, Debug, Default)]
pub struct MigrationPart {
    /// The rows to write; a few thousand at most.
    pub writes: Vec<Write>,
    /// Where to go on; `None` when nothing is left.
    pub mark: Option<Bytes>,
}

impl MigrationRows<'_> {
    /// The rows.
    #[must_use]
    pub fn engine(&self) -> &dyn Engine {
        self.engine
    }

    /// The place of a keyspace; an error if it is not open.
    pub fn place(&self, keyspace: &str) -> Result<usize, EngineError> {
        let unknown = || EngineError(format!("keyspace {keyspace} is not open"));
        self.places.get(keyspace).copied().ok_or_else(unknown)
    }
}

/// The newest schema that these migrations lead to.
pub(crate) fn newest_schema(migrations: &[Migration]) -> u32 {
    migrations.last().map_or(FIRST_SCHEMA, |last| last.schema)
}

/// Brings a store to the newest schema.
pub(crate) fn run(
    engine: &dyn Engine,
    places: &Places,
    meta: &Meta<'_>,
    migrations: &[Migration],
) -> Result<(), StoreError> {
    let mut schema = meta.schema()?.unwrap_or(FIRST_SCHEMA);
    let known = newest_schema(migrations);
    if schema > known {
        return Err(StoreError::NewerSchema { found: schema, known });
    }
    let rows = MigrationRows { engine, places };
    for migration in migrations {
        if migration.schema <= schema {
            continue;
        }
        tracing::info!(schema = migration.schema, name = migration.name, "migrating the store");
        let mut mark = meta.migration_mark()?;
        loop {
            let part = (migration.part)(&rows, mark.as_deref())?;
            let mut writes = part.writes;
            writes.push(meta.set_migration_mark(part.mark.as_ref()));
            if part.mark.is_none() {
                writes.push(meta.set_schema(migration.schema));
            }
            engine.apply(writes, true)?;
            mark = part.mark;
            if mark.is_none() {
                break;
            }
        }
        schema = migration.schema;
    }
    tracing::debug!(schema, "the store's schema");
    Ok(())
}
