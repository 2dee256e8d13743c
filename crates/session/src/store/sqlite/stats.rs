//! The statistics of all servers on this file.

use sqlx::{Error, SqliteConnection, SqlitePool};
use tower_sessions::session_store;

use super::{Sqlite, backend};
use crate::expiry::now;
use crate::store::{
    index::{History, StatsBatch, StatsStore},
    sql_stats::{self, CountRow, SketchRow},
};

#[async_trait::async_trait]
impl StatsStore for Sqlite {
    async fn record(&self, batch: &StatsBatch) -> session_store::Result<()> {
        self.add_batch(batch).await.map_err(backend)
    }

    async fn history(&self, now: i64, counters: &[&'static str]) -> session_store::Result<History> {
        let [minutes, hours, days] = sql_stats::oldest(now).map(|(_, number)| number);
        let shown = "where (step = 0 and number >= $1) or (step = 1 and number >= $2) \
                     or (step = 2 and number >= $3)";
        let counts = format!("select step, number, name, value from tower_sessions_counts {shown}");
        let sketches = format!("select step, number, sketch from tower_sessions_active {shown}");
        let counts = sqlx::query_as::<_, CountRow>(&counts)
            .bind(minutes)
            .bind(hours)
            .bind(days)
            .fetch_all(&self.pool)
            .await
            .map_err(backend)?;
        let sketches = sqlx::query_as::<_, SketchRow>(&sketches)
            .bind(minutes)
            .bind(hours)
            .bind(days)
            .fetch_all(&self.pool)
            .await
            .map_err(backend)?;
        Ok(sql_stats::history(now, counters, counts, &sketches))
    }

    /// The list is the table of records itself.
    async fn backfill(&self, _starts: bool) -> session_store::Result<bool> {
        Ok(true)
    }
}

impl Sqlite {
    async fn add_batch(&self, batch: &StatsBatch) -> Result<(), Error> {
        let mut transaction = self.pool.begin().await?;
        // It may have been added before, and the response was lost.
        if self.is_new(batch, &mut transaction).await? {
            self.add_counts(batch, &mut transaction).await?;
            self.add_sessions(batch, &mut transaction).await?;
        }
        transaction.commit().await
    }

    async fn is_new(&self, batch: &StatsBatch, on: &mut SqliteConnection) -> Result<bool, Error> {
        let noted = sqlx::query(
            "insert into tower_sessions_batches as kept (server, number, at) values ($1, $2, $3) \
             on conflict (server) do update set number = excluded.number, at = excluded.at \
             where kept.number < excluded.number",
        )
        .bind(batch.server.cast_signed())
        .bind(batch.number.cast_signed())
        .bind(batch.now)
        .execute(on)
        .await?;
        Ok(noted.rows_affected() == 1)
    }

    async fn add_counts(&self, batch: &StatsBatch, on: &mut SqliteConnection) -> Result<(), Error> {
        for (step, number, name, value) in sql_stats::added(batch) {
            sqlx::query(
                "insert into tower_sessions_counts as kept (step, number, name, value) \
                 values ($1, $2, $3, $4) \
                 on conflict (step, number, name) do update set value = kept.value + excluded.value",
            )
                .bind(step)
                .bind(number)
                .bind(name)
                .bind(value)
                .execute(&mut *on)
                .await?;
        }
        Ok(())
    }

    async fn add_sessions(
        &self,
        batch: &StatsBatch,
        on: &mut SqliteConnection,
    ) -> Result<(), Error> {
        let find = "select sketch from tower_sessions_active where step = $1 and number = $2";
        let keep = "insert into tower_sessions_active (step, number, sketch) values ($1, $2, $3) \
                    on conflict (step, number) do update set sketch = excluded.sketch";
        for (step, number) in sql_stats::sketches_of(batch) {
            let found = sqlx::query_scalar::<_, Vec<u8>>(find)
                .bind(step)
                .bind(number)
                .fetch_optional(&mut *on)
                .await?;
            sqlx::query(keep)
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
            for table in ["tower_sessions_counts", "tower_sessions_active"] {
                let statement = format!("delete from {table} where step = $1 and number < $2");
                let deleting = sqlx::query(&statement).bind(step).bind(oldest);
                deleting.execute(&self.pool).await.map_err(backend)?;
            }
        }
        sqlx::query("delete from tower_sessions_batches where at < $1")
            .bind(sql_stats::oldest_batch(now))
            .execute(&self.pool)
            .await
            .map(|_| ())
            .map_err(backend)
    }
}

/// Makes the tables where they are missing.
///
/// # Errors
/// When the file can't be written.
pub async fn migrate(pool: &SqlitePool) -> Result<(), Error> {
    for table in [
        "tower_sessions_counts (step integer, number integer, name text, value integer not null, \
         primary key (step, number, name))",
        "tower_sessions_active (step integer, number integer, sketch blob not null, \
         primary key (step, number))",
        "tower_sessions_batches (server integer primary key, number integer not null, \
         at integer not null)",
    ] {
        let statement = format!("create table if not exists {table}");
        sqlx::query(&statement).execute(pool).await?;
    }
    Ok(())
}
