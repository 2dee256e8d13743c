//! The list of sessions. Short ids begin ids, which the primary key has in order; ends are in an index.

use time::OffsetDateTime;
use tower_sessions::{session::Record, session_store};

use super::Postgres;
use crate::store::{
    CLEAR_BATCH, decoded,
    index::{SessionIndex, SessionScan},
};

/// The records of these rows; one that can't be read hides no other.
fn records(rows: &[Vec<u8>]) -> Vec<Record> {
    rows.iter().filter_map(|data| decoded(data).ok()).collect()
}

#[async_trait::async_trait]
impl SessionIndex for Postgres {
    async fn count(&self) -> session_store::Result<u64> {
        let statement = format!(
            "select count(*) from {} where expiry_date > $1",
            self.tables.records
        );
        let counting = || {
            sqlx::query_scalar::<_, i64>(&statement)
                .bind(OffsetDateTime::now_utc())
                .fetch_one(self.pool())
        };
        let count = self.connections.run(counting).await?;
        Ok(count.cast_unsigned())
    }

    async fn page(&self, skip: u64, take: u32) -> session_store::Result<Vec<Record>> {
        let statement = format!(
            "select data from {} where expiry_date > $1 order by expiry_date desc \
             limit $2 offset $3",
            self.tables.records
        );
        let listing = || {
            sqlx::query_scalar(&statement)
                .bind(OffsetDateTime::now_utc())
                .bind(i64::from(take))
                .bind(i64::try_from(skip).unwrap_or(i64::MAX))
                .fetch_all(self.pool())
        };
        Ok(records(&self.connections.run(listing).await?))
    }

    async fn search(&self, beginning: &str, take: u32) -> session_store::Result<Vec<Record>> {
        let statement = format!(
            "select data from {} where id >= $1 and id < $2 and expiry_date > $3 limit $4",
            self.tables.records
        );
        let searching = || {
            sqlx::query_scalar(&statement)
                .bind(beginning)
                // No character of an id comes after this one.
                .bind(format!("{beginning}~"))
                .bind(OffsetDateTime::now_utc())
                .bind(i64::from(take))
                .fetch_all(self.pool())
        };
        Ok(records(&self.connections.run(searching).await?))
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
    store: &'a Postgres,
    after: String,
}

#[async_trait::async_trait]
impl SessionScan for Scan<'_> {
    async fn next(&mut self) -> session_store::Result<Option<Vec<Record>>> {
        let statement = format!(
            "select id, data from {} where id > $1 order by id limit $2",
            self.store.tables.records
        );
        let stepping = || {
            sqlx::query_as::<_, (String, Vec<u8>)>(&statement)
                .bind(&self.after)
                .bind(i64::from(CLEAR_BATCH))
                .fetch_all(self.store.pool())
        };
        let rows = self.store.connections.run(stepping).await?;
        let Some((last, _)) = rows.last() else {
            return Ok(None);
        };
        self.after.clone_from(last);
        let data: Vec<Vec<u8>> = rows.into_iter().map(|(_, data)| data).collect();
        Ok(Some(records(&data)))
    }
}
