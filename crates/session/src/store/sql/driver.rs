//! The implementation of [`Sql`] for each of sqlx's drivers.
//!
//! A macro writes the impls. A single generic impl is not possible, because its bounds would not imply what sqlx's
//! traits guarantee for borrowed arguments.

use sqlx::{Error, Row as _, TypeInfo, ValueRef};
use tower_sessions::session_store;

use super::{
    Column, Connection, Database, Dialect, Param, Row, Sql, Statement, Tables, Transaction,
};

/// A query of sqlx with the values of a statement.
macro_rules! bound_query {
    ($database:ty, $time:expr, $text:expr, $statement:expr) => {{
        let mut query = sqlx::query::<$database>($text);
        for param in &$statement.params {
            query = match param {
                Param::Text(text) => query.bind(text),
                Param::Integer(number) => query.bind(*number),
                Param::Bytes(bytes) => query.bind(bytes),
                Param::Time(time) => query.bind($time(*time)),
            };
        }
        query
    }};
}

/// Implements [`Connection`] for a driver's connection, and [`Sql`] for its [`Database`].
///
/// `$integer`: the driver's name of the type of an `i64`. `$time`: converts a time to the type of its column.
macro_rules! driver {
    ($database:ty, $connection:ty, $dialect:expr, $integer:literal, $time:expr) => {
        #[async_trait::async_trait]
        impl Connection for $connection {
            async fn execute(&mut self, statement: &Statement) -> Result<u64, Error> {
                let text = $dialect.with_placeholders(&statement.text);
                let query = bound_query!($database, $time, &text, statement);
                Ok(query.execute(&mut *self).await?.rows_affected())
            }

            async fn fetch(&mut self, statement: &Statement) -> Result<Vec<Row>, Error> {
                let text = $dialect.with_placeholders(&statement.text);
                let query = bound_query!($database, $time, &text, statement);
                let mut rows = Vec::new();
                for row in query.fetch_all(&mut *self).await? {
                    let mut columns = Vec::with_capacity(row.len());
                    for index in 0..row.len() {
                        let column_type = row.try_get_raw(index)?.type_info().name().to_owned();
                        columns.push(match column_type.as_str() {
                            "INT2" | "SMALLINT" => {
                                Column::Integer(row.try_get::<i16, _>(index)?.into())
                            }
                            $integer => Column::Integer(row.try_get(index)?),
                            // Text is read as bytes, whatever its collation.
                            _ => Column::Bytes(row.try_get_unchecked(index)?),
                        });
                    }
                    rows.push(Row(columns));
                }
                Ok(rows)
            }
        }

        #[async_trait::async_trait]
        impl Sql for Database<$database> {
            fn dialect(&self) -> Dialect {
                $dialect
            }

            fn tables(&self) -> &Tables {
                &self.tables
            }

            async fn execute(&self, statement: &Statement) -> session_store::Result<u64> {
                let operation = || async {
                    let mut connection = self.pool().acquire().await?;
                    super::Connection::execute(&mut *connection, statement).await
                };
                self.connections.run(operation).await
            }

            async fn execute_once(&self, statement: &Statement) -> session_store::Result<u64> {
                let operation = || async {
                    let mut connection = self.pool().acquire().await?;
                    super::Connection::execute(&mut *connection, statement).await
                };
                self.connections.run_once(operation).await
            }

            async fn fetch(&self, statement: &Statement) -> session_store::Result<Vec<Row>> {
                let operation = || async {
                    let mut connection = self.pool().acquire().await?;
                    super::Connection::fetch(&mut *connection, statement).await
                };
                self.connections.run(operation).await
            }

            async fn transaction(&self, work: &dyn Transaction) -> session_store::Result<()> {
                let operation = || async {
                    let mut transaction = self.pool().begin().await?;
                    work.run(&mut *transaction).await?;
                    transaction.commit().await
                };
                self.connections.run(operation).await
            }
        }
    };
}

#[cfg(feature = "mysql")]
driver!(
    sqlx::MySql,
    sqlx::MySqlConnection,
    Dialect::MySql,
    "BIGINT",
    crate::store::mysql::datetime
);

#[cfg(feature = "postgres")]
driver!(
    sqlx::Postgres,
    sqlx::PgConnection,
    Dialect::Postgres,
    "INT8",
    std::convert::identity
);

#[cfg(feature = "sqlite")]
driver!(
    sqlx::Sqlite,
    sqlx::SqliteConnection,
    Dialect::Sqlite,
    "INTEGER",
    std::convert::identity
);
