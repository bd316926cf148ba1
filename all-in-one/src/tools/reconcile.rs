//! `chat-sync reconcile`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use synchronizer::agenda::State;
use synchronizer::to_log::ToLog;

use super::World;
use super::verify::bar;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Why, for those who read the log later.
    #[arg(long, default_value = "an operator asked")]
    reason: String,
    /// Do not wait until it is done.
    #[arg(long)]
    no_wait: bool,
}

/// How often the leader writes how far it is.
const LOOK: Duration = Duration::from_millis(500);
/// How long nobody may take the request up.
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn run(world: &World, args: Args) -> anyhow::Result<ExitCode> {
    let to_log = ToLog::open(&world.settings, world.log.clone()).await?;
    let request = world.store.ask_reconcile(&args.reason, false).await?;
    println!("asked for (request {request}); the leading synchronizer takes it up");
    if args.no_wait {
        return Ok(ExitCode::SUCCESS);
    }
    let (bar, asked) = (bar("chats"), tokio::time::Instant::now());
    loop {
        tokio::time::sleep(LOOK).await;
        let checkpoint = to_log.checkpoint().await?;
        let State { round, last, request: taken, drift: _, fresh_as_of: _ } =
            checkpoint.map(|found| found.reconcile).unwrap_or_default();
        if taken != request {
            if asked.elapsed() > PATIENCE {
                bail!("nobody has taken it up within {PATIENCE:?}; does a synchronizer lead? See its /readyz");
            }
            continue;
        }
        match (round, last) {
            (Some(round), _) => {
                bar.set_length(round.chats);
                bar.set_position(round.chats_done);
                bar.set_message(round.waiting.map_or("chats".to_owned(), |why| format!("chats, waiting: {why}")));
            }
            (None, Some(last)) if last.request == request => {
                bar.finish_and_clear();
                let took = last.finished_at.since(last.began_at).as_secs_f64();
                println!("compared {} chats in {took:.1} s, appended {} records", last.chats, last.appended);
                return Ok(ExitCode::SUCCESS);
            }
            (None, _) => {}
        }
    }
}
