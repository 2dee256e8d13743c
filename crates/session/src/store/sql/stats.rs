//! The statistics of all servers. Each server adds a batch up to once a second. A lock lets only one server at a time
//! add its batch.

use sqlx::Error;
use tower_sessions::session_store;

use super::{
    Connection, Database, Dialect, OnConflict, Row, Sql, Statement, Tables, Transaction,
    buckets::{self, CountRow, SketchRow},
};
use crate::expiry::now;
use crate::store::index::{History, StatsBatch, StatsStore};

/// The row in the table of batches that a server locks while it adds a batch. No server has this number.
const LOCK: i64 = 0;

#[async_trait::async_trait]
impl<D: sqlx::Database> StatsStore for Database<D>
where
    Self: Sql,
{
    async fn record(&self, batch: &StatsBatch) -> session_store::Result<()> {
        let (dialect, tables) = (self.dialect(), self.tables());
        let adding = AddBatch {
            dialect,
            tables,
            batch,
        };
        self.transaction(&adding).await
    }

    async fn history(&self, now: i64, counters: &[&'static str]) -> session_store::Result<History> {
        let Tables { counts, active, .. } = self.tables();
        let counts = select_recent(
            format!("select step, number, name, value from {counts}"),
            now,
        );
        let sketches = select_recent(format!("select step, number, sketch from {active}"), now);
        let counts = self.fetch(&counts).await?;
        let sketches = self.fetch(&sketches).await?;
        let counts = counts.iter().map(count_row).collect();
        let sketches: Vec<SketchRow> = sketches.iter().map(sketch_row).collect();
        Ok(buckets::history(now, counters, counts, &sketches))
    }

    /// Does nothing, because the index of sessions is the table of records itself.
    async fn backfill(&self, _starts: bool) -> session_store::Result<bool> {
        Ok(true)
    }
}

/// Selects the rows of the buckets that charts show.
fn select_recent(select: String, now: i64) -> Statement {
    let oldest = buckets::oldest(now);
    let each = vec!["(step = ? and number >= ?)"; oldest.len()].join(" or ");
    let bind = |statement: Statement, (step, number): (i16, i64)| {
        statement.bind(i64::from(step)).bind(number)
    };
    let statement = Statement::new(format!("{select} where {each}"));
    oldest.into_iter().fold(statement, bind)
}

fn count_row(row: &Row) -> CountRow {
    (step(row), row.integer(1), row.text(2), row.integer(3))
}

fn sketch_row(row: &Row) -> SketchRow {
    (step(row), row.integer(1), row.bytes(2).to_vec())
}

fn step(row: &Row) -> i16 {
    i16::try_from(row.integer(0)).unwrap_or(-1)
}

/// Adds a batch, unless it has been added before: an attempt whose connection broke may have been committed.
struct AddBatch<'a> {
    dialect: Dialect,
    tables: &'a Tables,
    batch: &'a StatsBatch,
}

#[async_trait::async_trait]
impl Transaction for AddBatch<'_> {
    async fn run(&self, connection: &mut dyn Connection) -> Result<(), Error> {
        self.set_last_batch(LOCK, 0, connection).await?;
        if self.is_new(connection).await? {
            self.add_counts(connection).await?;
            self.add_sessions(connection).await?;
        }
        Ok(())
    }
}

impl AddBatch<'_> {
    async fn is_new(&self, connection: &mut dyn Connection) -> Result<bool, Error> {
        let (server, number) = (self.batch.server.cast_signed(), self.batch.number);
        let batches = &self.tables.batches;
        let last = Statement::new(format!("select number from {batches} where server = ?"));
        let last = connection.fetch(&last.bind(server)).await?;
        let number = number.cast_signed();
        if last.first().is_some_and(|last| last.integer(0) >= number) {
            return Ok(false);
        }
        self.set_last_batch(server, number, connection).await?;
        Ok(true)
    }

    async fn set_last_batch(
        &self,
        server: i64,
        number: i64,
        connection: &mut dyn Connection,
    ) -> Result<(), Error> {
        let columns = ["server", "number", "at"];
        let table = &self.tables.batches;
        let upsert = self
            .dialect
            .upsert(table, &columns, 1, 1, OnConflict::Replace);
        let statement = Statement::new(upsert)
            .bind(server)
            .bind(number)
            .bind(self.batch.now);
        connection.execute(&statement).await.map(|_| ())
    }

    async fn add_counts(&self, connection: &mut dyn Connection) -> Result<(), Error> {
        let rows = buckets::count_rows(self.batch);
        if rows.is_empty() {
            return Ok(());
        }
        let columns = ["step", "number", "name", "value"];
        let table = &self.tables.counts;
        let upsert = self
            .dialect
            .upsert(table, &columns, 3, rows.len(), OnConflict::Add);
        let bind = |statement: Statement, (step, number, name, value): CountRow| {
            let statement = statement.bind(i64::from(step)).bind(number);
            statement.bind(name).bind(value)
        };
        let statement = rows.into_iter().fold(Statement::new(upsert), bind);
        connection.execute(&statement).await.map(|_| ())
    }

    async fn add_sessions(&self, connection: &mut dyn Connection) -> Result<(), Error> {
        let active = &self.tables.active;
        let find = format!("select sketch from {active} where step = ? and number = ?");
        let columns = ["step", "number", "sketch"];
        let upsert = self
            .dialect
            .upsert(active, &columns, 2, 1, OnConflict::Replace);
        for (step, number) in buckets::sketch_keys(self.batch) {
            let step = i64::from(step);
            let find = Statement::new(find.clone()).bind(step).bind(number);
            let found = connection.fetch(&find).await?;
            let found = found.first().map(|row| row.bytes(0));
            let sketch = buckets::add_to_sketch(found, &self.batch.seen);
            let upsert = Statement::new(upsert.clone()).bind(step).bind(number);
            connection.execute(&upsert.bind(sketch)).await?;
        }
        Ok(())
    }
}

/// Deletes the statistics that charts no longer show.
///
/// # Errors
/// When the database fails.
pub async fn delete_old(sql: &dyn Sql) -> session_store::Result<()> {
    let now = now();
    let tables = sql.tables();
    for (step, oldest) in buckets::oldest(now) {
        for table in [&tables.counts, &tables.active] {
            let statement = format!("delete from {table} where step = ? and number < ?");
            let statement = Statement::new(statement).bind(i64::from(step)).bind(oldest);
            sql.execute(&statement).await?;
        }
    }
    let batches = &tables.batches;
    let statement = Statement::new(format!("delete from {batches} where at < ?"));
    let statement = statement.bind(buckets::oldest_batch(now));
    sql.execute(&statement).await.map(|_| ())
}
