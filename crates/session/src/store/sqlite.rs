//! SQLite: the embedded default. One file that survives restarts, no server to install.

mod housekeeping;
mod stats;
mod users;
mod values;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    Row,
    query::Query,
    sqlite::{
        SqliteArguments, SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePool,
        SqlitePoolOptions, SqliteRow, SqliteSynchronous,
    },
};
use time::OffsetDateTime;
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store,
};
use tower_sessions_sqlx_store::SqliteStore;

use super::{
    CLEAR_BATCH, DeleteExpired, Diagnostics, EncodedRecord, Store, Swap, UserIndex, Values,
    backend, decoded,
    index::{SessionIndex, SessionScan, StatsStore},
};

/// How long a request waits for a connection or a lock before it is answered 503.
const TIMEOUT: Duration = Duration::from_secs(3);

/// tower-sessions' SQLite store, and its pool for the conditional save.
#[derive(Debug)]
pub struct Sqlite {
    records: SqliteStore,
    pool: SqlitePool,
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
    // Expired records are found by their date, and the table of a busy site is long.
    sqlx::query("create index if not exists tower_sessions_expiry on tower_sessions (expiry_date)")
        .execute(&pool)
        .await?;
    // Written to see whether the file takes writes; no record may be in the way.
    sqlx::query(
        "create table if not exists tower_sessions_probe (id integer primary key, at integer)",
    )
    .execute(&pool)
    .await?;
    users::migrate(&pool).await?;
    values::migrate(&pool).await?;
    stats::migrate(&pool).await?;
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let store = Sqlite {
        records,
        pool,
        log: log.into(),
    };
    tokio::spawn(housekeeping::run(store.pool.clone(), store.log.clone()));
    Ok(store)
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
            .execute(&self.pool)
            .await
            .map(|done| Swap::from(done.rows_affected() == 1))
            .map_err(backend)
    }

    async fn compare_and_delete(&self, old: &EncodedRecord) -> session_store::Result<bool> {
        sqlx::query("delete from tower_sessions where id = ? and data = ?")
            .bind(old.id.to_string())
            .bind(old.bytes()?)
            .execute(&self.pool)
            .await
            .map(|done| done.rows_affected() == 1)
            .map_err(backend)
    }

    fn index(&self) -> Option<&dyn SessionIndex> {
        Some(self)
    }

    fn users(&self) -> Option<&dyn UserIndex> {
        Some(self)
    }

    fn values(&self) -> Option<&dyn Values> {
        Some(self)
    }

    /// Moves the write-ahead log into the file, so that the file alone can be copied.
    async fn close(&self) {
        self.pool.close().await;
    }

    fn delete_expired(&self) -> Option<&dyn DeleteExpired> {
        Some(self)
    }

    fn stats(&self) -> Option<&dyn StatsStore> {
        Some(self)
    }

    fn diagnostics(&self) -> Option<&dyn Diagnostics> {
        Some(self)
    }
}

#[async_trait::async_trait]
impl DeleteExpired for Sqlite {
    async fn delete_expired(&self, limit: u32) -> session_store::Result<u64> {
        self.delete_expired_values().await?;
        self.delete_old_stats().await?;
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
}

#[async_trait::async_trait]
impl Diagnostics for Sqlite {
    async fn check_writable(&self) -> session_store::Result<()> {
        sqlx::query("insert or replace into tower_sessions_probe (id, at) values (1, ?)")
            .bind(OffsetDateTime::now_utc())
            .execute(&self.pool)
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

impl Sqlite {
    /// The records of these rows; one that can't be read hides no other.
    async fn records_of<'q>(
        &self,
        query: Query<'q, sqlx::Sqlite, SqliteArguments<'q>>,
    ) -> session_store::Result<Vec<Record>> {
        let rows = query.fetch_all(&self.pool).await.map_err(backend)?;
        let record = |row: &SqliteRow| decoded(&row.try_get::<Vec<u8>, _>("data").ok()?).ok();
        Ok(rows.iter().filter_map(record).collect())
    }
}

#[async_trait::async_trait]
impl SessionIndex for Sqlite {
    async fn count(&self) -> session_store::Result<u64> {
        // Answered by the index alone.
        let count = sqlx::query_scalar::<_, i64>(
            "select count(*) from tower_sessions where expiry_date > ?",
        )
        .bind(OffsetDateTime::now_utc())
        .fetch_one(&self.pool)
        .await
        .map_err(backend)?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    async fn page(&self, skip: u64, take: u32) -> session_store::Result<Vec<Record>> {
        // The rows that are skipped are counted in the index alone.
        let query = sqlx::query(
            "select data from tower_sessions where rowid in \
             (select rowid from tower_sessions where expiry_date > ? order by expiry_date desc \
             limit ? offset ?) \
             order by expiry_date desc",
        )
        .bind(OffsetDateTime::now_utc())
        .bind(take)
        .bind(i64::try_from(skip).unwrap_or(i64::MAX));
        self.records_of(query).await
    }

    async fn search(&self, beginning: &str, take: u32) -> session_store::Result<Vec<Record>> {
        let query = sqlx::query(
            "select data from tower_sessions where id >= ? and id < ? and expiry_date > ? limit ?",
        )
        .bind(beginning)
        // No character of an id comes after this one.
        .bind(format!("{beginning}~"))
        .bind(OffsetDateTime::now_utc())
        .bind(take);
        self.records_of(query).await
    }

    async fn scan(&self) -> session_store::Result<Box<dyn SessionScan + '_>> {
        Ok(Box::new(Scan {
            store: self,
            after: String::new(),
        }))
    }
}

/// The sessions after this id are left to see.
struct Scan<'a> {
    store: &'a Sqlite,
    after: String,
}

#[async_trait::async_trait]
impl SessionScan for Scan<'_> {
    async fn next(&mut self) -> session_store::Result<Option<Vec<Record>>> {
        let rows = sqlx::query_as::<_, (String, Vec<u8>)>(
            "select id, data from tower_sessions where id > ? order by id limit ?",
        )
        .bind(&self.after)
        .bind(CLEAR_BATCH)
        .fetch_all(&self.store.pool)
        .await
        .map_err(backend)?;
        let Some((last, _)) = rows.last() else {
            return Ok(None);
        };
        self.after.clone_from(last);
        // One that can't be read hides no other.
        let records = rows.iter().filter_map(|(_, data)| decoded(data).ok());
        Ok(Some(records.collect()))
    }
}
