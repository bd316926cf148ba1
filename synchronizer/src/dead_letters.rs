//! Tries dead letters again that somebody asked for: what they hold is appended once more, and the writer, in the
//! transaction of the new record, says what became of the letter.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::{Record, Rejected, Timestamp};
use serde_json::value::RawValue;

use crate::append::Appender;
use crate::stored::{Retry, Stored};
use crate::translate;

/// How often it is looked for letters to try again.
const LOOK: Duration = Duration::from_secs(1);
/// How long the writer may take before the same letter is appended once more.
const PATIENCE: Duration = Duration::from_secs(60);

/// The routine.
pub struct Retries {
    pub stored: Arc<dyn Stored>,
    pub appender: Appender,
}

impl Retries {
    /// Looks for ever.
    pub async fn run(&self, source: &str) {
        let mut tried: HashMap<(String, i64), Instant> = HashMap::new();
        loop {
            tokio::time::sleep(LOOK).await;
            let Ok(asked) = self.stored.retries().await else { continue };
            tried.retain(|_, at| at.elapsed() < PATIENCE);
            for retry in asked {
                if tried.contains_key(&(retry.digest.clone(), retry.asked_at)) {
                    continue;
                }
                let record = again(source, &retry, Timestamp::now());
                match self.appender.append_retry(record, &retry.digest).await {
                    Ok(()) => drop(tried.insert((retry.digest, retry.asked_at), Instant::now())),
                    Err(error) => tracing::warn!(%error, digest = retry.digest, "not tried again yet"),
                }
            }
        }
    }
}

/// What the letter holds, read once more: a record of ours as it is, an item of the source in its own generation, for
/// in another one its version would be another.
fn again(source: &str, retry: &Retry, now: Timestamp) -> Record {
    let unreadable = |why: &str| Record::Rejected(Rejected::new(source, "unreadable", why, retry.raw.as_bytes()));
    match Record::decode(retry.raw.as_bytes(), now) {
        Ok(record @ (Record::Message(_) | Record::Chat(_))) => return record,
        Ok(_) => return unreadable("neither a message nor a chat"),
        Err(invalid) if !retry.from_source => return unreadable(&invalid.to_string()),
        Err(_) => {}
    }
    match (RawValue::from_string(retry.raw.clone()), retry.generation) {
        (Ok(item), Some(generation)) => translate::from_anywhere(source, generation, &item, now),
        (Ok(_), None) => unreadable("it is not known in which generation of the feed it was served"),
        (Err(error), _) => unreadable(&error.to_string()),
    }
}
