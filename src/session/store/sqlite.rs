//! SQLite: the embedded default. One file that survives restarts, no server to install.

use std::{path::Path, time::Duration};

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use time::OffsetDateTime;
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store,
};
use tower_sessions_sqlx_store::SqliteStore;

use super::{Kept, Saved, Store, backend};

/// How long a request waits for a connection or a lock before it is answered 503.
const TIMEOUT: Duration = Duration::from_secs(3);

/// tower-sessions' SQLite store, and its pool for the conditional save.
#[derive(Debug)]
pub struct Sqlite {
    records: SqliteStore,
    pool: SqlitePool,
}

/// Opens the file, making it, its folder and its table where they are missing.
///
/// # Errors
/// When the file can't be opened or written.
pub async fn open(path: &Path) -> Result<Sqlite, sqlx::Error> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // Safe with a write-ahead log: a power cut may lose the last moments, never the file.
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(TIMEOUT);
    let pool = SqlitePoolOptions::new()
        .acquire_timeout(TIMEOUT)
        .connect_with(options)
        .await?;
    let records = SqliteStore::new(pool.clone());
    records.migrate().await?;
    // Expired records are found by their date, and the table of a busy site is long.
    sqlx::query("create index if not exists tower_sessions_expiry on tower_sessions (expiry_date)")
        .execute(&pool)
        .await?;
    Ok(Sqlite { records, pool })
}

#[async_trait::async_trait]
impl SessionStore for Sqlite {
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        self.records.create(record).await
    }

    async fn save(&self, record: &Record) -> session_store::Result<()> {
        self.records.save(record).await
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        self.records.load(id).await
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        self.records.delete(id).await
    }
}

#[async_trait::async_trait]
impl Store for Sqlite {
    async fn compare_and_save(&self, old: &Kept, new: &Kept) -> session_store::Result<Saved> {
        sqlx::query("update tower_sessions set data = ?, expiry_date = ? where id = ? and data = ?")
            .bind(new.bytes()?)
            .bind(new.expiry_date)
            .bind(old.id.to_string())
            .bind(old.bytes()?)
            .execute(&self.pool)
            .await
            .map(|done| Saved::from(done.rows_affected() == 1))
            .map_err(backend)
    }

    async fn compare_and_delete(&self, old: &Kept) -> session_store::Result<bool> {
        sqlx::query("delete from tower_sessions where id = ? and data = ?")
            .bind(old.id.to_string())
            .bind(old.bytes()?)
            .execute(&self.pool)
            .await
            .map(|done| done.rows_affected() == 1)
            .map_err(backend)
    }

    async fn clear_expired(&self, limit: u32) -> session_store::Result<u64> {
        sqlx::query(
            "delete from tower_sessions where id in \
             (select id from tower_sessions where expiry_date <= ? limit ?)",
        )
        .bind(OffsetDateTime::now_utc())
        .bind(limit)
        .execute(&self.pool)
        .await
        .map(|done| done.rows_affected())
        .map_err(backend)
    }

    fn has_table(&self) -> bool {
        true
    }

    /// Moves the write-ahead log into the file, so that the file alone can be copied.
    async fn close(&self) {
        self.pool.close().await;
    }
}
