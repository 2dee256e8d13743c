//! The tables, and how they are made.

use sqlx::{Connection, Executor, PgConnection, PgPool};

/// The names of the tables, with their schema where the config names one.
///
/// Ids are compared byte by byte (`collate "C"`): short ids are searched by their beginning.
#[derive(Clone, Debug)]
pub struct Tables {
    pub records: String,
    pub users: String,
    pub values: String,
    /// Statistics: what was counted, the sketches of different sessions, and each server's last batch.
    pub counts: String,
    pub active: String,
    pub batches: String,
}

impl Tables {
    /// `table`: a name, or a schema and a name with a dot between.
    pub fn new(table: &str) -> Self {
        let quoted = |suffix: &str| {
            let parts = format!("{table}{suffix}");
            let parts = parts.split('.').map(|part| format!("\"{part}\""));
            parts.collect::<Vec<_>>().join(".")
        };
        Self {
            records: quoted(""),
            users: quoted("_users"),
            values: quoted("_values"),
            counts: quoted("_counts"),
            active: quoted("_active"),
            batches: quoted("_batches"),
        }
    }

    /// The name under which servers tell each other of changes. PostgreSQL takes up to 63 characters.
    pub fn channel(&self) -> String {
        let name = self.records.replace('"', "");
        name.chars().take(63).collect()
    }

    /// The statements that make what is missing.
    fn statements(&self) -> Vec<String> {
        let Self {
            records,
            users,
            values,
            counts,
            active,
            batches,
        } = self;
        let mut statements = Vec::new();
        if let Some((schema, _)) = records.split_once('.') {
            statements.push(format!("create schema if not exists {schema}"));
        }
        statements.extend([
            format!(
                "create table if not exists {records} (\
                 id text collate \"C\" primary key, data bytea not null, \
                 expiry_date timestamptz not null)"
            ),
            format!(
                "create index if not exists {} on {records} (expiry_date)",
                index(records, "expiry")
            ),
            format!(
                "create table if not exists {users} (\
                 user_key text collate \"C\" not null, session_id text collate \"C\" not null, \
                 realm text collate \"C\" not null, number bigint not null, \
                 signed_in_at bigint not null, check_at bigint not null, \
                 primary key (user_key, session_id, realm))"
            ),
            format!(
                "create index if not exists {} on {users} (check_at)",
                index(users, "check")
            ),
            format!(
                "create table if not exists {values} (\
                 name text collate \"C\" primary key, value text not null, \
                 expires_at bigint not null)"
            ),
            format!(
                "create table if not exists {counts} (\
                 step smallint, number bigint, name text collate \"C\", value bigint not null, \
                 primary key (step, number, name))"
            ),
            format!(
                "create table if not exists {active} (\
                 step smallint, number bigint, sketch bytea not null, \
                 primary key (step, number))"
            ),
            format!(
                "create table if not exists {batches} (\
                 server bigint primary key, number bigint not null, at bigint not null)"
            ),
        ]);
        statements
    }
}

/// The name of an index, which stands in the schema of its table.
fn index(table: &str, suffix: &str) -> String {
    let name = table.rsplit('.').next().unwrap_or(table);
    format!("\"{}_{suffix}\"", name.replace('"', ""))
}

/// Makes the tables where they are missing. A user without the right to make any needs none where they are there.
///
/// # Errors
/// When the user may not make them.
pub async fn migrate(pool: &PgPool, tables: &Tables) -> Result<(), sqlx::Error> {
    let mut connection = pool.acquire().await?;
    if is_complete(&mut connection, tables).await? {
        return Ok(());
    }
    let mut transaction = connection.begin().await?;
    // Another server may do the same at this moment; an index on a long table takes its time.
    let lock = "select set_config('statement_timeout', '0', true), \
                pg_advisory_xact_lock(hashtext($1))";
    let lock = sqlx::query(lock).bind(&tables.records);
    lock.execute(&mut *transaction).await?;
    for statement in tables.statements() {
        transaction.execute(statement.as_str()).await?;
    }
    transaction.commit().await
}

/// Whether all tables and indexes are there.
async fn is_complete(connection: &mut PgConnection, tables: &Tables) -> Result<bool, sqlx::Error> {
    let records = &tables.records;
    let schema = records
        .split_once('.')
        .map_or(String::new(), |(schema, _)| format!("{schema}."));
    let names = [
        records.clone(),
        tables.users.clone(),
        tables.values.clone(),
        tables.counts.clone(),
        tables.active.clone(),
        tables.batches.clone(),
        schema.clone() + &index(records, "expiry"),
        schema + &index(&tables.users, "check"),
    ];
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
    fn a_schema_is_a_part_of_the_name() {
        let plain = Tables::new("sessions");
        assert_eq!(
            (plain.records.as_str(), plain.users.as_str()),
            ("\"sessions\"", "\"sessions_users\"")
        );
        let tables = Tables::new("web.sessions");
        assert_eq!(tables.values, "\"web\".\"sessions_values\"");
        assert_eq!(tables.channel(), "web.sessions");
        assert_eq!(index(&tables.records, "expiry"), "\"sessions_expiry\"");
    }
}
