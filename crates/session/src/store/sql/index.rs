//! The index of sessions. The primary key orders them by id, so the ids that begin with a short id are a range. Another
//! index orders them by expiry.

use time::OffsetDateTime;
use tower_sessions::{session::Record, session_store};

use super::{Database, Row, Sql, Statement};
use crate::store::{
    CLEAR_BATCH, decoded,
    index::{SessionIndex, SessionScan},
};

/// The records in a column of the rows. A record that can't be decoded is skipped.
fn records(rows: &[Row], column: usize) -> Vec<Record> {
    let record = |row: &Row| decoded(row.bytes(column)).ok();
    rows.iter().filter_map(record).collect()
}

#[async_trait::async_trait]
impl<D: sqlx::Database> SessionIndex for Database<D>
where
    Self: Sql,
{
    async fn count(&self) -> session_store::Result<u64> {
        // This reads only the index by expiry.
        let records = &self.tables().records;
        let statement = format!("select count(*) from {records} where expiry_date > ?");
        let statement = Statement::new(statement).bind(OffsetDateTime::now_utc());
        let rows = self.fetch(&statement).await?;
        Ok(rows.first().map_or(0, |row| row.integer(0).cast_unsigned()))
    }

    async fn page(&self, skip: u64, take: u32) -> session_store::Result<Vec<Record>> {
        // This skips rows in the index, before it reads their data. Many sessions expire in the same second.
        let (table, key) = (&self.tables().records, self.dialect().row_key());
        let statement = format!(
            "select kept.data from (select {key} as place from {table} where expiry_date > ? \
             order by expiry_date desc, {key} desc limit ? offset ?) shown \
             join {table} kept on kept.{key} = shown.place \
             order by kept.expiry_date desc, kept.{key} desc"
        );
        let statement = Statement::new(statement)
            .bind(OffsetDateTime::now_utc())
            .bind(i64::from(take))
            .bind(i64::try_from(skip).unwrap_or(i64::MAX));
        Ok(records(&self.fetch(&statement).await?, 0))
    }

    async fn search(&self, beginning: &str, take: u32) -> session_store::Result<Vec<Record>> {
        let table = &self.tables().records;
        let statement = format!(
            "select data from {table} where id >= ? and id < ? and expiry_date > ? limit ?"
        );
        let statement = Statement::new(statement)
            .bind(beginning)
            // A tilde sorts after every character of an id.
            .bind(format!("{beginning}~"))
            .bind(OffsetDateTime::now_utc())
            .bind(i64::from(take));
        Ok(records(&self.fetch(&statement).await?, 0))
    }

    async fn scan(&self) -> session_store::Result<Box<dyn SessionScan + '_>> {
        Ok(Box::new(Scan {
            sql: self,
            after: String::new(),
        }))
    }
}

/// A scan in the order of ids.
struct Scan<'a> {
    sql: &'a dyn Sql,
    /// The last id that the scan has returned.
    after: String,
}

#[async_trait::async_trait]
impl SessionScan for Scan<'_> {
    async fn next(&mut self) -> session_store::Result<Option<Vec<Record>>> {
        let table = &self.sql.tables().records;
        let statement = format!("select id, data from {table} where id > ? order by id limit ?");
        let statement = Statement::new(statement)
            .bind(self.after.as_str())
            .bind(i64::from(CLEAR_BATCH));
        let rows = self.sql.fetch(&statement).await?;
        let Some(last) = rows.last() else {
            return Ok(None);
        };
        self.after = last.text(0);
        Ok(Some(records(&rows, 1)))
    }
}
