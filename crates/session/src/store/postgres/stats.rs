//! The statistics of all servers. One server at a time adds to them, once a second.

use sqlx::{Error, PgConnection};
use tower_sessions::session_store;

use super::Postgres;
use crate::expiry::now;
use crate::store::{
    index::{History, StatsBatch, StatsStore},
    sql_stats::{self, CountRow, SketchRow},
};

#[async_trait::async_trait]
impl StatsStore for Postgres {
    async fn record(&self, batch: &StatsBatch) -> session_store::Result<()> {
        self.connections.run(|| self.add_batch(batch)).await
    }

    async fn history(&self, now: i64, counters: &[&'static str]) -> session_store::Result<History> {
        let [minutes, hours, days] = sql_stats::oldest(now).map(|(_, number)| number);
        let shown = "where (step = 0 and number >= $1) or (step = 1 and number >= $2) \
                     or (step = 2 and number >= $3)";
        let (counts, active) = (&self.tables.counts, &self.tables.active);
        let counts = format!("select step, number, name, value from {counts} {shown}");
        let sketches = format!("select step, number, sketch from {active} {shown}");
        let counts = || {
            sqlx::query_as::<_, CountRow>(&counts)
                .bind(minutes)
                .bind(hours)
                .bind(days)
                .fetch_all(self.pool())
        };
        let sketches = || {
            sqlx::query_as::<_, SketchRow>(&sketches)
                .bind(minutes)
                .bind(hours)
                .bind(days)
                .fetch_all(self.pool())
        };
        let counts = self.connections.run(counts).await?;
        let sketches = self.connections.run(sketches).await?;
        Ok(sql_stats::history(now, counters, counts, &sketches))
    }

    /// The list is the table of records itself.
    async fn backfill(&self, _starts: bool) -> session_store::Result<bool> {
        Ok(true)
    }
}

impl Postgres {
    async fn add_batch(&self, batch: &StatsBatch) -> Result<(), Error> {
        let mut transaction = self.pool().begin().await?;
        sqlx::query("select pg_advisory_xact_lock(hashtext($1))")
            .bind(&self.tables.counts)
            .execute(&mut *transaction)
            .await?;
        // The first try may have been committed before its connection broke.
        if self.is_new(batch, &mut transaction).await? {
            self.add_counts(batch, &mut transaction).await?;
            self.add_sessions(batch, &mut transaction).await?;
        }
        transaction.commit().await
    }

    async fn is_new(&self, batch: &StatsBatch, on: &mut PgConnection) -> Result<bool, Error> {
        let statement = format!(
            "insert into {} as kept (server, number, at) values ($1, $2, $3) \
             on conflict (server) do update set number = excluded.number, at = excluded.at \
             where kept.number < excluded.number",
            self.tables.batches
        );
        let noted = sqlx::query(&statement)
            .bind(batch.server.cast_signed())
            .bind(batch.number.cast_signed())
            .bind(batch.now)
            .execute(on)
            .await?;
        Ok(noted.rows_affected() == 1)
    }

    async fn add_counts(&self, batch: &StatsBatch, on: &mut PgConnection) -> Result<(), Error> {
        let statement = format!(
            "insert into {} as kept (step, number, name, value) values ($1, $2, $3, $4) \
             on conflict (step, number, name) do update set value = kept.value + excluded.value",
            self.tables.counts
        );
        for (step, number, name, value) in sql_stats::added(batch) {
            sqlx::query(&statement)
                .bind(step)
                .bind(number)
                .bind(name)
                .bind(value)
                .execute(&mut *on)
                .await?;
        }
        Ok(())
    }

    async fn add_sessions(&self, batch: &StatsBatch, on: &mut PgConnection) -> Result<(), Error> {
        let active = &self.tables.active;
        let find = format!("select sketch from {active} where step = $1 and number = $2");
        let keep = format!(
            "insert into {active} (step, number, sketch) values ($1, $2, $3) \
             on conflict (step, number) do update set sketch = excluded.sketch"
        );
        for (step, number) in sql_stats::sketches_of(batch) {
            let found = sqlx::query_scalar::<_, Vec<u8>>(&find)
                .bind(step)
                .bind(number)
                .fetch_optional(&mut *on)
                .await?;
            sqlx::query(&keep)
                .bind(step)
                .bind(number)
                .bind(sql_stats::sketch_with(found.as_deref(), &batch.seen))
                .execute(&mut *on)
                .await?;
        }
        Ok(())
    }

    /// Removes what charts no longer show.
    pub(super) async fn delete_old_stats(&self) -> session_store::Result<()> {
        let now = now();
        for (step, oldest) in sql_stats::oldest(now) {
            for table in [&self.tables.counts, &self.tables.active] {
                let statement = format!("delete from {table} where step = $1 and number < $2");
                let deleting = || {
                    sqlx::query(&statement)
                        .bind(step)
                        .bind(oldest)
                        .execute(self.pool())
                };
                self.connections.run(deleting).await?;
            }
        }
        let statement = format!("delete from {} where at < $1", self.tables.batches);
        let deleting = || {
            sqlx::query(&statement)
                .bind(sql_stats::oldest_batch(now))
                .execute(self.pool())
        };
        self.connections.run(deleting).await.map(|_| ())
    }
}
