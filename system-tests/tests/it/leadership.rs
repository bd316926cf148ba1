//! Two synchronizers on a real Kubernetes API: one leads, and a handover loses nothing.

use platform::eventually;
use platform::testing::{server, unique_suffix};
use serde_json::Value;
use system_tests::pipeline::{Options, Pipeline};
use system_tests::process::{Process, free_port, ready};
use system_tests::reader::Reader;

fn lease() -> Option<Vec<(&'static str, String)>> {
    Some(vec![
        ("KUBECONFIG", server("CHAT_SYNC_TEST_KUBECONFIG")?),
        ("CHAT_SYNC_LEASE", format!("synchronizer{}", unique_suffix())),
    ])
}

async fn role(address: &str) -> Option<String> {
    let ready: Value = reqwest::get(format!("http://{address}/readyz")).await.ok()?.json().await.ok()?;
    Some(ready["checks"]["leadership"]["detail"].as_str()?.to_owned())
}

async fn leads(address: &str) -> bool {
    role(address).await.is_some_and(|role| role.starts_with("leads since"))
}

struct World {
    pipeline: Pipeline,
    second: Process,
    second_address: String,
    reader: Reader,
    chat: String,
}

/// The pipeline's own synchronizer leads; the second stands by.
async fn world() -> Option<World> {
    let lease = lease()?;
    let options = Options { synchronizer: lease.clone(), ..Options::default() };
    let pipeline = Pipeline::start(options).await?;
    pipeline.ready().await;
    eventually!(leads(&pipeline.synchronizer_address).await, "the first leads");
    let second_address = format!("127.0.0.1:{}", free_port());
    let second = pipeline.another_synchronizer(&second_address, lease);
    ready(&second_address).await;
    eventually!(
        role(&second_address).await.is_some_and(|role| role.starts_with("standby of synchronizer-")),
        "the second knows who leads"
    );
    let chat = pipeline.vendor().create_chat("Handover").await;
    let reader = Reader::watch(&pipeline.internal_address);
    Some(World { pipeline, second, second_address, reader, chat })
}

impl World {
    /// Posts while the handover happens, and waits until all of it is on the screen.
    async fn post_until_the_second_leads(&self) {
        let vendor = self.pipeline.vendor();
        let mut posted = Vec::new();
        while !leads(&self.second_address).await {
            posted.push(vendor.post(&self.chat, &format!("{}", posted.len())).await);
        }
        posted.push(vendor.post(&self.chat, "after").await);
        eventually!(self.reader.text(&self.chat, posted.last().unwrap()).is_some(), "the next message is there");
        self.reader.scroll_to_the_beginning().await;
        for (number, id) in posted.iter().enumerate() {
            let message = format!("message {number} of {} is not lost", posted.len());
            eventually!(self.reader.text(&self.chat, id).is_some(), "{message}");
        }
        assert_eq!(self.reader.screen().backwards, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l2_a_leader_that_is_told_to_end_hands_over_and_nothing_is_lost() {
    let Some(mut world) = world().await else { return };
    let status = world.pipeline.synchronizer.terminate().await;
    assert!(status.success(), "SIGTERM drains and exits 0, not {status}");
    world.post_until_the_second_leads().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_a_leader_that_is_killed_is_replaced_and_nothing_is_lost() {
    let Some(mut world) = world().await else { return };
    world.pipeline.synchronizer.kill();
    world.post_until_the_second_leads().await;
    assert!(world.second.is_running());
}
