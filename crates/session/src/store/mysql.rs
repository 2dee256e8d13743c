//! A store in MySQL or MariaDB, for sites that already run one. Several servers can share it.
//!
//! A save is a single statement, so it takes one round trip. There is no change feed, because neither database has
//! notifications.

mod deploy;

use sqlx::{ConnectOptions, MySqlPool, mysql::MySqlConnectOptions};
use time::{OffsetDateTime, PrimitiveDateTime, UtcOffset};
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store,
};

use super::{
    DeleteExpired, Diagnostics, EncodedRecord, Store, Swap, UserIndex, Values, decoded, encoded,
    index::{SessionIndex, StatsStore},
    sql::{self, Connections, Database, Dialect, Tables},
};

/// The error message for a read-only server, such as a replica.
const READ_ONLY: &str = "this MySQL is read-only; name the primary";

/// Runs on each new connection. The database then cancels a statement for which no request waits any longer. MySQL
/// skips the second setting as a comment, because it has no time limit for writes.
const SETUP: &str =
    "set session innodb_lock_wait_timeout = 1 /*M! , session max_statement_time = 1.5 */";

/// A store with a pool of connections.
#[derive(Debug)]
pub struct MySql {
    database: Database<sqlx::MySql>,
    statements: Statements,
}

/// The statements that requests run, built once.
#[derive(Debug)]
struct Statements {
    create: String,
    save: String,
    load: String,
    /// Selects a record even if it has expired.
    find: String,
    delete: String,
    compare_and_swap: String,
    compare_and_delete: String,
}

impl Statements {
    fn new(records: &str) -> Self {
        Self {
            create: format!("insert into {records} (id, data, expiry_date) values (?, ?, ?)"),
            save: format!(
                "insert into {records} (id, data, expiry_date) values (?, ?, ?) \
                 on duplicate key update data = values(data), expiry_date = values(expiry_date)"
            ),
            load: format!("select data from {records} where id = ? and expiry_date > ?"),
            find: format!("select data from {records} where id = ?"),
            delete: format!("delete from {records} where id = ?"),
            compare_and_swap: format!(
                "update {records} set data = ?, expiry_date = ? where id = ? and data = ?"
            ),
            compare_and_delete: format!("delete from {records} where id = ? and data = ?"),
        }
    }
}

/// Parses a URL.
///
/// # Errors
/// When it is not a URL of MySQL or MariaDB, or names no database.
pub fn options(url: &str) -> Result<MySqlConnectOptions, sqlx::Error> {
    let url = url.replacen("mariadb://", "mysql://", 1);
    let options: MySqlConnectOptions = url.parse()?;
    match options.get_database() {
        Some(_) => Ok(options),
        None => Err(sqlx::Error::Configuration(
            "the URL names no database".into(),
        )),
    }
}

/// The user, the server's address and the database, without the password.
pub fn describe(options: &MySqlConnectOptions) -> String {
    let place = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    let database = options.get_database().unwrap_or_default();
    format!("{}@{place}/{database}", options.get_username())
}

/// Converts a time for a `datetime` column, in UTC. sqlx would send a time with an offset as a `timestamp`, which ends
/// in 2038.
pub fn datetime(time: OffsetDateTime) -> PrimitiveDateTime {
    let time = time.to_offset(UtcOffset::UTC);
    PrimitiveDateTime::new(time.date(), time.time())
}

/// Opens the database and creates the tables that are missing.
///
/// # Errors
/// When the server does not respond or is read-only, or when tables are missing and can't be created.
pub async fn open(url: &str, table: &str, max_connections: u32) -> Result<MySql, sqlx::Error> {
    let options = options(url)?.disable_statement_logging();
    let tables = Tables::new(table, Dialect::MySql);
    let connections = Connections::<sqlx::MySql>::open(options, max_connections, SETUP).await?;
    // A number in MySQL, and a word in new releases of MariaDB.
    let read_only = sqlx::query_scalar::<_, String>("select cast(@@global.read_only as char)");
    let read_only = read_only.fetch_one(connections.pool()).await?;
    if !matches!(read_only.as_str(), "0" | "OFF") {
        return Err(sqlx::Error::Configuration(READ_ONLY.into()));
    }
    migrate(connections.pool(), &tables).await?;
    Ok(MySql {
        statements: Statements::new(&tables.records),
        database: Database {
            connections,
            tables,
        },
    })
}

/// Creates the tables that are missing. If all of them exist, the user needs no right to create tables.
async fn migrate(pool: &MySqlPool, tables: &Tables) -> Result<(), sqlx::Error> {
    if is_complete(pool, tables).await {
        return Ok(());
    }
    if let Some(schema) = tables.schema() {
        let statement = format!("create database if not exists {schema}");
        sqlx::query(&statement).execute(pool).await?;
    }
    for statement in tables.create_statements(Dialect::MySql) {
        sqlx::query(&statement).execute(pool).await?;
    }
    Ok(())
}

/// Whether all tables exist. Any error counts as a missing table: the statement that creates the table then fails, too,
/// and its error names the reason.
async fn is_complete(pool: &MySqlPool, tables: &Tables) -> bool {
    for table in tables.all() {
        let statement = format!("select 1 from {table} limit 1");
        if sqlx::query(&statement).fetch_optional(pool).await.is_err() {
            return false;
        }
    }
    true
}

impl MySql {
    fn pool(&self) -> &MySqlPool {
        self.database.pool()
    }

    /// Whether this data is stored under the id. A retry after a broken connection may find the record that its first
    /// attempt has created.
    async fn is_stored(&self, id: &Id, data: &[u8]) -> session_store::Result<bool> {
        let find = || {
            sqlx::query_scalar::<_, Vec<u8>>(&self.statements.find)
                .bind(id.to_string())
                .fetch_optional(self.pool())
        };
        let found = self.database.connections.run(find).await?;
        Ok(found.as_deref() == Some(data))
    }
}

#[async_trait::async_trait]
impl SessionStore for MySql {
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        loop {
            let data = encoded(record)?;
            let create = || async {
                let created = sqlx::query(&self.statements.create)
                    .bind(record.id.to_string())
                    .bind(&data)
                    .bind(datetime(record.expiry_date))
                    .execute(self.pool())
                    .await;
                match created {
                    Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(false),
                    created => created.map(|_| true),
                }
            };
            let is_created = self.database.connections.run(create).await?;
            if is_created || self.is_stored(&record.id, &data).await? {
                return Ok(());
            }
            record.id = Id::default();
        }
    }

    async fn save(&self, record: &Record) -> session_store::Result<()> {
        let data = encoded(record)?;
        let save = || {
            sqlx::query(&self.statements.save)
                .bind(record.id.to_string())
                .bind(&data)
                .bind(datetime(record.expiry_date))
                .execute(self.pool())
        };
        self.database.connections.run(save).await.map(|_| ())
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        let load = || {
            sqlx::query_scalar::<_, Vec<u8>>(&self.statements.load)
                .bind(id.to_string())
                .bind(datetime(OffsetDateTime::now_utc()))
                .fetch_optional(self.pool())
        };
        let found = self.database.connections.run(load).await?;
        found.map(|data| decoded(&data)).transpose()
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        let delete = || {
            sqlx::query(&self.statements.delete)
                .bind(id.to_string())
                .execute(self.pool())
        };
        self.database.connections.run(delete).await.map(|_| ())
    }
}

#[async_trait::async_trait]
impl Store for MySql {
    async fn compare_and_swap(
        &self,
        old: &EncodedRecord,
        new: &EncodedRecord,
    ) -> session_store::Result<Swap> {
        let (before, after) = (old.bytes()?, new.bytes()?);
        let swap = || {
            sqlx::query(&self.statements.compare_and_swap)
                .bind(after)
                .bind(datetime(new.expiry_date))
                .bind(old.id.to_string())
                .bind(before)
                .execute(self.pool())
        };
        let swapped = self.database.connections.run_once(swap).await?;
        Ok(Swap::from(swapped.rows_affected() == 1))
    }

    async fn compare_and_delete(&self, old: &EncodedRecord) -> session_store::Result<bool> {
        let before = old.bytes()?;
        let delete = || {
            sqlx::query(&self.statements.compare_and_delete)
                .bind(old.id.to_string())
                .bind(before)
                .execute(self.pool())
        };
        let deleted = self.database.connections.run_once(delete).await?;
        Ok(deleted.rows_affected() == 1)
    }

    fn delete_expired(&self) -> Option<&dyn DeleteExpired> {
        Some(self)
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

    fn stats(&self) -> Option<&dyn StatsStore> {
        Some(&self.database)
    }

    fn diagnostics(&self) -> Option<&dyn Diagnostics> {
        Some(self)
    }

    async fn close(&self) {
        self.pool().close().await;
    }
}

#[async_trait::async_trait]
impl DeleteExpired for MySql {
    /// Servers that delete at the same time lock the rows in the same order. So one waits for the other, and then finds
    /// the rows deleted.
    async fn delete_expired(&self, limit: u32) -> session_store::Result<u64> {
        sql::delete_expired_values(&self.database).await?;
        sql::delete_old_stats(&self.database).await?;
        let records = &self.database.tables.records;
        let statement =
            format!("delete from {records} where expiry_date <= ? order by expiry_date limit ?");
        let delete = || {
            sqlx::query(&statement)
                .bind(datetime(OffsetDateTime::now_utc()))
                .bind(limit)
                .execute(self.pool())
        };
        let deleted = self.database.connections.run(delete).await?;
        Ok(deleted.rows_affected())
    }
}
