//! The deploy warnings of MySQL, which `check --deploy` lists.

use std::net::IpAddr;

use sqlx::{MySqlPool, Row, mysql::MySqlConnectOptions};
use tower_sessions::session_store;

use super::MySql;
use crate::store::{Diagnostics, sql::deploy};

#[async_trait::async_trait]
impl Diagnostics for MySql {
    async fn check_writable(&self) -> session_store::Result<()> {
        deploy::check_writable(&self.database).await
    }

    async fn deploy_warnings(&self) -> session_store::Result<Vec<String>> {
        let read = || state(self.pool());
        let state = self.database.connections.run(read).await?;
        let pool_size = self.pool().options().get_max_connections();
        let is_remote = is_remote(&self.pool().connect_options());
        Ok(state.warnings(i64::from(pool_size), is_remote))
    }

    fn has_table(&self) -> bool {
        true
    }
}

/// Whether the connections leave this machine.
fn is_remote(options: &MySqlConnectOptions) -> bool {
    let host = options.get_host();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let is_loopback = address.map_or(host == "localhost", |address| address.is_loopback());
    options.get_socket().is_none() && !is_loopback
}

/// The settings and the state of the database server.
struct ServerState {
    /// 1: each commit is on disk before its response.
    flush_log_at_commit: i64,
    is_encrypted: bool,
    max_connections: i64,
    /// The server's clock, in seconds since 1970.
    now: i64,
}

async fn state(pool: &MySqlPool) -> Result<ServerState, sqlx::Error> {
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
    Ok(ServerState {
        flush_log_at_commit: row.try_get(0)?,
        is_encrypted: !cipher.is_empty(),
        max_connections: row.try_get(1)?,
        now: row.try_get(2)?,
    })
}

impl ServerState {
    /// Lists everything that is unsafe for production, in a line each. `pool_size`: the most connections in the pool.
    fn warnings(&self, pool_size: i64, is_remote: bool) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.flush_log_at_commit != 1 {
            warnings.push(format!(
                "MySQL runs with innodb_flush_log_at_trx_commit {}, so a crash loses the latest sessions; set it to 1",
                self.flush_log_at_commit
            ));
        }
        if is_remote && !self.is_encrypted {
            let line = "the connection to MySQL is not encrypted: add ?ssl-mode=VERIFY_IDENTITY to sessions.store";
            warnings.push(line.to_owned());
        }
        let allowed = self.max_connections;
        warnings.extend(deploy::connections_warning("MySQL", pool_size, allowed));
        warnings.extend(deploy::clock_warning("MySQL", self.now));
        warnings
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    fn safe() -> ServerState {
        ServerState {
            flush_log_at_commit: 1,
            is_encrypted: false,
            max_connections: 151,
            now: OffsetDateTime::now_utc().unix_timestamp(),
        }
    }

    #[test]
    fn each_unsafe_setting_is_a_warning_and_a_safe_server_has_none() {
        assert_eq!(safe().warnings(16, false), Vec::<String>::new());
        let unflushed = ServerState {
            flush_log_at_commit: 2,
            ..safe()
        };
        for (state, pool_size, is_remote, word) in [
            (unflushed, 16, false, "innodb_flush_log_at_trx_commit"),
            (safe(), 16, true, "ssl-mode"),
            (ServerState { now: 0, ..safe() }, 16, false, "clocks"),
            (safe(), 200, false, "max_connections"),
        ] {
            let warnings = state.warnings(pool_size, is_remote);
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            assert!(warnings[0].contains(word), "{warnings:?}");
        }
        let encrypted = ServerState {
            is_encrypted: true,
            ..safe()
        };
        assert!(encrypted.warnings(16, true).is_empty());
    }

    #[test]
    fn a_socket_and_a_loopback_address_are_not_remote() {
        let options = |url: &str| super::super::options(url).expect("a URL");
        for (url, expected) in [
            ("mysql://tally@localhost/web", false),
            ("mysql://tally@127.0.0.1:3307/web", false),
            ("mysql://tally@[::1]/web", false),
            ("mysql://tally@[2001:db8::1]/web", true),
            ("mysql://tally@db.example/web", true),
            (
                "mariadb://tally@db.example/web?socket=/run/mysqld.sock",
                false,
            ),
        ] {
            assert_eq!(is_remote(&options(url)), expected, "{url}");
        }
    }
}
