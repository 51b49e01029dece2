//! What a store knows about itself.

use bytes::Bytes;
use hearth_types::StreamPosition;

use crate::{
    Engine, KeyDecoder, KeyEncoder, KeyPart, Keyspace, StoreError,
    engine::{KeyspaceIndex, Write},
};

/// The store's rows about itself, by name.
pub(crate) const META: Keyspace<(), String, Bytes> = Keyspace::new("meta");

const SCHEMA: &str = "schema";
const ENGINE: &str = "engine";
const SERVER_NAME: &str = "server name";
const LAST_POSITION: &str = "last position";
const TRIMMED: &str = "log trimmed";
const MIGRATION_MARK: &str = "migration mark";

/// Typed access to [`META`] below the store.
pub(crate) struct Meta<'a> {
    pub(crate) engine: &'a dyn Engine,
    pub(crate) place: KeyspaceIndex,
}

impl Meta<'_> {
    /// The store's schema; `None` if it is new.
    pub(crate) fn schema(&self) -> Result<Option<u32>, StoreError> {
        self.number(SCHEMA)
    }

    pub(crate) fn set_schema(&self, schema: u32) -> Write {
        self.write(SCHEMA, Some(Bytes::copy_from_slice(&schema.to_be_bytes())))
    }

    pub(crate) fn engine_name(&self) -> Result<Option<String>, StoreError> {
        self.text(ENGINE)
    }

    pub(crate) fn set_engine_name(&self, name: &str) -> Write {
        self.write(ENGINE, Some(Bytes::copy_from_slice(name.as_bytes())))
    }

    pub(crate) fn server_name(&self) -> Result<Option<String>, StoreError> {
        self.text(SERVER_NAME)
    }

    pub(crate) fn set_server_name(&self, name: &str) -> Write {
        self.write(SERVER_NAME, Some(Bytes::copy_from_slice(name.as_bytes())))
    }

    pub(crate) fn migration_mark(&self) -> Result<Option<Bytes>, StoreError> {
        self.get(MIGRATION_MARK)
    }

    pub(crate) fn set_migration_mark(&self, mark: Option<&Bytes>) -> Write {
        self.write(MIGRATION_MARK, mark.cloned())
    }

    /// The last position that was assigned and not lost.
    pub(crate) fn last_position(&self) -> Result<Option<StreamPosition>, StoreError> {
        self.number(LAST_POSITION)
    }

    pub(crate) fn set_last_position(&self, position: StreamPosition) -> Write {
        self.write(LAST_POSITION, Some(Bytes::copy_from_slice(&position.get().to_be_bytes())))
    }

    pub(crate) fn last_position_row(&self) -> (KeyspaceIndex, Bytes) {
        (self.place, key(LAST_POSITION))
    }

    /// Up to which position the log is trimmed.
    pub(crate) fn trimmed(&self) -> Result<Option<StreamPosition>, StoreError> {
        self.number(TRIMMED)
    }

    pub(crate) fn trimmed_row(&self) -> (KeyspaceIndex, Bytes) {
        (self.place, key(TRIMMED))
    }

    fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(self.engine.get(self.place, &key(name))?)
    }

    fn write(&self, name: &str, value: Option<Bytes>) -> Write {
        Write { keyspace: self.place, key: key(name), value }
    }

    fn number<T: KeyPart>(&self, name: &str) -> Result<Option<T>, StoreError> {
        let Some(value) = self.get(name)? else { return Ok(None) };
        let mut input = KeyDecoder::new(&value);
        let number = T::decode(&mut input);
        let number = number.and_then(|number| input.finish().map(|()| number));
        number.map(Some).map_err(|error| damaged(name, error.0))
    }

    fn text(&self, name: &str) -> Result<Option<String>, StoreError> {
        let Some(value) = self.get(name)? else { return Ok(None) };
        let text = String::from_utf8(value.into());
        text.map(Some).map_err(|_| damaged(name, "not UTF-8"))
    }
}

fn key(name: &str) -> Bytes {
    let mut key = KeyEncoder::default();
    name.to_owned().encode(&mut key);
    key.bytes.into()
}

fn damaged(name: &str, reason: &str) -> StoreError {
    StoreError::Damaged { keyspace: META.name(), reason: format!("{name}: {reason}") }
}
