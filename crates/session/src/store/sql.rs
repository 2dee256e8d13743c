//! The code that the SQL engines share: the index of sessions, the index of users, small values, and statistics.
//!
//! Each engine has its own statements for loading and saving sessions, which most requests run. The statements here run
//! less often, so they are built for the dialect each time, by the same code for all engines.

pub mod buckets;
pub mod connections;
pub mod deploy;
mod driver;
mod index;
mod stats;
mod tables;
mod users;
mod values;

use sqlx::Error;
use time::OffsetDateTime;
use tower_sessions::session_store;

pub use connections::{Connections, Database};
pub use stats::delete_old as delete_old_stats;
pub use tables::Tables;
pub use values::delete_expired as delete_expired_values;

/// The SQL dialect of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "each engine is a feature")]
pub enum Dialect {
    MySql,
    Postgres,
    Sqlite,
}

/// What an upsert does if the row exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// The new values replace the row's values.
    Replace,
    /// The new values are added to the row's values.
    Add,
}

impl Dialect {
    /// A statement that inserts `rows` rows, or updates those that exist. The first `keys` columns are the key.
    fn upsert(
        self,
        table: &str,
        columns: &[&str],
        keys: usize,
        rows: usize,
        on_conflict: OnConflict,
    ) -> String {
        let row = format!("({})", vec!["?"; columns.len()].join(", "));
        let rows = vec![row; rows].join(", ");
        let (keys, values) = columns.split_at(keys);
        let updates = values.iter().map(|column| {
            let new = match self {
                Self::MySql => format!("values({column})"),
                Self::Postgres | Self::Sqlite => format!("excluded.{column}"),
            };
            match on_conflict {
                OnConflict::Replace => format!("{column} = {new}"),
                OnConflict::Add => format!("{column} = {table}.{column} + {new}"),
            }
        });
        let updates = updates.collect::<Vec<_>>().join(", ");
        let conflict = match self {
            Self::MySql => "on duplicate key update".to_owned(),
            Self::Postgres | Self::Sqlite => {
                format!("on conflict ({}) do update set", keys.join(", "))
            }
        };
        let columns = columns.join(", ");
        format!("insert into {table} ({columns}) values {rows} {conflict} {updates}")
    }

    /// Replaces each question mark by a placeholder. No statement here has a question mark for anything else.
    fn with_placeholders(self, statement: &str) -> String {
        if self != Self::Postgres {
            return statement.to_owned();
        }
        let mut parts = statement.split('?');
        let first = parts.next().unwrap_or_default().to_owned();
        parts.zip(1..).fold(first, |text, (part, number)| {
            format!("{text}${number}{part}")
        })
    }

    /// The type of a column of ids or hashes.
    fn id_type(self) -> &'static str {
        match self {
            Self::MySql => "varchar(64) character set ascii collate ascii_bin",
            Self::Postgres => "text collate \"C\"",
            Self::Sqlite => "text",
        }
    }

    /// The type of a key column of names.
    fn name_type(self) -> &'static str {
        match self {
            Self::MySql => "varchar(190) character set utf8mb4 collate utf8mb4_bin",
            Self::Postgres => "text collate \"C\"",
            Self::Sqlite => "text",
        }
    }

    fn text_type(self) -> &'static str {
        match self {
            Self::MySql => "longtext character set utf8mb4 collate utf8mb4_bin",
            Self::Postgres | Self::Sqlite => "text",
        }
    }

    fn bytes_type(self) -> &'static str {
        match self {
            Self::MySql => "longblob",
            Self::Postgres => "bytea",
            Self::Sqlite => "blob",
        }
    }

    fn time_type(self) -> &'static str {
        match self {
            // MySQL's `timestamp` ends in 2038.
            Self::MySql => "datetime(6)",
            Self::Postgres => "timestamptz",
            Self::Sqlite => "integer",
        }
    }

    /// The part of a table's definition that creates an index. Only MySQL needs it, because it has no
    /// `create index if not exists`.
    fn inline_index(self, column: &str) -> String {
        match self {
            Self::MySql => format!(", index ({column})"),
            Self::Postgres | Self::Sqlite => String::new(),
        }
    }

    /// The column that finds a row fastest.
    fn row_key(self) -> &'static str {
        match self {
            Self::MySql | Self::Postgres => "id",
            Self::Sqlite => "rowid",
        }
    }
}

/// A value for a placeholder.
#[derive(Clone, Debug)]
pub enum Param {
    Text(String),
    Integer(i64),
    Bytes(Vec<u8>),
    Time(OffsetDateTime),
}

impl From<&str> for Param {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Param {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Param {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<Vec<u8>> for Param {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<OffsetDateTime> for Param {
    fn from(time: OffsetDateTime) -> Self {
        Self::Time(time)
    }
}

/// A statement with `?` as the placeholder of each value.
#[derive(Clone, Debug)]
pub struct Statement {
    pub text: String,
    pub params: Vec<Param>,
}

impl Statement {
    pub fn new(text: String) -> Self {
        Self {
            text,
            params: Vec::new(),
        }
    }

    pub fn bind(mut self, param: impl Into<Param>) -> Self {
        self.params.push(param.into());
        self
    }
}

/// A value of a row. The tables here have no values of other types.
#[derive(Clone, Debug)]
pub enum Column {
    Integer(i64),
    /// Bytes, or text in UTF-8.
    Bytes(Vec<u8>),
}

/// A row of a result.
#[derive(Clone, Debug)]
pub struct Row(pub Vec<Column>);

impl Row {
    /// The integer in a column, or 0 if there is none.
    fn integer(&self, column: usize) -> i64 {
        match self.0.get(column) {
            Some(Column::Integer(number)) => *number,
            _ => 0,
        }
    }

    /// The bytes in a column, or an empty slice if there are none.
    fn bytes(&self, column: usize) -> &[u8] {
        match self.0.get(column) {
            Some(Column::Bytes(bytes)) => bytes,
            _ => &[],
        }
    }

    /// The text in a column. Invalid UTF-8 is replaced.
    fn text(&self, column: usize) -> String {
        String::from_utf8_lossy(self.bytes(column)).into_owned()
    }
}

/// A connection, inside or outside of a transaction.
#[async_trait::async_trait]
pub trait Connection: Send {
    /// Runs a statement and returns the number of rows that it has changed.
    ///
    /// # Errors
    /// When the server does not respond, or refuses the statement.
    async fn execute(&mut self, statement: &Statement) -> Result<u64, Error>;

    /// Runs a statement and returns its rows.
    ///
    /// # Errors
    /// When the server does not respond, or refuses the statement.
    async fn fetch(&mut self, statement: &Statement) -> Result<Vec<Row>, Error>;
}

/// Statements that take effect together or not at all.
#[async_trait::async_trait]
pub trait Transaction: Sync {
    /// Runs the statements on a connection that is inside a transaction.
    ///
    /// # Errors
    /// When the server does not respond, or refuses a statement. The transaction is then rolled back.
    async fn run(&self, connection: &mut dyn Connection) -> Result<(), Error>;
}

/// A database of any dialect.
#[async_trait::async_trait]
pub trait Sql: Send + Sync {
    fn dialect(&self) -> Dialect;

    fn tables(&self) -> &Tables;

    /// Runs a statement that may run twice. It is retried if the connection breaks.
    async fn execute(&self, statement: &Statement) -> session_store::Result<u64>;

    /// Runs a statement that must not run twice. It fails if the connection breaks.
    async fn execute_once(&self, statement: &Statement) -> session_store::Result<u64>;

    /// Runs a statement that may run twice, and returns its rows.
    async fn fetch(&self, statement: &Statement) -> session_store::Result<Vec<Row>>;

    /// Runs a transaction that may run twice. It is retried if the connection breaks.
    async fn transaction(&self, transaction: &dyn Transaction) -> session_store::Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dialect_has_its_own_upsert() {
        let upsert = |dialect: Dialect, on_conflict| {
            dialect.upsert("t", &["a", "b", "c"], 2, 2, on_conflict)
        };
        assert_eq!(
            upsert(Dialect::Sqlite, OnConflict::Replace),
            "insert into t (a, b, c) values (?, ?, ?), (?, ?, ?) \
             on conflict (a, b) do update set c = excluded.c"
        );
        assert_eq!(
            upsert(Dialect::MySql, OnConflict::Add),
            "insert into t (a, b, c) values (?, ?, ?), (?, ?, ?) \
             on duplicate key update c = t.c + values(c)"
        );
    }

    #[test]
    fn postgres_numbers_its_placeholders() {
        let statement = "select a from t where b = ? and c > ? limit ?";
        assert_eq!(
            Dialect::Postgres.with_placeholders(statement),
            "select a from t where b = $1 and c > $2 limit $3"
        );
        assert_eq!(Dialect::MySql.with_placeholders(statement), statement);
    }
}
