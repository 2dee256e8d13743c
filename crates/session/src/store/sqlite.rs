//! A store in SQLite, the default. It is a file that survives restarts, and needs no database server.

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

/// How long an operation waits for a connection or a lock before it fails, and the request with status 503.
const TIMEOUT: Duration = Duration::from_secs(3);

/// tower-sessions' SQLite store, and its pool for conditional writes and the other tables.
#[derive(Debug)]
pub struct Sqlite {
    records: SqliteStore,
    database: Database<sqlx::Sqlite>,
    /// The path of the write-ahead log.
    wal: PathBuf,
}

/// Opens the file. Creates the file, its folder and its tables if they are missing.
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
        // With a write-ahead log, a power failure may lose the latest writes, but never damages the file.
        .synchronous(SqliteSynchronous::Normal)
        .pragma("journal_size_limit", housekeeping::WAL_LIMIT.to_string())
        // Lets housekeeping return the pages of deleted records step by step. It affects only new files.
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
    // Probes whether the file accepts writes. It is a table of its own, so that a probe touches no record.
    sqlx::query(
        "create table if not exists tower_sessions_probe (id integer primary key, at integer)",
    )
    .execute(&pool)
    .await?;
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    let wal = PathBuf::from(wal);
    tokio::spawn(housekeeping::run(pool.clone(), wal.clone()));
    let database = Database {
        connections: pool.into(),
        tables,
    };
    Ok(Sqlite {
        records,
        database,
        wal,
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
            // Another program has written a column of a wrong type.
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
            .map(|result| Swap::from(result.rows_affected() == 1))
            .map_err(backend)
    }

    async fn compare_and_delete(&self, old: &EncodedRecord) -> session_store::Result<bool> {
        sqlx::query("delete from tower_sessions where id = ? and data = ?")
            .bind(old.id.to_string())
            .bind(old.bytes()?)
            .execute(self.pool())
            .await
            .map(|result| result.rows_affected() == 1)
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

    /// The last connection writes the write-ahead log back into the file, so that a copy of the file alone is complete.
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
        .map(|result| result.rows_affected())
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
        Some(housekeeping::size(&self.wal))
    }

    fn has_table(&self) -> bool {
        true
    }
}
