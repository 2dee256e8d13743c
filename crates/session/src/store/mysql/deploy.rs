//! Whether MySQL takes writes, and what of it is unsafe for production.

use sqlx::{MySqlPool, Row, mysql::MySqlConnectOptions};
use time::OffsetDateTime;
use tower_sessions::session_store;

use super::MySql;
use crate::store::{Diagnostics, Values};

/// The value that is written to see whether the database takes writes.
const PROBE: &str = "probe";

/// The most by which the clocks of the server and of the database may differ, in seconds.
const CLOCK_TOLERANCE: i64 = 1;

#[async_trait::async_trait]
impl Diagnostics for MySql {
    async fn check_writable(&self) -> session_store::Result<()> {
        let later = OffsetDateTime::now_utc() + time::Duration::minutes(1);
        self.database.set_value(PROBE, "", later).await
    }

    async fn deploy_warnings(&self) -> session_store::Result<Vec<String>> {
        let read = || facts(self.pool());
        let facts = self.database.connections.run(read).await?;
        let most = self.pool().options().get_max_connections();
        let is_remote = is_remote(&self.pool().connect_options());
        Ok(facts.warnings(i64::from(most), is_remote))
    }

    fn has_table(&self) -> bool {
        true
    }
}

/// Whether the connections leave this machine.
fn is_remote(options: &MySqlConnectOptions) -> bool {
    let host = options.get_host();
    let is_loopback = host == "localhost" || host.starts_with("127.") || host.contains("::1");
    options.get_socket().is_none() && !is_loopback
}

/// The settings and the state of the server.
struct Facts {
    /// 1: each commit is on the disk before its response.
    flush_log_at_commit: i64,
    is_encrypted: bool,
    max_connections: i64,
    /// The server's clock, in seconds since 1970.
    now: i64,
}

async fn facts(pool: &MySqlPool) -> Result<Facts, sqlx::Error> {
    let row = sqlx::query(
        "select cast(@@global.innodb_flush_log_at_trx_commit as signed), \
         cast(@@global.max_connections as signed), cast(unix_timestamp() as signed)",
    )
    .fetch_one(pool)
    .await?;
    let cipher = sqlx::query("show session status like 'Ssl_cipher'")
        .fetch_optional(pool)
        .await?;
    let cipher: Vec<u8> = match cipher {
        Some(cipher) => cipher.try_get_unchecked(1)?,
        None => Vec::new(),
    };
    Ok(Facts {
        flush_log_at_commit: row.try_get(0)?,
        is_encrypted: !cipher.is_empty(),
        max_connections: row.try_get(1)?,
        now: row.try_get(2)?,
    })
}

impl Facts {
    /// One line for each thing that is unsafe, where the pool holds up to `most` connections.
    fn warnings(&self, most: i64, is_remote: bool) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.flush_log_at_commit != 1 {
            warnings.push(format!(
                "a crash of MySQL loses the last sessions (innodb_flush_log_at_trx_commit {}); set it to 1",
                self.flush_log_at_commit
            ));
        }
        if is_remote && !self.is_encrypted {
            let line = "sessions travel to MySQL without TLS: add ?ssl-mode=VERIFY_IDENTITY to sessions.store";
            warnings.push(line.to_owned());
        }
        if most > self.max_connections {
            warnings.push(format!(
                "this server alone may take {most} connections, MySQL has {}: lower sessions.store_connections or raise max_connections",
                self.max_connections
            ));
        }
        let off = (self.now - OffsetDateTime::now_utc().unix_timestamp()).abs();
        if off > CLOCK_TOLERANCE {
            warnings.push(format!(
                "the clocks of this machine and of MySQL differ by {off} seconds"
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
            flush_log_at_commit: 1,
            is_encrypted: false,
            max_connections: 151,
            now: OffsetDateTime::now_utc().unix_timestamp(),
        }
    }

    #[test]
    fn each_unsafe_setting_is_a_line_and_a_safe_server_has_none() {
        assert_eq!(safe().warnings(16, false), Vec::<String>::new());
        let unflushed = Facts {
            flush_log_at_commit: 2,
            ..safe()
        };
        for (facts, most, is_remote, word) in [
            (unflushed, 16, false, "innodb_flush_log_at_trx_commit"),
            (safe(), 16, true, "ssl-mode"),
            (Facts { now: 0, ..safe() }, 16, false, "clocks"),
            (safe(), 200, false, "max_connections"),
        ] {
            let warnings = facts.warnings(most, is_remote);
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            assert!(warnings[0].contains(word), "{warnings:?}");
        }
        let encrypted = Facts {
            is_encrypted: true,
            ..safe()
        };
        assert!(encrypted.warnings(16, true).is_empty());
    }

    #[test]
    fn a_socket_and_a_loopback_address_stay_on_this_machine() {
        let options = |url: &str| super::super::options(url).expect("a URL");
        for (url, is_out) in [
            ("mysql://tally@localhost/web", false),
            ("mysql://tally@127.0.0.1:3307/web", false),
            ("mysql://tally@db.example/web", true),
            (
                "mariadb://tally@db.example/web?socket=/run/mysqld.sock",
                false,
            ),
        ] {
            assert_eq!(is_remote(&options(url)), is_out, "{url}");
        }
    }
}
