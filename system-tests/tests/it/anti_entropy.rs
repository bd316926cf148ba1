//! Two regions find by themselves that their copies differ, and the source tells which one is right.

use platform::eventually;
use sqlx::PgPool;
use system_tests::flow::Flow;
use system_tests::metrics;
use system_tests::regions::Regions;

/// Changes a second while copies are compared that cannot both be read in the same moment.
const RATE: u64 = 40;

async fn text(copy: &PgPool, message: &str) -> Option<String> {
    let query = sqlx::query_scalar("SELECT text FROM messages WHERE id = $1").bind(message);
    query.fetch_optional(copy).await.expect("the copy answers")
}

async fn does(copy: &PgPool, statement: &'static str, message: &str) {
    let done = sqlx::query(statement).bind(message).execute(copy).await.expect("the copy answers");
    assert_eq!(done.rows_affected(), 1, "{statement}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_copy_alone_lacks_or_has_is_found_by_both_regions_and_mended() {
    let settings = vec![
        ("CHAT_SYNC_COMPARE_REGIONS_EVERY", "12s".to_owned()),
        ("CHAT_SYNC_MARKER_EVERY", "100ms".to_owned()),
        // Whatever is found, this does not find it.
        ("CHAT_SYNC_RECONCILE_EVERY", "1h".to_owned()),
    ];
    let Some(regions) = Regions::start(settings).await else { return };
    regions.ready().await;
    let vendor = regions.a.vendor();
    let (a, b) = (regions.a.database_url.expose(), regions.b.database_url.expose());
    let (a, b) = (PgPool::connect(a).await.unwrap(), PgPool::connect(b).await.unwrap());
    let mut chats = Vec::new();
    for number in 0..2 {
        chats.push(vendor.create_chat(&format!("Compared {number}")).await);
    }
    let mut messages = Vec::new();
    for number in 0..3 {
        messages.push(vendor.post(&chats[number % 2], if number == 0 { "before" } else { "as it was written" }).await);
    }
    for (copy, message) in [&a, &b].into_iter().flat_map(|copy| messages.iter().map(move |message| (copy, message))) {
        eventually!(text(copy, message).await.is_some(), "it is in both copies");
    }
    let synchronizers = [&regions.a.synchronizer_address, &regions.b.synchronizer_address];
    let says =
        async |name: &str| [metrics::value(synchronizers[0], name).await, metrics::value(synchronizers[1], name).await];
    let through = async || says("chat_sync_regions_compared_through").await.map(|seconds| seconds.unwrap_or(0.0));

    let compared_whole = async || {
        let before = through().await;
        eventually!(through().await.iter().zip(&before).all(|(now, before)| now > before), "both were compared whole");
    };
    let flow = Flow::begin(&vendor, &chats, RATE);
    compared_whole().await;
    // A copy that is behind lacks what the other one has, for longer than any difference must last.
    regions.b.writer.signal("STOP");
    vendor.edit(&chats[0], &messages[0], "as it was written").await;
    let [told, heard] =
        ["told_behind", "heard_behind"].map(|why| format!("chat_sync_regions_not_compared_total{{why=\"{why}\"}}"));
    let left_out = async |name: &str| metrics::value(synchronizers[1], name).await.unwrap_or(0.0);
    let before = (left_out(&told).await, left_out(&heard).await);
    eventually!(left_out(&told).await >= before.0 + 3.0, "b does not tell");
    eventually!(left_out(&heard).await >= before.1 + 3.0, "nor compare");
    regions.b.writer.signal("CONT");
    compared_whole().await;
    assert_eq!(says("chat_sync_regions_differences_total").await, [None, None], "what is merely on its way is none");

    // Of a row that was changed under its version, or put or taken away, no version tells.
    does(&b, "UPDATE messages SET text = 'as nobody wrote it' WHERE id = $1", &messages[0]).await;
    does(&b, "DELETE FROM messages WHERE id = $1", &messages[1]).await;
    does(&a, "DELETE FROM messages WHERE id = $1", &messages[2]).await;
    for (copy, message) in [(&b, &messages[0]), (&b, &messages[1]), (&a, &messages[2])] {
        eventually!(text(copy, message).await.as_deref() == Some("as it was written"), "it comes back");
    }
    eventually!(says("chat_sync_regions_differing_chats").await == [Some(0.0), Some(0.0)], "they are alike again");
    let found = says("chat_sync_regions_differences_total").await.map(|found| found.unwrap_or(0.0));
    assert!(found.iter().all(|found| *found >= 1.0), "both regions found it: {found:?}");
    assert!(flow.end().await > 0);
    // Whoever asks for the page that operators look at is told, in both regions.
    for address in [&regions.a.internal_address, &regions.b.internal_address] {
        let told = async || {
            let answer = system_tests::http::get(format!("http://{address}/api/ops")).await.ok()?;
            answer.json::<serde_json::Value>().await.ok()
        };
        eventually!(
            told().await.is_some_and(|view| view["differing"] == 0 && view["compared_through"].is_string()),
            "{address} says so"
        );
    }
}
