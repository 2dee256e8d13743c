//! The names and the definitions of the tables.

use super::Dialect;

/// The quoted names of the tables, each with its schema if there is one.
#[derive(Clone, Debug)]
pub struct Tables {
    pub records: String,
    pub users: String,
    pub values: String,
    /// The counts of the statistics.
    pub counts: String,
    /// The sketches of active sessions.
    pub active: String,
    /// The last batch of each server's statistics.
    pub batches: String,
}

impl Tables {
    /// `table`: the name of the table of sessions, or a schema and the name with a dot between. It contains no quotes.
    /// See [`StoreOptions::is_table`](crate::store::StoreOptions::is_table).
    pub fn new(table: &str, dialect: Dialect) -> Self {
        let quote = match dialect {
            Dialect::MySql => '`',
            Dialect::Postgres | Dialect::Sqlite => '"',
        };
        let quoted = |suffix: &str| {
            let parts = format!("{table}{suffix}");
            let parts = parts.split('.').map(|part| format!("{quote}{part}{quote}"));
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

    /// The quoted schema, if there is one.
    pub fn schema(&self) -> Option<&str> {
        self.records.split_once('.').map(|(schema, _)| schema)
    }

    /// The statements that create all missing tables and indexes. Ids are compared byte by byte, so the ids that begin
    /// with a short id are a range.
    pub fn create_statements(&self, dialect: Dialect) -> Vec<String> {
        let Self {
            records,
            users,
            values,
            counts,
            active,
            batches,
        } = self;
        let (id, name) = (dialect.id_type(), dialect.name_type());
        let (text, bytes, time) = (
            dialect.text_type(),
            dialect.bytes_type(),
            dialect.time_type(),
        );
        let mut statements = vec![
            format!(
                "create table if not exists {records} (\
                 id {id} primary key not null, data {bytes} not null, expiry_date {time} not null\
                 {})",
                dialect.inline_index("expiry_date")
            ),
            format!(
                "create table if not exists {users} (\
                 user_key {id} not null, session_id {id} not null, realm {name} not null, \
                 number bigint not null, signed_in_at bigint not null, check_at bigint not null, \
                 primary key (user_key, session_id, realm){})",
                dialect.inline_index("check_at")
            ),
            format!(
                "create table if not exists {values} (\
                 name {name} primary key not null, value {text} not null, expires_at bigint not null)"
            ),
            format!(
                "create table if not exists {counts} (\
                 step smallint not null, number bigint not null, name {name} not null, \
                 value bigint not null, primary key (step, number, name))"
            ),
            format!(
                "create table if not exists {active} (\
                 step smallint not null, number bigint not null, sketch {bytes} not null, \
                 primary key (step, number))"
            ),
            format!(
                "create table if not exists {batches} (\
                 server bigint primary key not null, number bigint not null, at bigint not null)"
            ),
        ];
        if dialect != Dialect::MySql {
            for (index, table, column) in self.indexes(dialect) {
                statements.push(format!(
                    "create index if not exists {index} on {table} ({column})"
                ));
            }
        }
        statements
    }

    /// The indexes, each with its table and its column. An index is created in the schema of its table.
    pub fn indexes(&self, dialect: Dialect) -> [(String, &str, &'static str); 2] {
        let index = |table: &str, suffix: &str| {
            let name = table.rsplit('.').next().unwrap_or(table);
            format!("\"{}_{suffix}\"", name.replace('"', ""))
        };
        // The list skips rows in this index alone, so it has the row's key. In SQLite and MySQL each index has it.
        let listed = match dialect {
            Dialect::Postgres => "expiry_date, id",
            Dialect::MySql | Dialect::Sqlite => "expiry_date",
        };
        [
            (index(&self.records, "expiry"), &self.records, listed),
            (index(&self.users, "check"), &self.users, "check_at"),
        ]
    }

    /// All tables.
    pub fn all(&self) -> [&str; 6] {
        [
            &self.records,
            &self.users,
            &self.values,
            &self.counts,
            &self.active,
            &self.batches,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_contain_the_schema() {
        let plain = Tables::new("sessions", Dialect::Postgres);
        assert_eq!(plain.all()[..2], ["\"sessions\"", "\"sessions_users\""]);
        assert_eq!(plain.schema(), None);
        assert_eq!(plain.indexes(Dialect::Postgres)[0].0, "\"sessions_expiry\"");
        let tables = Tables::new("web.sessions", Dialect::MySql);
        assert_eq!(tables.values, "`web`.`sessions_values`");
        assert_eq!(tables.schema(), Some("`web`"));
    }
}
