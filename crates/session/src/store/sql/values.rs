//! Small values, in a table of their own.

use time::OffsetDateTime;
use tower_sessions::session_store;

use super::{Database, OnConflict, Sql, Statement};
use crate::{expiry::now, store::Values};

const COLUMNS: [&str; 3] = ["name", "value", "expires_at"];

/// Deletes all values that have expired. They are few, so one statement is enough.
///
/// # Errors
/// When the database fails.
pub async fn delete_expired(sql: &dyn Sql) -> session_store::Result<()> {
    let values = &sql.tables().values;
    let statement = Statement::new(format!("delete from {values} where expires_at <= ?"));
    sql.execute(&statement.bind(now())).await.map(|_| ())
}

#[async_trait::async_trait]
impl<D: sqlx::Database> Values for Database<D>
where
    Self: Sql,
{
    async fn value(&self, name: &str) -> session_store::Result<Option<String>> {
        let values = &self.tables().values;
        let statement = format!("select value from {values} where name = ? and expires_at > ?");
        let rows = self
            .fetch(&Statement::new(statement).bind(name).bind(now()))
            .await?;
        Ok(rows.first().map(|row| row.text(0)))
    }

    async fn set_value(
        &self,
        name: &str,
        value: &str,
        expires_at: OffsetDateTime,
    ) -> session_store::Result<()> {
        let values = &self.tables().values;
        let upsert = self
            .dialect()
            .upsert(values, &COLUMNS, 1, 1, OnConflict::Replace);
        let statement = Statement::new(upsert)
            .bind(name)
            .bind(value)
            .bind(expires_at.unix_timestamp());
        self.execute(&statement).await.map(|_| ())
    }

    /// Deletes the value only if it is still the one that was read, so that only one caller gets it.
    async fn take_value(&self, name: &str) -> session_store::Result<Option<String>> {
        let Some(value) = self.value(name).await? else {
            return Ok(None);
        };
        let values = &self.tables().values;
        let statement = format!("delete from {values} where name = ? and value = ?");
        let statement = Statement::new(statement).bind(name).bind(value.as_str());
        let is_taken = self.execute_once(&statement).await? == 1;
        Ok(is_taken.then_some(value))
    }
}
