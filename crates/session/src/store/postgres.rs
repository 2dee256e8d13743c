//! A store in PostgreSQL, for sites that already run one. Several servers can share it.
//!
//! A save is a single statement, so it takes one round trip. `NOTIFY` then notifies other servers, and no request waits
//! for it.

mod change_feed;
mod deploy;
mod schema;

use sqlx::{
    ConnectOptions,
    postgres::{PgConnectOptions, PgPool},
};
use time::OffsetDateTime;
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store,
};

use super::{
    ChangeFeed, DeleteExpired, Diagnostics, EncodedRecord, Store, Swap, UserIndex, Values, decoded,
    encoded,
    index::{SessionIndex, StatsStore},
    sql::{self, Connections, Database, Dialect, Tables},
};
use change_feed::Feed;

/// The error message for a standby, which accepts neither writes nor notifications.
const STANDBY: &str = "this PostgreSQL is a read-only standby; name the primary";

/// Runs on each new connection. PostgreSQL then cancels a statement for which no request waits any longer.
const SETUP: &str = "set statement_timeout = 1500";

/// A store with a pool of connections, and a connection that listens for notifications.
#[derive(Debug)]
pub struct Postgres {
    database: Database<sqlx::Postgres>,
    statements: Statements,
    feed: Feed,
}

/// The statements that requests run, built once.
#[derive(Debug)]
struct Statements {
    create: String,
    save: String,
    load: String,
    delete: String,
    compare_and_swap: String,
    compare_and_delete: String,
}

impl Statements {
    fn new(records: &str) -> Self {
        Self {
            // A retry after a broken connection succeeds if it finds its own record.
            create: format!(
                "insert into {records} as kept (id, data, expiry_date) values ($1, $2, $3) \
                 on conflict (id) do update set expiry_date = excluded.expiry_date \
                 where kept.data = excluded.data"
            ),
            save: format!(
                "insert into {records} (id, data, expiry_date) values ($1, $2, $3) \
                 on conflict (id) do update set data = excluded.data, \
                 expiry_date = excluded.expiry_date"
            ),
            load: format!("select data from {records} where id = $1 and expiry_date > $2"),
            delete: format!("delete from {records} where id = $1"),
            compare_and_swap: format!(
                "update {records} set data = $3, expiry_date = $4 where id = $1 and data = $2"
            ),
            compare_and_delete: format!("delete from {records} where id = $1 and data = $2"),
        }
    }
}

/// Parses a URL in the format of libpq.
///
/// # Errors
/// When it is not a URL of PostgreSQL.
pub fn options(url: &str) -> Result<PgConnectOptions, sqlx::Error> {
    url.parse()
}

/// The user, the server's address and the database, without the password.
pub fn describe(options: &PgConnectOptions) -> String {
    let place = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    let user = options.get_username();
    format!("{user}@{place}/{}", options.get_database().unwrap_or(user))
}

/// Opens the database and creates the tables that are missing.
///
/// # Errors
/// When the server does not respond or is a standby, when tables are missing and can't be created, or when a pooler
/// does not pass on notifications.
pub async fn open(url: &str, table: &str, max_connections: u32) -> Result<Postgres, sqlx::Error> {
    // Poolers refuse a connection that sets this parameter at its start. The tables have no floats.
    let options = options(url)?
        .disable_statement_logging()
        .extra_float_digits(None);
    let tables = Tables::new(table, Dialect::Postgres);
    let connections =
        Connections::<sqlx::Postgres>::open(options.clone(), max_connections, SETUP).await?;
    let is_standby = sqlx::query_scalar("select pg_is_in_recovery()");
    if is_standby.fetch_one(connections.pool()).await? {
        return Err(sqlx::Error::Configuration(STANDBY.into()));
    }
    schema::migrate(connections.pool(), &tables).await?;
    let feed = Feed::open(
        options,
        connections.pool().clone(),
        schema::channel(&tables),
    )
    .await?;
    Ok(Postgres {
        statements: Statements::new(&tables.records),
        database: Database {
            connections,
            tables,
        },
        feed,
    })
}

impl Postgres {
    fn pool(&self) -> &PgPool {
        self.database.pool()
    }
}

#[async_trait::async_trait]
impl SessionStore for Postgres {
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        loop {
            let data = encoded(record)?;
            let created = self
                .database
                .connections
                .run(|| {
                    sqlx::query(&self.statements.create)
                        .bind(record.id.to_string())
                        .bind(&data)
                        .bind(record.expiry_date)
                        .execute(self.pool())
                })
                .await?;
            if created.rows_affected() == 1 {
                return Ok(());
            }
            record.id = Id::default();
        }
    }

    async fn save(&self, record: &Record) -> session_store::Result<()> {
        let data = encoded(record)?;
        self.database
            .connections
            .run(|| {
                sqlx::query(&self.statements.save)
                    .bind(record.id.to_string())
                    .bind(&data)
                    .bind(record.expiry_date)
                    .execute(self.pool())
            })
            .await?;
        self.feed.notify(record.id);
        Ok(())
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        let found = self
            .database
            .connections
            .run(|| {
                sqlx::query_scalar::<_, Vec<u8>>(&self.statements.load)
                    .bind(id.to_string())
                    .bind(OffsetDateTime::now_utc())
                    .fetch_optional(self.pool())
            })
            .await?;
        found.map(|data| decoded(&data)).transpose()
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        self.database
            .connections
            .run(|| {
                sqlx::query(&self.statements.delete)
                    .bind(id.to_string())
                    .execute(self.pool())
            })
            .await?;
        self.feed.notify(*id);
        Ok(())
    }
}

#[async_trait::async_trait]
impl Store for Postgres {
    async fn compare_and_swap(
        &self,
        old: &EncodedRecord,
        new: &EncodedRecord,
    ) -> session_store::Result<Swap> {
        let (before, after) = (old.bytes()?, new.bytes()?);
        let swapped = self
            .database
            .connections
            .run_once(|| {
                sqlx::query(&self.statements.compare_and_swap)
                    .bind(old.id.to_string())
                    .bind(before)
                    .bind(after)
                    .bind(new.expiry_date)
                    .execute(self.pool())
            })
            .await;
        // A swap whose connection broke may have been committed.
        let is_conflict = matches!(&swapped, Ok(done) if done.rows_affected() == 0);
        if !is_conflict {
            self.feed.notify(old.id);
        }
        swapped.map(|_| Swap::from(!is_conflict))
    }

    async fn compare_and_delete(&self, old: &EncodedRecord) -> session_store::Result<bool> {
        let before = old.bytes()?;
        let deleted = self
            .database
            .connections
            .run_once(|| {
                sqlx::query(&self.statements.compare_and_delete)
                    .bind(old.id.to_string())
                    .bind(before)
                    .execute(self.pool())
            })
            .await;
        let is_conflict = matches!(&deleted, Ok(done) if done.rows_affected() == 0);
        if !is_conflict {
            self.feed.notify(old.id);
        }
        deleted.map(|_| !is_conflict)
    }

    fn delete_expired(&self) -> Option<&dyn DeleteExpired> {
        Some(self)
    }

    fn change_feed(&self) -> Option<&dyn ChangeFeed> {
        Some(&self.feed)
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
        self.feed.close().await;
        self.pool().close().await;
    }
}

#[async_trait::async_trait]
impl DeleteExpired for Postgres {
    /// A lock lets only one server at a time delete records. A server that does not get the lock deletes none.
    async fn delete_expired(&self, limit: u32) -> session_store::Result<u64> {
        sql::delete_expired_values(&self.database).await?;
        sql::delete_old_stats(&self.database).await?;
        let records = &self.database.tables.records;
        let statement = format!(
            "with leader as materialized (select pg_try_advisory_xact_lock(hashtext($1)) as leads) \
             delete from {records} where id in (\
             select id from {records}, leader where leads and expiry_date <= $2 \
             order by expiry_date limit $3)"
        );
        let deleted = self
            .database
            .connections
            .run(|| {
                sqlx::query(&statement)
                    .bind(records)
                    .bind(OffsetDateTime::now_utc())
                    .bind(i64::from(limit))
                    .execute(self.pool())
            })
            .await?;
        Ok(deleted.rows_affected())
    }
}
