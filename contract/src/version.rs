//! The version of a row: a sortable string.
//!
//! | field | bytes | meaning |
//! | --- | --- | --- |
//! | `epoch` | 4 | generation of the source's feed; `ffffffff` = erased, which wins for ever |
//! | `sequence` | 8 | the source's own sequence of the row's last change; 0 where it has none |
//! | `changed_at` | 8 | the latest of created, edited, deleted by the source's clock, in microseconds |
//! | `rev` | 4 | 0; a repair takes the stored fields above and adds 1 |
//! | `deleted` | 1 | at equal times a delete wins |
//! | `digest` | 8 | xxh3 of the canonical content: the last tie-break |
//!
//! All big-endian and in lower-case hex, so that `>` on the string is *newer* in Rust, SQL, Lua and
//! JavaScript alike. Nothing in it comes from a local clock or an offset: two regions that read the
//! same source compute the same winner.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::time::Timestamp;

/// The epoch of an erased row.
pub const ERASED: u32 = u32::MAX;

/// Length of an encoded version in characters: 33 bytes in hex.
pub const LENGTH: usize = 66;

/// The fields of a version, most significant first; the derived order is the order of the strings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionFields {
    pub epoch: u32,
    pub sequence: u64,
    pub changed_at: Timestamp,
    pub rev: u32,
    pub deleted: bool,
    pub digest: u64,
}

impl VersionFields {
    pub fn encode(&self) -> Version {
        Version(format!(
            "{:08x}{:016x}{:016x}{:08x}{:02x}{:016x}",
            self.epoch,
            self.sequence,
            self.changed_at.micros(),
            self.rev,
            u8::from(self.deleted),
            self.digest
        ))
    }
}

/// An encoded version: 66 lower-case hex digits. Greater is newer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Version(String);

/// Why a text is not a [`Version`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a version is {LENGTH} lower-case hex digits")]
pub struct BadVersion;

impl Version {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is an erased row's, which wins for ever.
    pub fn is_erased(&self) -> bool {
        self.0.starts_with("ffffffff")
    }

    /// The fields that [`VersionFields::encode`] was given.
    ///
    /// # Errors
    /// [`BadVersion`] if a field holds what no version can (a `deleted` above 1, a time past 9999).
    pub fn fields(&self) -> Result<VersionFields, BadVersion> {
        let hex = |from: usize, to: usize| u64::from_str_radix(&self.0[from..to], 16).map_err(|_| BadVersion);
        let narrow = |value: u64| u32::try_from(value).map_err(|_| BadVersion);
        Ok(VersionFields {
            epoch: narrow(hex(0, 8)?)?,
            sequence: hex(8, 24)?,
            changed_at: Timestamp::from_micros(hex(24, 40)?).map_err(|_| BadVersion)?,
            rev: narrow(hex(40, 48)?)?,
            deleted: match &self.0[48..50] {
                "00" => false,
                "01" => true,
                _ => return Err(BadVersion),
            },
            digest: hex(50, 66)?,
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Version {
    type Err = BadVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if text.len() == LENGTH && digits { Ok(Self(text.to_owned())) } else { Err(BadVersion) }
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
