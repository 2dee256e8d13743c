//! The index of users, in a table of its own.

use tower_sessions::{session::Id, session_store};

use super::{Database, OnConflict, Row, Sql, Statement};
use crate::store::{UserEntry, UserIndex};

const COLUMNS: [&str; 6] = [
    "user_key",
    "session_id",
    "realm",
    "number",
    "signed_in_at",
    "check_at",
];

/// The number of columns in the key, which are the first ones.
const KEYS: usize = 3;

/// The most entries in one statement. SQLite allows expressions that are up to 1,000 levels deep.
const BATCH: usize = 200;

/// The entry in a row. `None`: another program has written an invalid one.
fn entry(row: &Row) -> Option<UserEntry> {
    Some(UserEntry {
        user: row.text(0),
        id: row.text(1).parse::<Id>().ok()?,
        realm: row.text(2),
        number: row.integer(3).cast_unsigned(),
        signed_in_at: row.integer(4),
        check_at: row.integer(5),
    })
}

fn bind_key(statement: Statement, entry: &UserEntry) -> Statement {
    statement
        .bind(entry.user.as_str())
        .bind(entry.id.to_string())
        .bind(entry.realm.as_str())
}

#[async_trait::async_trait]
impl<D: sqlx::Database> UserIndex for Database<D>
where
    Self: Sql,
{
    async fn add(&self, entries: &[UserEntry]) -> session_store::Result<()> {
        let users = &self.tables().users;
        for entries in entries.chunks(BATCH) {
            let rows = entries.len();
            let upsert = self
                .dialect()
                .upsert(users, &COLUMNS, KEYS, rows, OnConflict::Replace);
            let bind = |statement: Statement, entry: &UserEntry| {
                bind_key(statement, entry)
                    .bind(entry.number.cast_signed())
                    .bind(entry.signed_in_at)
                    .bind(entry.check_at)
            };
            let statement = entries.iter().fold(Statement::new(upsert), bind);
            self.execute(&statement).await?;
        }
        Ok(())
    }

    async fn remove(&self, entries: &[UserEntry]) -> session_store::Result<()> {
        let users = &self.tables().users;
        for entries in entries.chunks(BATCH) {
            let one = "(user_key = ? and session_id = ? and realm = ?)";
            let any = vec![one; entries.len()].join(" or ");
            let statement = Statement::new(format!("delete from {users} where {any}"));
            let statement = entries.iter().fold(statement, bind_key);
            self.execute(&statement).await?;
        }
        Ok(())
    }

    async fn entries(&self, user: &str) -> session_store::Result<Vec<UserEntry>> {
        let (columns, users) = (COLUMNS.join(", "), &self.tables().users);
        let statement = format!("select {columns} from {users} where user_key = ?");
        let rows = self.fetch(&Statement::new(statement).bind(user)).await?;
        Ok(rows.iter().filter_map(entry).collect())
    }

    async fn due(&self, now: i64, limit: u32) -> session_store::Result<Vec<UserEntry>> {
        let (columns, users) = (COLUMNS.join(", "), &self.tables().users);
        let statement =
            format!("select {columns} from {users} where check_at <= ? order by check_at limit ?");
        let statement = Statement::new(statement).bind(now).bind(i64::from(limit));
        let rows = self.fetch(&statement).await?;
        Ok(rows.iter().filter_map(entry).collect())
    }

    async fn count(&self) -> session_store::Result<u64> {
        let statement = format!("select count(*) from {}", self.tables().users);
        let rows = self.fetch(&Statement::new(statement)).await?;
        Ok(rows.first().map_or(0, |row| row.integer(0).cast_unsigned()))
    }

    /// The database loses the index only together with the sessions.
    async fn is_complete(&self) -> session_store::Result<bool> {
        Ok(true)
    }

    async fn set_complete(&self) -> session_store::Result<()> {
        Ok(())
    }
}
