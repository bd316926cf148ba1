//! A vendor that misbehaves: whatever it does, the copy ends as the vendor is, what cannot be understood stands in
//! the dead letters with its reason, nothing else does, and the vendor is not asked more often than it may be.

use std::time::Instant;

use platform::eventually;
use serde_json::{Value, json};
use sqlx::PgPool;
use system_tests::compared::{at_the_vendor, dead_letters, in_the_copy};
use system_tests::metrics;
use system_tests::pipeline::{Options, Pipeline};
use system_tests::tool::verifies;
use system_tests::vendor::Vendor;

/// Requests a second.
const BUDGET: u32 = 6;

struct Trial {
    pipeline: Pipeline,
    vendor: Vendor,
    pool: PgPool,
    started: Instant,
}

impl Trial {
    async fn begin(settings: &[(&'static str, &str)]) -> Option<Self> {
        let mut synchronizer = vec![
            ("CHAT_SYNC_SOURCE_BUDGET", BUDGET.to_string()),
            ("CHAT_SYNC_READ_AGAIN_EVERY", "1s".to_owned()),
            ("CHAT_SYNC_RECONCILE_EVERY", "1d".to_owned()),
        ];
        for (name, value) in settings {
            synchronizer.retain(|(known, _)| known != name);
            synchronizer.push((name, (*value).to_owned()));
        }
        let started = Instant::now();
        let pipeline = Pipeline::start(Options { synchronizer, ..Options::default() }).await?;
        pipeline.ready().await;
        let pool = PgPool::connect(pipeline.database_url.expose()).await.unwrap();
        // What the vendor has before the first poll is listed; that is over before anything is tried.
        eventually!(
            metrics::value(&pipeline.synchronizer_address, "chat_sync_drift_messages").await == Some(0.0),
            "the first comparison is done"
        );
        Some(Self { vendor: pipeline.vendor(), pipeline, pool, started })
    }

    /// Two chats in which people post, edit and delete.
    async fn chat(&self) {
        for title in ["One", "Another"] {
            let chat = self.vendor.create_chat(title).await;
            let mut messages = Vec::new();
            for number in 0..12 {
                messages.push(self.vendor.post(&chat, &format!("{title} {number}")).await);
            }
            for message in &messages[..4] {
                self.vendor.edit(&chat, message, &format!("{title}, edited")).await;
            }
            for message in &messages[3..6] {
                self.vendor.delete(&chat, message).await;
            }
        }
    }

    /// At the end the copy is as the vendor is, and these stand in the dead letters.
    async fn end(self, letters: &[&str]) {
        assert!(at_the_vendor(&self.vendor).await.len() >= 20);
        self.ends(letters).await;
    }

    async fn ends(self, letters: &[&str]) {
        let expected = at_the_vendor(&self.vendor).await;
        eventually!(in_the_copy(&self.pool).await == expected, "the copy is as the vendor is");
        eventually!(dead_letters(&self.pool).await == letters, "the dead letters are {letters:?}");
        let asked = metrics::value(&self.pipeline.vendor_address, "chat_sync_external_reads_total").await.unwrap();
        let allowed = f64::from(BUDGET) * (self.started.elapsed().as_secs_f64() + 1.0);
        assert!(asked <= allowed, "asked {asked} times, allowed {allowed}");
        verifies(&self.pipeline).await;
    }
}

/// People chat while the vendor does this.
async fn lives_through(switches: Value) {
    let Some(trial) = Trial::begin(&[]).await else { return };
    trial.vendor.misbehave(switches.clone()).await;
    trial.chat().await;
    let fault = switches.as_object().unwrap().keys().next().unwrap().clone();
    eventually!(
        metrics::value(&trial.pipeline.vendor_address, "chat_sync_external_faults_total").await.is_some(),
        "{fault} strikes"
    );
    trial.end(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_requests_are_waited_out() {
    lives_through(json!({ "rate_limited": { "rate": 0.5, "times": 4, "delay": 1 } })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_errors_are_tried_again() {
    lives_through(json!({ "server_error": { "rate": 0.6, "times": 6 } })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_cut_is_asked_for_again() {
    lives_through(json!({ "cut_body": { "rate": 0.6, "times": 6 } })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_body_is_waited_for() {
    lives_through(json!({ "slow_body": { "times": 2, "delay": 3 } })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_json_is_asked_for_again() {
    lives_through(json!({ "half_json": { "rate": 0.6, "times": 6 } })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicates_and_reordered_pages_change_nothing() {
    lives_through(json!({ "duplicates": { "rate": 0.3, "seconds": 8 }, "reordered": { "seconds": 8 } })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_come_a_little_late_are_read_again() {
    lives_through(json!({ "late_rows": { "rate": 0.5, "delay": 6 } })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_comes_ten_minutes_late_is_found_by_reconcile() {
    let Some(trial) = Trial::begin(&[("CHAT_SYNC_RECONCILE_EVERY", "2s")]).await else { return };
    trial.vendor.misbehave(json!({ "late_rows": { "rate": 0.3, "delay": 600 } })).await;
    trial.chat().await;
    trial.end(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_cursor_is_followed_by_a_listing() {
    lives_through(json!({ "expired_cursors": { "times": 2 } })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_an_expired_cursor_lost_are_found_by_reconcile() {
    // The feed keeps two changes: what happens while nobody polls is nowhere but in the listing.
    let Some(mut trial) = Trial::begin(&[]).await else { return };
    trial.chat().await;
    trial.pipeline.synchronizer.kill();
    trial.pipeline.external.kill();
    trial.pipeline.external.set("CHAT_SYNC_EXTERNAL_KEEP_CHANGES", "2");
    trial.pipeline.external.start_again();
    system_tests::process::ready(&trial.pipeline.vendor_address).await;
    trial.chat().await;
    trial.pipeline.synchronizer.start_again();
    trial.end(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vendor_restored_from_a_backup_is_followed_and_what_it_lost_is_deleted() {
    let Some(trial) = Trial::begin(&[]).await else { return };
    trial.chat().await;
    let before = at_the_vendor(&trial.vendor).await;
    eventually!(in_the_copy(&trial.pool).await == before, "the copy is as the vendor is");
    trial.vendor.restore_from_backup(3).await;
    let restored = at_the_vendor(&trial.vendor).await;
    assert_eq!(restored.len(), before.len() - 3);
    eventually!(
        {
            let mut copy = in_the_copy(&trial.pool).await;
            let lost: Vec<_> = before.keys().filter(|key| !restored.contains_key(*key)).cloned().collect();
            // They stay as tombstones.
            lost.iter().all(|key| copy.remove(key).is_some_and(|row| row.0 && row.2.is_none())) && copy == restored
        },
        "what the vendor lost is deleted"
    );
    // Sequences start again, far below those that are stored.
    let (chat, message) = restored.iter().find(|(_, row)| !row.0).map(|(key, _)| key.clone()).unwrap();
    trial.vendor.edit(&chat, &message, "after the restore").await;
    eventually!(
        in_the_copy(&trial.pool).await[&(chat.clone(), message.clone())].2.as_deref() == Some("after the restore"),
        "an edit after the restore wins"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_wrong_orders_nothing() {
    let Some(trial) = Trial::begin(&[]).await else { return };
    let chat = trial.vendor.create_chat("Under a wrong clock").await;
    let message = trial.vendor.post(&chat, "at first").await;
    for seconds in [300, -300, 3600, -3600] {
        trial.vendor.misbehave(json!({ "wrong_clock": { "delay": seconds } })).await;
        trial.vendor.edit(&chat, &message, &format!("{seconds} s off")).await;
        trial.chat().await;
    }
    trial.end(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_item_is_a_dead_letter_and_the_row_comes_when_it_is_served_well() {
    let Some(trial) = Trial::begin(&[]).await else { return };
    trial.chat().await;
    trial.vendor.misbehave(json!({ "malformed_item": { "times": 2 } })).await;
    trial.chat().await;
    trial.end(&["malformed", "malformed"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_that_cannot_be_stored_are_dead_letters_and_spoil_nothing_else() {
    let Some(trial) = Trial::begin(&[("CHAT_SYNC_RECONCILE_EVERY", "2s")]).await else { return };
    let chat = trial.vendor.create_chat("Strange texts").await;
    let mut strange = Vec::new();
    for kind in ["nul", "lone_surrogate", "too_large", "deep", "large"] {
        trial.vendor.misbehave(json!({ "strange_text": { "kinds": [kind] } })).await;
        strange.push(trial.vendor.post(&chat, "plain").await);
    }
    trial.vendor.misbehave(json!({})).await;
    trial.chat().await;
    let large = strange.pop().unwrap();
    let mut expected = at_the_vendor(&trial.vendor).await;
    expected.retain(|(_, message), _| !strange.contains(message));
    eventually!(
        in_the_copy(&trial.pool).await.into_iter().all(|((_, message), row)| {
            let long = row.2.as_deref().is_some_and(|text| text.len() > 1_000_000);
            if message == large { long } else { !long && !strange.contains(&message) }
        }) && in_the_copy(&trial.pool).await.len() == expected.len(),
        "all that can be stored is stored, the large text too"
    );
    let letters = ["malformed", "malformed", "nul_character", "too_large"];
    eventually!(dead_letters(&trial.pool).await == letters, "the dead letters are {letters:?}");
    // The slow comparison meets them again and again, and leaves them where they are.
    let metric = async |name| metrics::value(&trial.pipeline.synchronizer_address, name).await;
    let before = metric("chat_sync_verified_through").await;
    eventually!(
        metric("chat_sync_verified_through").await > before && metric("chat_sync_drift_messages").await == Some(0.0),
        "a round is done, and what a dead letter explains is no drift"
    );
    assert_eq!(dead_letters(&trial.pool).await, letters);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_polling_is_about_to_bring_is_no_drift() {
    let Some(trial) = Trial::begin(&[("CHAT_SYNC_RECONCILE_EVERY", "1s")]).await else { return };
    let metric = async |name| metrics::value(&trial.pipeline.synchronizer_address, name).await;
    // Listings are ahead of a feed that is slow.
    trial.vendor.misbehave(json!({ "slow_body": { "scope": "feed", "delay": 1, "seconds": 12 } })).await;
    // The counter appears with the first record.
    let appended = async || metric("chat_sync_reconcile_appended_total").await.unwrap_or(0.0);
    let before = appended().await;
    let chat = trial.vendor.create_chat("Ahead").await;
    let (mut rounds, mut last) = (0, metric("chat_sync_verified_through").await);
    eventually!(
        {
            trial.vendor.post(&chat, "a message that a listing may have before the feed").await;
            let now = metric("chat_sync_verified_through").await;
            rounds += u32::from(now != last);
            last = now;
            rounds >= 5
        },
        "five rounds are done"
    );
    assert_eq!(metric("chat_sync_drift_messages").await, Some(0.0));
    assert_eq!(appended().await, before, "nothing was appended twice");
    trial.ends(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_much_is_written_the_source_is_asked_within_the_budget() {
    let Some(trial) = Trial::begin(&[]).await else { return };
    let asked = async || {
        let reads = metrics::value(&trial.pipeline.vendor_address, "chat_sync_external_reads_total").await;
        reads.unwrap_or(0.0)
    };
    let (began, before) = (Instant::now(), asked().await);
    let chat = trial.vendor.create_chat("Busy").await;
    // A poll each, if nothing kept them apart.
    for number in 0..200 {
        trial.vendor.post(&chat, &format!("message {number}")).await;
    }
    eventually!(in_the_copy(&trial.pool).await.len() == 200, "all are in the copy");
    let asked = asked().await - before;
    // A token bucket holds one second's worth.
    let allowed = f64::from(BUDGET) * (began.elapsed().as_secs_f64() + 1.0) + 1.0;
    assert!(asked <= allowed, "asked {asked} times, allowed {allowed}");
    trial.ends(&[]).await;
}
