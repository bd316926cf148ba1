//! The change feed's cursors: opaque to everybody else.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What cursors of this feed are made with.
#[derive(Debug, Clone)]
pub struct Feed {
    pub generation: u32,
    /// Another number for every database, so that a cursor of another vendor is none of ours.
    pub(crate) seal: u64,
    pub(crate) keep_changes: u32,
}

/// Why a cursor cannot be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadCursor {
    /// None of ours.
    Foreign,
    /// Of an earlier generation, or older than what is kept.
    Expired,
}

impl Feed {
    /// The cursor behind the change with this sequence.
    pub fn cursor(&self, sequence: i64) -> String {
        let mut bytes = self.generation.to_be_bytes().to_vec();
        bytes.extend(sequence.to_be_bytes());
        bytes.extend(xxh3_64_with_seed(&bytes, self.seal).to_be_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The sequence that a cursor stands behind; `oldest` and `latest` are the sequences still kept.
    ///
    /// # Errors
    /// [`BadCursor`].
    pub fn sequence(&self, cursor: &str, oldest: Option<i64>, latest: i64) -> Result<i64, BadCursor> {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| BadCursor::Foreign)?;
        let bytes: [u8; 20] = bytes.try_into().map_err(|_| BadCursor::Foreign)?;
        let (body, seal) = bytes.split_at(12);
        if xxh3_64_with_seed(body, self.seal).to_be_bytes() != seal {
            return Err(BadCursor::Foreign);
        }
        let (generation, sequence) = body.split_at(4);
        let generation = u32::from_be_bytes(generation.try_into().map_err(|_| BadCursor::Foreign)?);
        let sequence = i64::from_be_bytes(sequence.try_into().map_err(|_| BadCursor::Foreign)?);
        if generation != self.generation || sequence > latest || sequence + 1 < oldest.unwrap_or(latest + 1) {
            return Err(BadCursor::Expired);
        }
        Ok(sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEED: Feed = Feed { generation: 2, seal: 7, keep_changes: 10 };

    #[test]
    fn a_cursor_is_read_back() {
        assert_eq!(FEED.sequence(&FEED.cursor(41), Some(1), 50), Ok(41));
        assert_eq!(FEED.sequence(&FEED.cursor(0), None, 0), Ok(0));
    }

    #[test]
    fn what_is_none_of_ours_is_foreign() {
        for cursor in ["", "41", "!!", &Feed { seal: 8, ..FEED }.cursor(41)] {
            assert_eq!(FEED.sequence(cursor, Some(1), 50), Err(BadCursor::Foreign), "{cursor}");
        }
    }

    #[test]
    fn what_is_too_old_or_of_another_generation_has_expired() {
        assert_eq!(FEED.sequence(&FEED.cursor(9), Some(11), 50), Err(BadCursor::Expired));
        assert_eq!(FEED.sequence(&FEED.cursor(10), Some(11), 50), Ok(10));
        assert_eq!(FEED.sequence(&Feed { generation: 1, ..FEED }.cursor(41), Some(1), 50), Err(BadCursor::Expired));
        assert_eq!(FEED.sequence(&FEED.cursor(51), Some(1), 50), Err(BadCursor::Expired));
    }
}
