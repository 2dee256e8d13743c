//! Whether PostgreSQL takes writes, and what of it is unsafe for production.

use sqlx::{PgPool, Row};
use time::OffsetDateTime;
use tower_sessions::session_store;

use super::Postgres;
use crate::store::{Diagnostics, Values};

/// The value that is written to see whether the database takes writes.
const PROBE: &str = "probe";

/// The most by which the clocks of the server and of the database may differ, in seconds.
const CLOCK_TOLERANCE: i64 = 1;

#[async_trait::async_trait]
impl Diagnostics for Postgres {
    async fn check_writable(&self) -> session_store::Result<()> {
        let later = OffsetDateTime::now_utc() + time::Duration::minutes(1);
        self.database.set_value(PROBE, "", later).await
    }

    async fn deploy_warnings(&self) -> session_store::Result<Vec<String>> {
        let facts = self.database.connections.run(|| facts(self.pool())).await?;
        let most = self.pool().options().get_max_connections();
        Ok(facts.warnings(i64::from(most)))
    }

    fn has_table(&self) -> bool {
        true
    }
}

/// What the server says of itself.
struct Facts {
    synchronous_commit: String,
    fsync: String,
    is_encrypted: bool,
    is_remote: bool,
    /// Connections that are not kept for superusers.
    connections: i64,
    /// The server's clock, in seconds since 1970.
    now: i64,
}

async fn facts(pool: &PgPool) -> Result<Facts, sqlx::Error> {
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
    Ok(Facts {
        synchronous_commit: row.try_get("synchronous_commit")?,
        fsync: row.try_get("fsync")?,
        is_encrypted: row.try_get("is_encrypted")?,
        is_remote: row.try_get("is_remote")?,
        connections: row.try_get("connections")?,
        now: row.try_get("now")?,
    })
}

impl Facts {
    /// One line for each thing that is unsafe, where the pool holds up to `most` connections.
    fn warnings(&self, most: i64) -> Vec<String> {
        let mut warnings = Vec::new();
        for (setting, value) in [
            ("synchronous_commit", &self.synchronous_commit),
            ("fsync", &self.fsync),
        ] {
            if value == "off" {
                warnings.push(format!(
                    "a crash of PostgreSQL loses the last sessions ({setting} off); set {setting} on"
                ));
            }
        }
        if self.is_remote && !self.is_encrypted {
            let line = "sessions travel to PostgreSQL without TLS: add ?sslmode=verify-full to sessions.store";
            warnings.push(line.to_owned());
        }
        // One more listens.
        if most + 1 > self.connections {
            warnings.push(format!(
                "this server alone may take {} connections, PostgreSQL has {}: lower sessions.store_connections or raise max_connections",
                most + 1,
                self.connections
            ));
        }
        let off = (self.now - OffsetDateTime::now_utc().unix_timestamp()).abs();
        if off > CLOCK_TOLERANCE {
            warnings.push(format!(
                "the clocks of this machine and of PostgreSQL differ by {off} seconds"
            ));
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn safe() -> Facts {
        Facts {
            synchronous_commit: "on".to_owned(),
            fsync: "on".to_owned(),
            is_encrypted: false,
            is_remote: false,
            connections: 97,
            now: OffsetDateTime::now_utc().unix_timestamp(),
        }
    }

    #[test]
    fn each_unsafe_setting_is_a_line_and_a_safe_server_has_none() {
        assert_eq!(safe().warnings(16), Vec::<String>::new());
        let off = || "off".to_owned();
        for (facts, most, word) in [
            (
                Facts {
                    synchronous_commit: off(),
                    ..safe()
                },
                16,
                "synchronous_commit",
            ),
            (
                Facts {
                    fsync: off(),
                    ..safe()
                },
                16,
                "fsync",
            ),
            (
                Facts {
                    is_remote: true,
                    ..safe()
                },
                16,
                "sslmode",
            ),
            (Facts { now: 0, ..safe() }, 16, "clocks"),
            (safe(), 97, "max_connections"),
        ] {
            let warnings = facts.warnings(most);
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            assert!(warnings[0].contains(word), "{warnings:?}");
        }
        let encrypted = Facts {
            is_remote: true,
            is_encrypted: true,
            ..safe()
        };
        assert!(encrypted.warnings(16).is_empty());
    }
}
