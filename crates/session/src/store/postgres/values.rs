//! Small values beside the sessions, in a table of their own.

use time::OffsetDateTime;
use tower_sessions::session_store;

use super::Postgres;
use crate::{expiry::now, store::Values};

impl Postgres {
    /// Removes the values that have expired, which are few.
    pub(super) async fn delete_expired_values(&self) -> session_store::Result<()> {
        let statement = format!("delete from {} where expires_at <= $1", self.tables.values);
        let deleting = || sqlx::query(&statement).bind(now()).execute(self.pool());
        self.connections.run(deleting).await.map(|_| ())
    }
}

#[async_trait::async_trait]
impl Values for Postgres {
    async fn value(&self, name: &str) -> session_store::Result<Option<String>> {
        let statement = format!(
            "select value from {} where name = $1 and expires_at > $2",
            self.tables.values
        );
        let finding = || {
            sqlx::query_scalar(&statement)
                .bind(name)
                .bind(now())
                .fetch_optional(self.pool())
        };
        self.connections.run(finding).await
    }

    async fn set_value(
        &self,
        name: &str,
        value: &str,
        expires_at: OffsetDateTime,
    ) -> session_store::Result<()> {
        let statement = format!(
            "insert into {} (name, value, expires_at) values ($1, $2, $3) \
             on conflict (name) do update set value = excluded.value, \
             expires_at = excluded.expires_at",
            self.tables.values
        );
        let setting = || {
            sqlx::query(&statement)
                .bind(name)
                .bind(value)
                .bind(expires_at.unix_timestamp())
                .execute(self.pool())
        };
        self.connections.run(setting).await.map(|_| ())
    }

    async fn take_value(&self, name: &str) -> session_store::Result<Option<String>> {
        let statement = format!(
            "delete from {} where name = $1 and expires_at > $2 returning value",
            self.tables.values
        );
        let taking = || {
            sqlx::query_scalar(&statement)
                .bind(name)
                .bind(now())
                .fetch_optional(self.pool())
        };
        self.connections.run_once(taking).await
    }
}
