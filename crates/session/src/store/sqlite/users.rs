//! The index of users, in a table of its own.

use sqlx::SqlitePool;
use tower_sessions::session_store;

use super::{Sqlite, backend};
use crate::store::{
    UserEntry, UserIndex,
    users::{COLUMNS, entries},
};

/// Makes the table where it is missing.
///
/// # Errors
/// When the file can't be written.
pub async fn migrate(pool: &SqlitePool) -> Result<(), sqlx::Error> {
    sqlx::query(
        "create table if not exists tower_sessions_users (\
         user_key text not null, session_id text not null, realm text not null, \
         number integer not null, signed_in_at integer not null, check_at integer not null, \
         primary key (user_key, session_id, realm)) without rowid",
    )
    .execute(pool)
    .await?;
    sqlx::query(
        "create index if not exists tower_sessions_users_check \
         on tower_sessions_users (check_at)",
    )
    .execute(pool)
    .await
    .map(|_| ())
}

#[async_trait::async_trait]
impl UserIndex for Sqlite {
    async fn add(&self, entries: &[UserEntry]) -> session_store::Result<()> {
        for entry in entries {
            sqlx::query(&format!(
                "insert or replace into tower_sessions_users ({COLUMNS}) \
                 values (?, ?, ?, ?, ?, ?)"
            ))
            .bind(&entry.user)
            .bind(entry.id.to_string())
            .bind(&entry.realm)
            .bind(entry.number.cast_signed())
            .bind(entry.signed_in_at)
            .bind(entry.check_at)
            .execute(&self.pool)
            .await
            .map_err(backend)?;
        }
        Ok(())
    }

    async fn remove(&self, entries: &[UserEntry]) -> session_store::Result<()> {
        for entry in entries {
            sqlx::query(
                "delete from tower_sessions_users \
                 where user_key = ? and session_id = ? and realm = ?",
            )
            .bind(&entry.user)
            .bind(entry.id.to_string())
            .bind(&entry.realm)
            .execute(&self.pool)
            .await
            .map_err(backend)?;
        }
        Ok(())
    }

    async fn entries(&self, user: &str) -> session_store::Result<Vec<UserEntry>> {
        let query = format!("select {COLUMNS} from tower_sessions_users where user_key = ?");
        let rows = sqlx::query_as(&query).bind(user).fetch_all(&self.pool);
        Ok(entries(rows.await.map_err(backend)?))
    }

    async fn due(&self, now: i64, limit: u32) -> session_store::Result<Vec<UserEntry>> {
        let query = format!(
            "select {COLUMNS} from tower_sessions_users where check_at <= ? \
             order by check_at limit ?"
        );
        let rows = sqlx::query_as(&query).bind(now).bind(limit);
        let rows = rows.fetch_all(&self.pool);
        Ok(entries(rows.await.map_err(backend)?))
    }

    async fn count(&self) -> session_store::Result<u64> {
        let count: i64 = sqlx::query_scalar("select count(*) from tower_sessions_users")
            .fetch_one(&self.pool)
            .await
            .map_err(backend)?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// The table is in one file with the sessions.
    async fn is_complete(&self) -> session_store::Result<bool> {
        Ok(true)
    }

    async fn set_complete(&self) -> session_store::Result<()> {
        Ok(())
    }
}
