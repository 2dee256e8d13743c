//! Keeps SQLite's files small: the write-ahead log after a reader has held it, and the file after many records
//! have gone.
//!
//! SQLite writes the log back by itself, but not past what an open transaction still reads: a backup, or a
//! shell that was left open, makes it grow without end.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{Row, SqliteConnection, SqlitePool};
use tokio::time::interval;

use super::TIMEOUT;

/// What the log keeps of its size once it has been written back, in bytes.
pub const LOG_KEPT: u64 = 4 * 1_024 * 1_024;

/// From this size on a log that can't be written back is worth a warning, in bytes.
const LOG_LARGE: u64 = 64 * 1_024 * 1_024;

/// How often the files are looked at.
const EVERY: Duration = Duration::from_secs(5);

/// How long writers may wait while the log is cut off.
const MOMENT: Duration = Duration::from_millis(100);

/// Pages that are given back at a time: some megabytes, so that no request waits for long.
const PAGES: u32 = 500;

/// Free pages that the file keeps for the records to come.
const PAGES_KEPT: i64 = 1_000;

/// The size of the log, in bytes.
pub fn size(log: &Path) -> u64 {
    std::fs::metadata(log).map_or(0, |log| log.len())
}

/// Looks after the files for as long as they are open.
pub async fn run(pool: SqlitePool, log: PathBuf) {
    let mut turns = interval(EVERY);
    let mut warned = false;
    loop {
        tokio::select! {
            _ = turns.tick() => {}
            () = pool.close_event() => return,
        }
        let kept = keep_small(&pool, &log, &mut warned).await;
        if let Err(error) = kept {
            tracing::debug!(%error, "SQLite's files could not be looked after");
        }
    }
}

async fn keep_small(pool: &SqlitePool, log: &Path, warned: &mut bool) -> Result<(), sqlx::Error> {
    let before = size(log);
    if before > LOG_KEPT {
        let is_held = !write_back(pool).await?;
        if is_held && before > LOG_LARGE && !*warned {
            let megabytes = before / 1_048_576;
            tracing::warn!(
                megabytes,
                "something reads the session database and keeps its log from being written back"
            );
            *warned = true;
        }
    }
    if size(log) <= LOG_KEPT {
        *warned = false;
    }
    give_back(pool).await
}

/// Writes the log back and cuts it off; `false`: something still reads it. Cutting it off waits for readers, and
/// writers wait meanwhile: so it is tried only where nothing reads what is old, and for a moment alone.
async fn write_back(pool: &SqlitePool) -> Result<bool, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let passive = sqlx::query("pragma wal_checkpoint(passive)")
        .fetch_one(&mut *connection)
        .await?;
    let (pages, written): (i64, i64) = (passive.try_get(1)?, passive.try_get(2)?);
    if written < pages {
        return Ok(false);
    }
    wait_up_to(&mut connection, MOMENT).await?;
    let cut = sqlx::query("pragma wal_checkpoint(truncate)")
        .fetch_one(&mut *connection)
        .await;
    wait_up_to(&mut connection, TIMEOUT).await?;
    Ok(cut?.try_get::<i64, _>(0)? == 0)
}

/// How long a connection waits for a lock.
async fn wait_up_to(connection: &mut SqliteConnection, limit: Duration) -> Result<(), sqlx::Error> {
    let pragma = format!("pragma busy_timeout = {}", limit.as_millis());
    sqlx::query(&pragma).execute(connection).await.map(|_| ())
}

/// Gives some free pages back, which files that older releases have made can't.
async fn give_back(pool: &SqlitePool) -> Result<(), sqlx::Error> {
    let free: i64 = sqlx::query_scalar("pragma freelist_count")
        .fetch_one(pool)
        .await?;
    if free > PAGES_KEPT {
        sqlx::query(&format!("pragma incremental_vacuum({PAGES})"))
            .fetch_all(pool)
            .await?;
        // The file ends where it ended until then.
        sqlx::query("pragma wal_checkpoint(passive)")
            .fetch_one(pool)
            .await?;
    }
    Ok(())
}
