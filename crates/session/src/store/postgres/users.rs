//! The index of users, in a table of its own.

use tower_sessions::session_store;

use super::Postgres;
use crate::store::{
    UserEntry, UserIndex,
    users::{COLUMNS, entries},
};

/// One value of each entry, for one statement about all of them.
fn column<T>(entries: &[UserEntry], value: impl Fn(&UserEntry) -> T) -> Vec<T> {
    entries.iter().map(value).collect()
}

#[async_trait::async_trait]
impl UserIndex for Postgres {
    async fn add(&self, entries: &[UserEntry]) -> session_store::Result<()> {
        let users = &self.tables.users;
        let statement = format!(
            "insert into {users} ({COLUMNS}) select * from unnest(\
             $1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[]) \
             on conflict (user_key, session_id, realm) do update set \
             number = excluded.number, signed_in_at = excluded.signed_in_at, \
             check_at = excluded.check_at"
        );
        let adding = || {
            sqlx::query(&statement)
                .bind(column(entries, |entry| entry.user.clone()))
                .bind(column(entries, |entry| entry.id.to_string()))
                .bind(column(entries, |entry| entry.realm.clone()))
                .bind(column(entries, |entry| entry.number.cast_signed()))
                .bind(column(entries, |entry| entry.signed_in_at))
                .bind(column(entries, |entry| entry.check_at))
                .execute(self.pool())
        };
        self.connections.run(adding).await.map(|_| ())
    }

    async fn remove(&self, entries: &[UserEntry]) -> session_store::Result<()> {
        let users = &self.tables.users;
        let statement = format!(
            "delete from {users} where (user_key, session_id, realm) in \
             (select * from unnest($1::text[], $2::text[], $3::text[]))"
        );
        let removing = || {
            sqlx::query(&statement)
                .bind(column(entries, |entry| entry.user.clone()))
                .bind(column(entries, |entry| entry.id.to_string()))
                .bind(column(entries, |entry| entry.realm.clone()))
                .execute(self.pool())
        };
        self.connections.run(removing).await.map(|_| ())
    }

    async fn entries(&self, user: &str) -> session_store::Result<Vec<UserEntry>> {
        let users = &self.tables.users;
        let statement = format!("select {COLUMNS} from {users} where user_key = $1");
        let finding = || sqlx::query_as(&statement).bind(user).fetch_all(self.pool());
        Ok(entries(self.connections.run(finding).await?))
    }

    async fn due(&self, now: i64, limit: u32) -> session_store::Result<Vec<UserEntry>> {
        let users = &self.tables.users;
        let statement = format!(
            "select {COLUMNS} from {users} where check_at <= $1 order by check_at limit $2"
        );
        let finding = || {
            sqlx::query_as(&statement)
                .bind(now)
                .bind(i64::from(limit))
                .fetch_all(self.pool())
        };
        Ok(entries(self.connections.run(finding).await?))
    }

    async fn count(&self) -> session_store::Result<u64> {
        let statement = format!("select count(*) from {}", self.tables.users);
        let counting = || sqlx::query_scalar::<_, i64>(&statement).fetch_one(self.pool());
        let count = self.connections.run(counting).await?;
        Ok(count.cast_unsigned())
    }

    /// The table is in one database with the sessions.
    async fn is_complete(&self) -> session_store::Result<bool> {
        Ok(true)
    }

    async fn set_complete(&self) -> session_store::Result<()> {
        Ok(())
    }
}
