//! Small values beside the sessions, in a table of their own.

use sqlx::SqlitePool;
use time::OffsetDateTime;
use tower_sessions::session_store;

use super::{Sqlite, backend};
use crate::{expiry::now, store::Values};

/// Makes the table where it is missing.
///
/// # Errors
/// When the file can't be written.
pub async fn migrate(pool: &SqlitePool) -> Result<(), sqlx::Error> {
    sqlx::query(
        "create table if not exists tower_sessions_values (\
         name text primary key not null, value text not null, expires_at integer not null)",
    )
    .execute(pool)
    .await
    .map(|_| ())
}

impl Sqlite {
    /// Removes the values that have expired, which are few.
    pub(super) async fn delete_expired_values(&self) -> session_store::Result<()> {
        sqlx::query("delete from tower_sessions_values where expires_at <= ?")
            .bind(now())
            .execute(&self.pool)
            .await
            .map(|_| ())
            .map_err(backend)
    }
}

#[async_trait::async_trait]
impl Values for Sqlite {
    async fn value(&self, name: &str) -> session_store::Result<Option<String>> {
        sqlx::query_scalar(
            "select value from tower_sessions_values where name = ? and expires_at > ?",
        )
        .bind(name)
        .bind(now())
        .fetch_optional(&self.pool)
        .await
        .map_err(backend)
    }

    async fn set_value(
        &self,
        name: &str,
        value: &str,
        expires_at: OffsetDateTime,
    ) -> session_store::Result<()> {
        sqlx::query(
            "insert or replace into tower_sessions_values (name, value, expires_at) \
             values (?, ?, ?)",
        )
        .bind(name)
        .bind(value)
        .bind(expires_at.unix_timestamp())
        .execute(&self.pool)
        .await
        .map(|_| ())
        .map_err(backend)
    }

    async fn take_value(&self, name: &str) -> session_store::Result<Option<String>> {
        sqlx::query_scalar(
            "delete from tower_sessions_values where name = ? and expires_at > ? returning value",
        )
        .bind(name)
        .bind(now())
        .fetch_optional(&self.pool)
        .await
        .map_err(backend)
    }
}
