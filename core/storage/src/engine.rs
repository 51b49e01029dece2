//! What a key-value store must offer to stand below Hearth.

/// Filled in by the owner of this file.
#[derive(Debug, thiserror::Error)]
#[error("storage engine: {0}")]
pub struct EngineError(pub String);

/// Which engine keeps the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// The default: an LSM tree in pure Rust.
    #[default]
    Fjall,
    /// The second engine, which keeps the seam honest.
    Sled,
    /// Nothing survives the process; for tests.
    Memory,
}

/// Filled in by the owner of this file.
pub trait Engine: Send + Sync + 'static {}

/// Filled in by the owner of this file.
pub trait View {}
