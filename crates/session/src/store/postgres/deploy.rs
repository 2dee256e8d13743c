//! The deploy warnings of PostgreSQL, which `check --deploy` lists.

use sqlx::{PgPool, Row};
use tower_sessions::session_store;

use super::Postgres;
use crate::store::{Diagnostics, sql::deploy};

#[async_trait::async_trait]
impl Diagnostics for Postgres {
    async fn check_writable(&self) -> session_store::Result<()> {
        deploy::check_writable(&self.database).await
    }

    async fn deploy_warnings(&self) -> session_store::Result<Vec<String>> {
        let state = self.database.connections.run(|| state(self.pool())).await?;
        let pool_size = self.pool().options().get_max_connections();
        Ok(state.warnings(i64::from(pool_size)))
    }

    fn has_table(&self) -> bool {
        true
    }
}

/// The settings and the state of the database server.
struct ServerState {
    synchronous_commit: String,
    fsync: String,
    is_encrypted: bool,
    is_remote: bool,
    /// The connections that are not reserved for superusers.
    connections: i64,
    /// The server's clock, in seconds since 1970.
    now: i64,
}

async fn state(pool: &PgPool) -> Result<ServerState, sqlx::Error> {
    let row = sqlx::query(
        "select current_setting('synchronous_commit') as synchronous_commit, \
         current_setting('fsync') as fsync, \
         coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false) as is_encrypted, \
         coalesce(not (inet_server_addr() <<= '127.0.0.0/8' or inet_server_addr() = '::1'), false) \
         as is_remote, \
         (current_setting('max_connections')::bigint \
         - current_setting('superuser_reserved_connections')::bigint) as connections, \
         extract(epoch from clock_timestamp())::bigint as now",
    )
    .fetch_one(pool)
    .await?;
    Ok(ServerState {
        synchronous_commit: row.try_get("synchronous_commit")?,
        fsync: row.try_get("fsync")?,
        is_encrypted: row.try_get("is_encrypted")?,
        is_remote: row.try_get("is_remote")?,
        connections: row.try_get("connections")?,
        now: row.try_get("now")?,
    })
}

impl ServerState {
    /// Lists everything that is unsafe for production, in a line each. `pool_size`: the most connections in the pool.
    fn warnings(&self, pool_size: i64) -> Vec<String> {
        let mut warnings = Vec::new();
        for (setting, value) in [
            ("synchronous_commit", &self.synchronous_commit),
            ("fsync", &self.fsync),
        ] {
            if value == "off" {
                warnings.push(format!(
                    "PostgreSQL runs with {setting} off, so a crash loses the latest sessions; set {setting} on"
                ));
            }
        }
        if self.is_remote && !self.is_encrypted {
            let line = "the connection to PostgreSQL is not encrypted: add ?sslmode=verify-full to sessions.store";
            warnings.push(line.to_owned());
        }
        // One more connection listens for notifications.
        let needed = pool_size + 1;
        warnings.extend(deploy::connections_warning(
            "PostgreSQL",
            needed,
            self.connections,
        ));
        warnings.extend(deploy::clock_warning("PostgreSQL", self.now));
        warnings
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    fn safe() -> ServerState {
        ServerState {
            synchronous_commit: "on".to_owned(),
            fsync: "on".to_owned(),
            is_encrypted: false,
            is_remote: false,
            connections: 97,
            now: OffsetDateTime::now_utc().unix_timestamp(),
        }
    }

    #[test]
    fn each_unsafe_setting_is_a_warning_and_a_safe_server_has_none() {
        assert_eq!(safe().warnings(16), Vec::<String>::new());
        let off = || "off".to_owned();
        for (state, pool_size, word) in [
            (
                ServerState {
                    synchronous_commit: off(),
                    ..safe()
                },
                16,
                "synchronous_commit",
            ),
            (
                ServerState {
                    fsync: off(),
                    ..safe()
                },
                16,
                "fsync",
            ),
            (
                ServerState {
                    is_remote: true,
                    ..safe()
                },
                16,
                "sslmode",
            ),
            (ServerState { now: 0, ..safe() }, 16, "clocks"),
            (safe(), 97, "max_connections"),
        ] {
            let warnings = state.warnings(pool_size);
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            assert!(warnings[0].contains(word), "{warnings:?}");
        }
        let encrypted = ServerState {
            is_remote: true,
            is_encrypted: true,
            ..safe()
        };
        assert!(encrypted.warnings(16).is_empty());
    }
}
