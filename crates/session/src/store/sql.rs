//! What the SQL engines share: the list of sessions, the index of users, small values, and the statistics.
//!
//! A request's own statements are each engine's, in its own dialect and prepared once. Everything here runs once in a
//! while, so it is written once, for all of them.

pub mod buckets;
pub mod connections;
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

/// How an engine spells what SQL engines spell differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "each engine is a feature")]
pub enum Dialect {
    MySql,
    Postgres,
    Sqlite,
}

/// What an upsert does to the columns of a row that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    Replace,
    Add,
}

impl Dialect {
    /// Inserts `rows` rows, or changes the ones that exist. The first `keys` columns are the key.
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

    /// The statement with this engine's placeholders. No statement here has a question mark of its own.
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

    /// The type of an id or a hash.
    fn id_type(self) -> &'static str {
        match self {
            Self::MySql => "varchar(64) character set ascii collate ascii_bin",
            Self::Postgres => "text collate \"C\"",
            Self::Sqlite => "text",
        }
    }

    /// The type of a name that is a key.
    fn name_type(self) -> &'static str {
        match self {
            Self::MySql => "varchar(190) character set utf8mb4 collate utf8mb4_bin",
            Self::Postgres => "text collate \"C\"",
            Self::Sqlite => "text",
        }
    }

    fn text_type(self) -> &'static str {
        match self {
            Self::MySql => "longtext character set utf8mb4",
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
            // A timestamp ends in 2038.
            Self::MySql => "datetime(6)",
            Self::Postgres => "timestamptz",
            Self::Sqlite => "integer",
        }
    }

    /// The part of a table's definition that makes an index. MySQL alone can't create an index that may exist.
    fn inline_index(self, column: &str) -> String {
        match self {
            Self::MySql => format!(", index ({column})"),
            Self::Postgres | Self::Sqlite => String::new(),
        }
    }

    /// The column by which a row is found fastest once its place is known.
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

/// A statement with `?` for each of its values.
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

/// A value of a row: all that the tables here hold.
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
    /// A number; 0 where the column holds none.
    fn integer(&self, column: usize) -> i64 {
        match self.0.get(column) {
            Some(Column::Integer(number)) => *number,
            _ => 0,
        }
    }

    /// Bytes; none where the column holds none.
    fn bytes(&self, column: usize) -> &[u8] {
        match self.0.get(column) {
            Some(Column::Bytes(bytes)) => bytes,
            _ => &[],
        }
    }

    /// Text; what is not UTF-8 is replaced.
    fn text(&self, column: usize) -> String {
        String::from_utf8_lossy(self.bytes(column)).into_owned()
    }
}

/// One connection, inside or outside of a transaction.
#[async_trait::async_trait]
pub trait Connection: Send {
    /// Runs a statement and returns how many rows it changed.
    ///
    /// # Errors
    /// When the server does not respond, or refuses.
    async fn execute(&mut self, statement: &Statement) -> Result<u64, Error>;

    /// Runs a statement and returns its rows.
    ///
    /// # Errors
    /// When the server does not respond, or refuses.
    async fn fetch(&mut self, statement: &Statement) -> Result<Vec<Row>, Error>;
}

/// Statements that take effect together.
#[async_trait::async_trait]
pub trait Transaction: Sync {
    /// Runs the statements.
    ///
    /// # Errors
    /// When the server does not respond, or refuses: then none of them takes effect.
    async fn run(&self, connection: &mut dyn Connection) -> Result<(), Error>;
}

/// A database as the shared code sees it.
#[async_trait::async_trait]
pub trait Sql: Send + Sync {
    fn dialect(&self) -> Dialect;

    fn tables(&self) -> &Tables;

    /// Runs a statement that may run twice: a connection that breaks is no error.
    async fn execute(&self, statement: &Statement) -> session_store::Result<u64>;

    /// Runs a statement that must not run twice.
    async fn execute_once(&self, statement: &Statement) -> session_store::Result<u64>;

    /// Returns the rows of a statement.
    async fn fetch(&self, statement: &Statement) -> session_store::Result<Vec<Row>>;

    /// Runs a transaction that may run twice.
    async fn transaction(&self, transaction: &dyn Transaction) -> session_store::Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dialect_spells_an_upsert_its_own_way() {
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
