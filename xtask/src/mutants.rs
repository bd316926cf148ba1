//! `cargo xtask mutants`: takes away, one at a time, what a promise rests on, and shows that a named test goes red.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail, ensure};

use crate::process::{self, root};
use crate::test::{self, World};

/// A guard, how it is taken away, and the test that must notice.
struct Mutant {
    guard: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
    /// Which test binary of which package.
    binary: [&'static str; 2],
    test: &'static str,
}

const LIB: &str = "--lib";

impl Mutant {
    fn noticed_by(&self) -> String {
        format!("{} {} {}", self.binary[0], self.binary[1], self.test)
    }
}

const MUTANTS: &[Mutant] = &[
    Mutant {
        guard: "compare-and-set of progress",
        file: "writer/src/to_postgres.rs",
        from: "&batch.moves).await? != batch.moves.len() as u64 {",
        to: "&batch.moves).await? > batch.moves.len() as u64 {",
        binary: ["writer", "it"],
        test: "one_partition_that_missed_rolls_back_the_whole_batch",
    },
    Mutant {
        guard: "progress inside the transaction",
        file: "writer/src/to_postgres.rs",
        from: "        fail_point(\"writer.moved\");\n",
        to: "        tx.commit().await?;\n        fail_point(\"writer.moved\");\n        let mut tx = self.pool.begin().await?;\n",
        binary: ["system-tests", "faults"],
        test: "w1_a_writer_is_killed_after_it_moved_progress",
    },
    Mutant {
        guard: "a deaf consumer is replaced",
        file: "platform/src/event_log/kafka_reader.rs",
        from: "Some(at) => self.begin_anew(&at),",
        to: "Some(_) => {}",
        binary: ["system-tests", "faults"],
        test: "v1_the_topic_is_made_again_after_its_broker_was_restarted",
    },
    Mutant {
        guard: "what a marker counts",
        file: "synchronizer/src/counted.rs",
        from: "read - last.read < marker.records",
        to: "read < last.read",
        binary: ["synchronizer", LIB],
        test: "counted::tests::records_that_were_lost_between_two_markers_are_missed",
    },
    Mutant {
        guard: "`>` in the upsert",
        file: "writer/queries/upsert_messages.sql",
        from: "WHERE excluded.version > stored.version",
        to: "",
        binary: ["writer", "it"],
        test: "newer_wins_in_whatever_order_they_come",
    },
    Mutant {
        guard: "bisecting to the guilty record",
        file: "writer/src/from_log.rs",
        from: "Err(StoreError::Data(_) | StoreError::Saturated(_)) if part.len() > 1 => {",
        to: "Err(StoreError::Saturated(_)) if part.len() > 1 => {",
        binary: ["system-tests", "it"],
        test: "promises::w4_a_record_that_the_store_refuses",
    },
    Mutant {
        guard: "fingerprint of the last record",
        file: "writer/src/from_log.rs",
        from: "&& expected != record.fingerprint()",
        to: "&& expected != record.fingerprint() && false",
        binary: ["system-tests", "it"],
        test: "promises::w1_another_log_in_the_place",
    },
    Mutant {
        guard: "claims after acks",
        file: "synchronizer/src/leader.rs",
        from: "        self.appender.append_new(records, None).await;\n        let gap",
        to: "        self.place().remembered.advance(page.next.clone(), rows, Instant::now());\n        \
             self.appender.append_new(records, None).await;\n        let gap",
        binary: ["system-tests", "it"],
        test: "promises::l2_nothing_is_claimed_before_its_acks",
    },
    Mutant {
        guard: "a new leader reads again what the last one remembered (overlap)",
        file: "synchronizer/src/leader.rs",
        from: "(found.remembered(overlap, now), found.generation",
        to: "(Remembered::new(found.cursor, overlap, now), found.generation",
        binary: ["system-tests", "it"],
        test: "leadership::l1_a_row_that_came_late",
    },
    Mutant {
        guard: "what a leader remembers ages from one to the next",
        file: "synchronizer/src/checkpoint.rs",
        from: "at: now.checked_sub(Duration::from_millis(earlier.ago_ms)).unwrap_or(now),",
        to: "at: now,",
        binary: ["synchronizer", LIB],
        test: "leaders_that_end_soon_do_not_read_from_ever_further_back",
    },
    Mutant {
        guard: "what was appended lately is a hint only",
        file: "synchronizer/src/seen.rs",
        from: "known.is_some_and(|appended| since.is_none_or(|since| *appended >= since))",
        to: "{ let _ = since; known.is_some() }",
        binary: ["system-tests", "it"],
        test: "tools::verify_names_what_differs_and_reconcile_mends_it",
    },
    Mutant {
        guard: "only a lease that names this candidate is its own",
        file: "platform/src/leadership/lease.rs",
        from: "if holder == Some(identity) { Attempt::Held }",
        to: "if holder.is_some() { Attempt::Held }",
        binary: ["platform", LIB],
        test: "an_answer_with_another_holder_is_no_lease_of_ours",
    },
    Mutant {
        guard: "a lease is taken over by compare-and-set",
        file: "platform/src/leadership/lease.rs",
        from: "json!({ \"metadata\": { \"resourceVersion\": lease.metadata.resource_version }, \"spec\": spec })",
        to: "{ let _ = lease; json!({ \"spec\": spec }) }",
        binary: ["system-tests", "faults"],
        test: "l2_two_candidates_see_one_expired_lease",
    },
    Mutant {
        guard: "nothing older than a load or a resume had",
        file: "internal/src/hub/pushes.rs",
        from: "self.0.peek(name).is_some_and(|given| given > version)",
        to: "{ let _ = (name, version); false }",
        binary: ["internal", "it"],
        test: "v3_nobody_is_pushed_anything_older_than_a_load",
    },
    Mutant {
        guard: "the deadline of an exclusive source",
        file: "platform/src/leadership/lease.rs",
        from: "!settings.exclusive && silence < UNCONFIRMED",
        to: "silence < UNCONFIRMED",
        binary: ["platform", LIB],
        test: "an_exclusive_source_is_left_at_the_deadline",
    },
    Mutant {
        guard: "buffering of updates before their load",
        file: "internal/src/hub/fan_out.rs",
        from: "Subscription::Loading(kept) => kept.extend(frames.iter().cloned()),",
        to: "Subscription::Loading(_) => {}",
        binary: ["internal", "it"],
        test: "v2_an_update_between_subscribe_and_load_comes_after_the_load",
    },
    Mutant {
        guard: "merge by version on the page",
        file: "internal/web/copy.js",
        from: "export const newer = (incoming, stored) => incoming > stored;",
        to: "export const newer = () => true;",
        binary: ["system-tests", "it"],
        test: "browser::the_page_judges_versions_as_the_fixtures_say",
    },
    Mutant {
        guard: "a row that another pod knew first is in loads and resumes",
        file: "internal/src/hub/fan_out.rs",
        from: "            if update.early {\n",
        to: "            if update.early && false {\n",
        binary: ["internal", LIB],
        test: "model::a_page_goes_from_pod_to_pod",
    },
    Mutant {
        guard: "a chat that a token may not see is nowhere",
        file: "internal/src/access/mod.rs",
        from: "Chats::Only(chats) => chats.contains(chat),",
        to: "Chats::Only(_) => { let _ = chat; true }",
        binary: ["system-tests", "it"],
        test: "access::a_chat_that_a_token_may_not_see_is_nowhere",
    },
    Mutant {
        guard: "a token that is taken away ends its connections",
        file: "internal/src/access/mod.rs",
        from: "or(tokens.listed(sha256).is_some_and(|listed| listed == *viewer), Still::No)",
        to: "{ let _ = (tokens, sha256); Still::Yes }",
        binary: ["system-tests", "it"],
        test: "access::a_chat_that_a_token_may_not_see_is_nowhere",
    },
    Mutant {
        guard: "a page of another site may not connect",
        file: "internal/src/access/origins.rs",
        from: "        self.all().any(|one| one.0 == origin) || (self.listed.is_empty() && own())\n",
        to: "        !origin.is_empty() || own()\n",
        binary: ["system-tests", "it"],
        test: "access::one_address_holds_so_many_connections",
    },
    Mutant {
        guard: "a text is text",
        file: "internal/web/thread.js",
        from: "dir: \"auto\", textContent: deleted",
        to: "dir: \"auto\", innerHTML: deleted",
        binary: ["system-tests", "it"],
        test: "hostile::evasions_stay_text",
    },
];

pub fn run(only: Option<&str>) -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("chat-sync-mutants-").tempdir()?;
    let copy = folder.path().join("copy");
    git(&["worktree", "add", "--detach", "--force", &copy.display().to_string(), "HEAD"])?;
    let outcome = all(only, folder.path(), &copy);
    git(&["worktree", "remove", "--force", &copy.display().to_string()])?;
    outcome
}

fn all(only: Option<&str>, folder: &Path, copy: &Path) -> anyhow::Result<()> {
    let mutants: Vec<&Mutant> =
        MUTANTS.iter().filter(|mutant| only.is_none_or(|only| mutant.guard.contains(only))).collect();
    ensure!(!mutants.is_empty(), "no guard is named {:?}", only.unwrap_or_default());
    all_are_there()?;
    eprintln!("Building the copy that nothing is taken from");
    build(copy)?;
    let world = test::start(folder)?;
    for mutant in &mutants {
        ensure!(passes(mutant, copy, &world)?, "{} fails without any mutant", mutant.noticed_by());
    }
    let mut survived = Vec::new();
    for mutant in mutants {
        let started = Instant::now();
        let caught = !survives(mutant, copy, &world)?;
        let (word, seconds) = (if caught { "caught" } else { "SURVIVED" }, started.elapsed().as_secs());
        println!("{word:>8}  {} ({}), by {}, {seconds} s", mutant.guard, mutant.file, mutant.noticed_by());
        if !caught {
            survived.push(mutant.guard);
        }
    }
    if !survived.is_empty() {
        bail!("nobody notices without: {}", survived.join("; "));
    }
    Ok(())
}

/// Whether every guard is where it is looked for, once: code that moves must not leave its mutant behind.
///
/// # Errors
/// If one is not.
pub fn all_are_there() -> anyhow::Result<()> {
    for mutant in MUTANTS {
        let whole = std::fs::read_to_string(root().join(mutant.file)).with_context(|| mutant.file.to_owned())?;
        let count = whole.matches(mutant.from).count();
        ensure!(count == 1, "{}, of the mutant {:?}, is {count} times in {}", mutant.from, mutant.guard, mutant.file);
    }
    Ok(())
}

/// Takes the guard away, looks whether its test still passes, and puts it back.
fn survives(mutant: &Mutant, copy: &Path, world: &World) -> anyhow::Result<bool> {
    let file = copy.join(mutant.file);
    let whole = std::fs::read_to_string(&file).with_context(|| mutant.file.to_owned())?;
    std::fs::write(&file, whole.replace(mutant.from, mutant.to))?;
    // What does not compile proves nothing.
    let survives = build(copy).and_then(|()| passes(mutant, copy, world));
    std::fs::write(&file, whole)?;
    survives
}

fn cargo(copy: &Path, arguments: &[&str]) -> Command {
    let mut command = process::cargo();
    command.current_dir(copy).args(arguments).env("CARGO_TARGET_DIR", root().join("target/mutants"));
    command
}

fn build(copy: &Path) -> anyhow::Result<()> {
    process::run(&mut cargo(copy, &["build", "--quiet", "--workspace", "--bins", "--tests", "--locked"]))
}

fn passes(mutant: &Mutant, copy: &Path, world: &World) -> anyhow::Result<bool> {
    let mut command = cargo(copy, &["test", "--quiet", "--workspace", "--locked"]);
    match mutant.binary {
        [_, LIB] => command.arg(LIB),
        [_, binary] => command.args(["--test", binary]),
    };
    command.arg(mutant.test).envs(world.variables.iter().map(|(name, value)| (name, value)));
    let passed = command.stdout(Stdio::null()).stderr(Stdio::null()).status()?.success();
    process::go_on()?;
    Ok(passed)
}

fn git(arguments: &[&str]) -> anyhow::Result<()> {
    process::run(Command::new("git").current_dir(root()).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()))
}
