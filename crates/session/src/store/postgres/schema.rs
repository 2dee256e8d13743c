//! The creation of the tables.

use sqlx::{Connection, Executor, PgConnection, PgPool};

use crate::store::sql::{Dialect, Tables};

/// The channel on which servers notify each other of changes. PostgreSQL allows names of up to 63 bytes.
pub fn channel(tables: &Tables) -> String {
    let name = tables.records.replace('"', "");
    name.chars().take(63).collect()
}

/// Creates the tables that are missing. If all of them exist, the user needs no right to create tables.
///
/// # Errors
/// When the server does not respond, or the user lacks the right to create tables.
pub async fn migrate(pool: &PgPool, tables: &Tables) -> Result<(), sqlx::Error> {
    let mut connection = pool.acquire().await?;
    if is_complete(&mut connection, tables).await? {
        return Ok(());
    }
    let mut transaction = connection.begin().await?;
    // Another server may create the tables at the same time. An index on a large table takes longer than other
    // statements may take.
    let lock = "select set_config('statement_timeout', '0', true), \
                pg_advisory_xact_lock(hashtext($1))";
    let lock = sqlx::query(lock).bind(&tables.records);
    lock.execute(&mut *transaction).await?;
    if let Some(schema) = tables.schema() {
        let statement = format!("create schema if not exists {schema}");
        transaction.execute(statement.as_str()).await?;
    }
    for statement in tables.create_statements(Dialect::Postgres) {
        transaction.execute(statement.as_str()).await?;
    }
    transaction.commit().await
}

/// Whether all tables and indexes exist.
async fn is_complete(connection: &mut PgConnection, tables: &Tables) -> Result<bool, sqlx::Error> {
    let mut names: Vec<String> = tables.all().map(str::to_owned).to_vec();
    for (index, ..) in tables.indexes(Dialect::Postgres) {
        names.push(match tables.schema() {
            Some(schema) => format!("{schema}.{index}"),
            None => index,
        });
    }
    sqlx::query_scalar(
        "select bool_and(to_regclass(name) is not null) from unnest($1::text[]) name",
    )
    .bind(&names[..])
    .fetch_one(connection)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_channel_has_the_name_of_the_table_up_to_63_bytes() {
        let tables = Tables::new("web.sessions", Dialect::Postgres);
        assert_eq!(channel(&tables), "web.sessions");
        let tables = Tables::new(&"long".repeat(20), Dialect::Postgres);
        assert_eq!(channel(&tables).len(), 63);
    }
}
