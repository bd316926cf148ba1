//! The vendor's tables in SQLite.

use platform::sqlite::Sqlite;
use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, QueryBuilder, Sqlite as Db, Transaction};

use crate::chat::{Chat, Message, Micros};
use crate::feed::Feed;

type ChatRow = (String, String, i64, Option<i64>, Option<i64>, i64);
type MessageRow = (String, String, Option<String>, String, Option<String>, i64, Option<i64>, Option<i64>, i64);

pub(crate) async fn migrate(db: &Sqlite) -> anyhow::Result<()> {
    let mut migrator: Migrator = sqlx::migrate!("./migrations");
    // The embedded mirror keeps everything in one file, each part with its own record of migrations.
    migrator.dangerous_set_table_name("vendor_migrations");
    migrator.run(&db.write).await?;
    Ok(())
}

/// The feed of this database, made at its first use, and the last sequence given.
pub(crate) async fn feed(db: &Sqlite, keep_changes: u32) -> sqlx::Result<(Feed, i64)> {
    sqlx::query("INSERT INTO vendor_feed VALUES (1, 1, 0, ?) ON CONFLICT DO NOTHING")
        .bind(rand::random::<i64>())
        .execute(&db.write)
        .await?;
    let (generation, sequence, seal): (u32, i64, i64) =
        sqlx::query_as("SELECT generation, sequence, seal FROM vendor_feed").fetch_one(&db.read).await?;
    Ok((Feed { generation, seal: seal.cast_unsigned(), keep_changes }, sequence))
}

pub(crate) async fn chats(db: &Sqlite) -> sqlx::Result<Vec<Chat>> {
    let rows: Vec<ChatRow> = sqlx::query_as(
        "SELECT id, title, created_at, edited_at, deleted_at, sequence FROM vendor_chats ORDER BY created_at, id",
    )
    .fetch_all(&db.read)
    .await?;
    Ok(rows.into_iter().map(chat_from).collect())
}

pub(crate) async fn chat(db: &Sqlite, id: &str) -> sqlx::Result<Option<Chat>> {
    let row: Option<ChatRow> =
        sqlx::query_as("SELECT id, title, created_at, edited_at, deleted_at, sequence FROM vendor_chats WHERE id = ?")
            .bind(id)
            .fetch_optional(&db.read)
            .await?;
    Ok(row.map(chat_from))
}

const MESSAGE: &str = "SELECT chat_id, id, parent_id, author, text, created_at, edited_at, deleted_at, sequence \
                       FROM vendor_messages";

/// Those of these messages, each by its chat and id, that are there.
pub(crate) async fn these_messages(db: &Sqlite, ids: &[(&str, &str)]) -> sqlx::Result<Vec<Message>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut query = QueryBuilder::new(MESSAGE);
    query.push(" WHERE (chat_id, id) IN (").push_values(ids, |mut row, (chat, id)| {
        row.push_bind(*chat).push_bind(*id);
    });
    let rows: Vec<MessageRow> = query.push(")").build_query_as().fetch_all(&db.read).await?;
    Ok(rows.into_iter().map(message_from).collect())
}

pub(crate) async fn message(db: &Sqlite, chat: &str, id: &str) -> sqlx::Result<Option<Message>> {
    let row: Option<MessageRow> = sqlx::query_as(AssertSqlSafe(format!("{MESSAGE} WHERE chat_id = ? AND id = ?")))
        .bind(chat)
        .bind(id)
        .fetch_optional(&db.read)
        .await?;
    Ok(row.map(message_from))
}

/// Oldest first, and whether there are older ones.
pub(crate) async fn messages(
    db: &Sqlite,
    chat: &str,
    before: Option<(Micros, String)>,
    limit: u32,
) -> sqlx::Result<(Vec<Message>, bool)> {
    let (time, id) = before.unwrap_or((Micros(i64::MAX), String::new()));
    let sql =
        format!("{MESSAGE} WHERE chat_id = ? AND (created_at, id) < (?, ?) ORDER BY created_at DESC, id DESC LIMIT ?");
    let mut rows: Vec<MessageRow> = sqlx::query_as(AssertSqlSafe(sql))
        .bind(chat)
        .bind(time.0)
        .bind(id)
        .bind(i64::from(limit) + 1)
        .fetch_all(&db.read)
        .await?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    rows.reverse();
    Ok((rows.into_iter().map(message_from).collect(), more))
}

/// Up to `limit` changes behind `after`, as (sequence, JSON), and the oldest sequence kept, from one snapshot.
pub(crate) async fn changes(db: &Sqlite, after: i64, limit: u32) -> sqlx::Result<(Vec<(i64, String)>, Option<i64>)> {
    let mut tx = db.read.begin().await?;
    let rows = sqlx::query_as("SELECT sequence, body FROM vendor_changes WHERE sequence > ? ORDER BY sequence LIMIT ?")
        .bind(after)
        .bind(limit)
        .fetch_all(&mut *tx)
        .await?;
    let oldest = sqlx::query_scalar("SELECT min(sequence) FROM vendor_changes").fetch_one(&mut *tx).await?;
    tx.commit().await?;
    Ok((rows, oldest))
}

/// The oldest sequence kept, and the last one given.
pub(crate) async fn ends(db: &Sqlite) -> sqlx::Result<(Option<i64>, i64)> {
    sqlx::query_as("SELECT (SELECT min(sequence) FROM vendor_changes), sequence FROM vendor_feed")
        .fetch_one(&db.read)
        .await
}

/// Gives the new generation and the last sequence.
pub(crate) async fn restore(db: &Sqlite, lose: u32) -> sqlx::Result<(u32, i64)> {
    let mut tx = db.write.begin().await?;
    sqlx::query(
        "DELETE FROM vendor_messages WHERE (chat_id, id) IN \
         (SELECT chat_id, id FROM vendor_messages ORDER BY sequence DESC LIMIT ?)",
    )
    .bind(lose)
    .execute(&mut *tx)
    .await?;
    sqlx::raw_sql(
        "DELETE FROM vendor_changes;
         UPDATE vendor_chats SET sequence = fresh.place FROM
             (SELECT id, row_number() OVER (ORDER BY created_at, id) AS place FROM vendor_chats) AS fresh
             WHERE fresh.id = vendor_chats.id;
         UPDATE vendor_messages SET sequence = (SELECT count(*) FROM vendor_chats) + fresh.place FROM
             (SELECT chat_id, id, row_number() OVER (ORDER BY created_at, id) AS place FROM vendor_messages) AS fresh
             WHERE fresh.chat_id = vendor_messages.chat_id AND fresh.id = vendor_messages.id;
         UPDATE vendor_feed SET generation = generation + 1,
             sequence = (SELECT count(*) FROM vendor_chats) + (SELECT count(*) FROM vendor_messages);",
    )
    .execute(&mut *tx)
    .await?;
    let restored = sqlx::query_as("SELECT generation, sequence FROM vendor_feed").fetch_one(&mut *tx).await?;
    tx.commit().await?;
    Ok(restored)
}

pub(crate) async fn put_chat(db: &Sqlite, feed: &Feed, chat: Chat) -> sqlx::Result<Chat> {
    let mut tx = db.write.begin().await?;
    let chat = put_chat_in(&mut tx, feed, chat).await?;
    tx.commit().await?;
    Ok(chat)
}

pub(crate) async fn put_message(db: &Sqlite, feed: &Feed, message: Message) -> sqlx::Result<Message> {
    let mut tx = db.write.begin().await?;
    let mut written = put_messages_in(&mut tx, feed, vec![message]).await?;
    tx.commit().await?;
    // One was given, one was written.
    written.pop().ok_or(sqlx::Error::RowNotFound)
}

pub(crate) async fn put_chat_in(tx: &mut Transaction<'_, Db>, feed: &Feed, mut chat: Chat) -> sqlx::Result<Chat> {
    chat.sequence = next_sequences(tx, 1).await?;
    sqlx::query("INSERT OR REPLACE INTO vendor_chats VALUES (?, ?, ?, ?, ?, ?)")
        .bind(&chat.id)
        .bind(&chat.title)
        .bind(chat.created_at.0)
        .bind(chat.edited_at.map(|time| time.0))
        .bind(chat.deleted_at.map(|time| time.0))
        .bind(chat.sequence)
        .execute(&mut **tx)
        .await?;
    record_changes(tx, feed, "chat", vec![(chat.sequence, serde_json::json!(chat))]).await?;
    Ok(chat)
}

/// Writes them in order, each as a change of its own; gives them with their sequences.
pub(crate) async fn put_messages_in(
    tx: &mut Transaction<'_, Db>,
    feed: &Feed,
    mut messages: Vec<Message>,
) -> sqlx::Result<Vec<Message>> {
    if messages.is_empty() {
        return Ok(messages);
    }
    let last = next_sequences(tx, messages.len()).await?;
    for (back, message) in messages.iter_mut().rev().enumerate() {
        message.sequence = last - i64::try_from(back).unwrap_or_default();
    }
    let mut insert = QueryBuilder::new("INSERT OR REPLACE INTO vendor_messages ");
    insert.push_values(&messages, |mut row, message| {
        row.push_bind(&message.chat_id)
            .push_bind(&message.id)
            .push_bind(&message.parent_id)
            .push_bind(&message.author)
            .push_bind(&message.text)
            .push_bind(message.created_at.0)
            .push_bind(message.edited_at.map(|time| time.0))
            .push_bind(message.deleted_at.map(|time| time.0))
            .push_bind(message.sequence);
    });
    insert.build().execute(&mut **tx).await?;
    let rows = messages.iter().map(|message| (message.sequence, serde_json::json!(message)));
    record_changes(tx, feed, "message", rows.collect()).await?;
    Ok(messages)
}

/// Takes so many sequences; gives the last of them.
async fn next_sequences(tx: &mut Transaction<'_, Db>, count: usize) -> sqlx::Result<i64> {
    sqlx::query_scalar("UPDATE vendor_feed SET sequence = sequence + ? RETURNING sequence")
        .bind(i64::try_from(count).unwrap_or_default())
        .fetch_one(&mut **tx)
        .await
}

/// Appends to the feed and forgets what is older than the feed keeps.
async fn record_changes(
    tx: &mut Transaction<'_, Db>,
    feed: &Feed,
    kind: &str,
    rows: Vec<(i64, serde_json::Value)>,
) -> sqlx::Result<()> {
    let last = rows.last().map_or(0, |(sequence, _)| *sequence);
    let mut insert = QueryBuilder::new("INSERT INTO vendor_changes ");
    insert.push_values(rows, |mut change, (sequence, mut row)| {
        row["type"] = kind.into();
        change.push_bind(sequence).push_bind(row.to_string());
    });
    insert.build().execute(&mut **tx).await?;
    sqlx::query("DELETE FROM vendor_changes WHERE sequence <= ?")
        .bind(last - i64::from(feed.keep_changes))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

fn chat_from((id, title, created_at, edited_at, deleted_at, sequence): ChatRow) -> Chat {
    Chat {
        id,
        title,
        created_at: Micros(created_at),
        edited_at: edited_at.map(Micros),
        deleted_at: deleted_at.map(Micros),
        deleted: deleted_at.is_some(),
        sequence,
    }
}

fn message_from(row: MessageRow) -> Message {
    let (chat_id, id, parent_id, author, text, created_at, edited_at, deleted_at, sequence) = row;
    Message {
        chat_id,
        id,
        parent_id,
        author,
        text,
        created_at: Micros(created_at),
        edited_at: edited_at.map(Micros),
        deleted_at: deleted_at.map(Micros),
        deleted: deleted_at.is_some(),
        sequence,
    }
}

/// How many lines of this replay are done.
pub(crate) async fn replayed(db: &Sqlite, files: &str) -> sqlx::Result<i64> {
    let lines: Option<i64> = sqlx::query_scalar("SELECT lines FROM vendor_replays WHERE files = ?")
        .bind(files)
        .fetch_optional(&db.read)
        .await?;
    Ok(lines.unwrap_or(0))
}

pub(crate) async fn set_replayed(tx: &mut Transaction<'_, Db>, files: &str, lines: i64) -> sqlx::Result<()> {
    sqlx::query("INSERT OR REPLACE INTO vendor_replays VALUES (?, ?)")
        .bind(files)
        .bind(lines)
        .execute(&mut **tx)
        .await?;
    Ok(())
}
