//! MySQL and MariaDB: for sites that run one already. Any number of servers share it.
//!
//! A save is one statement and one round trip. Neither can notify other servers of a change.

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

/// Why a replica is refused.
const READ_ONLY: &str = "this MySQL is read-only; name the primary";

/// The time limits of a statement, on the server: nobody waits for it any longer. MariaDB alone limits writes.
const SETUP: &str =
    "set session innodb_lock_wait_timeout = 2 /*M! , session max_statement_time = 2 */";

/// A pool of connections.
#[derive(Debug)]
pub struct MySql {
    database: Database<sqlx::MySql>,
    statements: Statements,
}

/// The statements of a request, made once.
#[derive(Debug)]
struct Statements {
    create: String,
    save: String,
    load: String,
    /// The data of a record, expired or not.
    find: String,
    delete: String,
    swap: String,
    delete_same: String,
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
            swap: format!(
                "update {records} set data = ?, expiry_date = ? where id = ? and data = ?"
            ),
            delete_same: format!("delete from {records} where id = ? and data = ?"),
        }
    }
}

/// Reads the URL.
///
/// # Errors
/// When it is no URL of a MySQL with a database.
pub fn options(url: &str) -> Result<MySqlConnectOptions, sqlx::Error> {
    let url = url.replacen("mariadb://", "mysql://", 1);
    let options: MySqlConnectOptions = url.parse()?;
    match options.get_database() {
        Some(_) => Ok(options),
        None => Err(sqlx::Error::Configuration("no database is named".into())),
    }
}

/// Where the server is, and which database of it, without the password.
pub fn describe(options: &MySqlConnectOptions) -> String {
    let place = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    let database = options.get_database().unwrap_or_default();
    format!("{}@{place}/{database}", options.get_username())
}

/// A time as the column of expiry dates takes it. sqlx sends a time with an offset as a timestamp, which ends in 2038.
pub fn datetime(time: OffsetDateTime) -> PrimitiveDateTime {
    let time = time.to_offset(UtcOffset::UTC);
    PrimitiveDateTime::new(time.date(), time.time())
}

/// Opens the database and creates the tables that are missing.
///
/// # Errors
/// When the server does not respond or is read-only, or when tables are missing and can't be created.
pub async fn open(url: &str, table: &str, most: u32) -> Result<MySql, sqlx::Error> {
    let options = options(url)?.disable_statement_logging();
    let tables = Tables::new(table, Dialect::MySql);
    let connections = Connections::<sqlx::MySql>::open(options, most, SETUP).await?;
    let is_read_only = sqlx::query_scalar::<_, i64>("select @@global.read_only");
    if is_read_only.fetch_one(connections.pool()).await? != 0 {
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

/// Creates the tables that are missing. A user without the right to create tables needs none where all of them exist.
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

/// Whether all tables exist. Statements that create them would name the right that is missing.
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

    /// Whether the stored record is this one: a second try after a broken connection finds its own.
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
            sqlx::query(&self.statements.swap)
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
            sqlx::query(&self.statements.delete_same)
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
    /// Two servers at once take the rows in the same order, so one waits for the other and finds them gone.
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
