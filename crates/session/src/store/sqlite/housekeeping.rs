//! Keeps SQLite's files small: the write-ahead log after a long read, and the database file after many deletions.
//!
//! SQLite writes the log back on its own, but only up to what an open transaction still reads. So a backup, or a shell
//! that was left open, makes the log grow without limit.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{Row, SqliteConnection, SqlitePool};
use tokio::time::interval;

use super::TIMEOUT;

/// The size to which the log is cut after it has been written back, in bytes.
pub const WAL_LIMIT: u64 = 4 * 1_024 * 1_024;

/// The size from which a log that can't be written back causes a warning, in bytes.
const WAL_WARNING_SIZE: u64 = 64 * 1_024 * 1_024;

/// How often the files are checked.
const INTERVAL: Duration = Duration::from_secs(5);

/// How long writers may wait while the log is truncated.
const TRUNCATE_TIMEOUT: Duration = Duration::from_millis(100);

/// The most pages that are returned to the file system at a time: 2 MB, so that no request waits for long.
const VACUUM_PAGES: u32 = 500;

/// The free pages that the file keeps for new records.
const SPARE_PAGES: i64 = 1_000;

/// The size of the log in bytes, or 0 if there is none.
pub fn size(wal: &Path) -> u64 {
    std::fs::metadata(wal).map_or(0, |wal| wal.len())
}

/// Checks the files regularly until the pool is closed.
pub async fn run(pool: SqlitePool, wal: PathBuf) {
    let mut ticks = interval(INTERVAL);
    let mut warned = false;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = pool.close_event() => return,
        }
        if let Err(error) = shrink(&pool, &wal, &mut warned).await {
            tracing::debug!(%error, "SQLite's files can't be shrunk");
        }
    }
}

async fn shrink(pool: &SqlitePool, wal: &Path, warned: &mut bool) -> Result<(), sqlx::Error> {
    let before = size(wal);
    if before > WAL_LIMIT {
        let is_in_use = !checkpoint(pool).await?;
        if is_in_use && before > WAL_WARNING_SIZE && !*warned {
            let megabytes = before / 1_048_576;
            tracing::warn!(
                megabytes,
                "a reader of the session database keeps its log from being written back"
            );
            *warned = true;
        }
    }
    if size(wal) <= WAL_LIMIT {
        *warned = false;
    }
    vacuum(pool).await
}

/// Writes the log back and truncates it. `false`: a transaction still reads from the log.
///
/// The truncation waits for readers, and blocks writers while it waits. So it begins only after the whole log has been
/// written back, and waits no longer than [`TRUNCATE_TIMEOUT`].
async fn checkpoint(pool: &SqlitePool) -> Result<bool, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let passive = sqlx::query("pragma wal_checkpoint(passive)")
        .fetch_one(&mut *connection)
        .await?;
    let (pages, written): (i64, i64) = (passive.try_get(1)?, passive.try_get(2)?);
    if written < pages {
        return Ok(false);
    }
    set_busy_timeout(&mut connection, TRUNCATE_TIMEOUT).await?;
    let truncated = sqlx::query("pragma wal_checkpoint(truncate)")
        .fetch_one(&mut *connection)
        .await;
    set_busy_timeout(&mut connection, TIMEOUT).await?;
    Ok(truncated?.try_get::<i64, _>(0)? == 0)
}

/// Sets how long a connection waits for a lock.
async fn set_busy_timeout(
    connection: &mut SqliteConnection,
    timeout: Duration,
) -> Result<(), sqlx::Error> {
    let pragma = format!("pragma busy_timeout = {}", timeout.as_millis());
    sqlx::query(&pragma).execute(connection).await.map(|_| ())
}

/// Returns some free pages to the file system. A file that was created without `auto_vacuum` can't return any.
async fn vacuum(pool: &SqlitePool) -> Result<(), sqlx::Error> {
    let free: i64 = sqlx::query_scalar("pragma freelist_count")
        .fetch_one(pool)
        .await?;
    if free > SPARE_PAGES {
        sqlx::query(&format!("pragma incremental_vacuum({VACUUM_PAGES})"))
            .fetch_all(pool)
            .await?;
        // The file shrinks only when the log is written back.
        sqlx::query("pragma wal_checkpoint(passive)")
            .fetch_one(pool)
            .await?;
    }
    Ok(())
}
