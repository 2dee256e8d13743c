//! SQLite: the embedded default. One file that survives restarts, no server to install.

mod housekeeping;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use time::OffsetDateTime;
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store,
};
use tower_sessions_sqlx_store::SqliteStore;

use super::{
    DEFAULT_TABLE, DeleteExpired, Diagnostics, EncodedRecord, Store, Swap, UserIndex, Values,
    backend,
    index::{SessionIndex, StatsStore},
    sql::{self, Database, Dialect, Tables},
};

/// How long a request waits for a connection or a lock before it is answered 503.
const TIMEOUT: Duration = Duration::from_secs(3);

/// tower-sessions' SQLite store, and its pool for the conditional save.
#[derive(Debug)]
pub struct Sqlite {
    records: SqliteStore,
    database: Database<sqlx::Sqlite>,
    /// The write-ahead log beside the file.
    log: PathBuf,
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
        .pragma("journal_size_limit", housekeeping::LOG_KEPT.to_string())
        // For files that are made now: pages of removed records can be given back bit by bit.
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .busy_timeout(TIMEOUT);
    let pool = SqlitePoolOptions::new()
        .acquire_timeout(TIMEOUT)
        .connect_with(options)
        .await?;
    let records = SqliteStore::new(pool.clone());
    records.migrate().await?;
    let tables = Tables::new(DEFAULT_TABLE, Dialect::Sqlite);
    for statement in tables.create_statements(Dialect::Sqlite) {
        sqlx::query(&statement).execute(&pool).await?;
    }
    // Written to see whether the file takes writes; no record may be in the way.
    sqlx::query(
        "create table if not exists tower_sessions_probe (id integer primary key, at integer)",
    )
    .execute(&pool)
    .await?;
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let log = PathBuf::from(log);
    tokio::spawn(housekeeping::run(pool.clone(), log.clone()));
    let database = Database {
        connections: pool.into(),
        tables,
    };
    Ok(Sqlite {
        records,
        database,
        log,
    })
}

impl Sqlite {
    fn pool(&self) -> &SqlitePool {
        self.database.pool()
    }
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
        match self.records.load(id).await {
            // A column of another kind, which somebody else has written.
            Err(session_store::Error::Backend(text)) if text.contains("decoding column") => {
                Err(session_store::Error::Decode(text))
            }
            other => other,
        }
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        self.records.delete(id).await
    }
}

#[async_trait::async_trait]
impl Store for Sqlite {
    async fn compare_and_swap(
        &self,
        old: &EncodedRecord,
        new: &EncodedRecord,
    ) -> session_store::Result<Swap> {
        sqlx::query("update tower_sessions set data = ?, expiry_date = ? where id = ? and data = ?")
            .bind(new.bytes()?)
            .bind(new.expiry_date)
            .bind(old.id.to_string())
            .bind(old.bytes()?)
            .execute(self.pool())
            .await
            .map(|done| Swap::from(done.rows_affected() == 1))
            .map_err(backend)
    }

    async fn compare_and_delete(&self, old: &EncodedRecord) -> session_store::Result<bool> {
        sqlx::query("delete from tower_sessions where id = ? and data = ?")
            .bind(old.id.to_string())
            .bind(old.bytes()?)
            .execute(self.pool())
            .await
            .map(|done| done.rows_affected() == 1)
            .map_err(backend)
    }

    fn index(&self) -> Option<&dyn SessionIndex> {
        Some(&self.database)
    }

    fn users(&self) -> Option<&dyn UserIndex> {
        Some(&self.database)
    }

    fn values(&self) -> Option<&dyn Values> {
        Some(&self.database)
    }

    /// Moves the write-ahead log into the file, so that the file alone can be copied.
    async fn close(&self) {
        self.pool().close().await;
    }

    fn delete_expired(&self) -> Option<&dyn DeleteExpired> {
        Some(self)
    }

    fn stats(&self) -> Option<&dyn StatsStore> {
        Some(&self.database)
    }

    fn diagnostics(&self) -> Option<&dyn Diagnostics> {
        Some(self)
    }
}

#[async_trait::async_trait]
impl DeleteExpired for Sqlite {
    async fn delete_expired(&self, limit: u32) -> session_store::Result<u64> {
        sql::delete_expired_values(&self.database).await?;
        sql::delete_old_stats(&self.database).await?;
        sqlx::query(
            "delete from tower_sessions where id in \
             (select id from tower_sessions where expiry_date <= ? limit ?)",
        )
        .bind(OffsetDateTime::now_utc())
        .bind(limit)
        .execute(self.pool())
        .await
        .map(|done| done.rows_affected())
        .map_err(backend)
    }
}

#[async_trait::async_trait]
impl Diagnostics for Sqlite {
    async fn check_writable(&self) -> session_store::Result<()> {
        sqlx::query("insert or replace into tower_sessions_probe (id, at) values (1, ?)")
            .bind(OffsetDateTime::now_utc())
            .execute(self.pool())
            .await
            .map(|_| ())
            .map_err(backend)
    }

    fn log_bytes(&self) -> Option<u64> {
        Some(housekeeping::size(&self.log))
    }

    fn has_table(&self) -> bool {
        true
    }
}
