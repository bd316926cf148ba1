//! The topics, and which partition a chat lives in.

use xxhash_rust::xxh3::xxh3_64;

/// Whole rows, rejected items and markers; kept for [`RETENTION_MS`], never compacted, because
/// compaction keeps the last *appended* record and that need not be the newest.
pub const CHANGES: &str = "chat-changes";
/// Compacted; one key a source and region.
pub const CHECKPOINTS: &str = "chat-sync-checkpoints";
/// Compacted; what must never be appended again.
pub const ERASURES: &str = "chat-sync-erasures";
/// Compacted; what each region's copy holds, chat by chat, for the other regions to compare with theirs.
pub const DIGESTS: &str = "chat-sync-digests";

/// Partitions of [`CHANGES`]. A changed number moves chats between partitions, which breaks their
/// order, so every marker carries it and a service that sees another number refuses to start.
pub const PARTITIONS: u32 = 12;

/// Seven days.
pub const RETENTION_MS: u64 = 7 * 24 * 3600 * 1000;

/// The greatest record that is appended, in bytes: 4 MiB.
pub const MAX_RECORD_BYTES: usize = 4 << 20;

/// The names of the four topics of one installation.
///
/// The suffix keeps several installations (and every test) apart on one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    pub changes: String,
    pub checkpoints: String,
    pub erasures: String,
    pub digests: String,
}

impl Topics {
    pub fn with_suffix(suffix: &str) -> Self {
        let name = |base: &str| format!("{base}{suffix}");
        Self {
            changes: name(CHANGES),
            checkpoints: name(CHECKPOINTS),
            erasures: name(ERASURES),
            digests: name(DIGESTS),
        }
    }
}

impl Default for Topics {
    fn default() -> Self {
        Self::with_suffix("")
    }
}

/// The partition of a chat and of everything in it: `xxh3(chat_id) % partitions`.
///
/// # Panics
/// If `partitions` is zero.
pub fn partition_of(chat_id: &str, partitions: u32) -> u32 {
    spread(xxh3_64(chat_id.as_bytes()), partitions)
}

/// The partition of something that has no chat, by its hash.
///
/// # Panics
/// If `partitions` is zero.
pub fn spread(hash: u64, partitions: u32) -> u32 {
    u32::try_from(hash % u64::from(partitions)).expect("a remainder of a u32 fits a u32")
}
