//! The deploy warnings of a Redis, which `check --deploy` lists.

use std::{collections::HashMap, time::Duration};

use fred::{
    clients::Client,
    interfaces::ClientLike,
    types::{CustomCommand, Value},
};
use time::OffsetDateTime;
use tokio::time::timeout;
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store,
};

use super::{COMMAND_TIMEOUT, Redis, backend};
use crate::store::{ChangeFeed, Diagnostics, EncodedRecord, Store, refusal::Refusal};

/// How long the record of the rights check lives if its deletion fails.
const RIGHTS_AGE: Duration = Duration::from_secs(60);

/// By how many seconds the clocks of this server and of Redis may differ.
const CLOCK_TOLERANCE: i64 = 1;

impl Redis {
    /// Lists everything that is unsafe for production, in a line each.
    pub(super) async fn warnings(&self) -> session_store::Result<Vec<String>> {
        let info = self.info().await?;
        let mut warnings = Vec::new();
        warnings.extend(self.write_warning().await);
        warnings.extend(persistence_warning(&info));
        warnings.extend(eviction_warning(&info));
        warnings.extend(self.clock_warning().await?);
        let fails_over = self.is_clustered() || self.uses_sentinels;
        if fails_over && self.replicas == 0 {
            warnings.push(
                "a replica that takes over may lack the latest sessions: set sessions.store_replicas to 1"
                    .to_owned(),
            );
        }
        Ok(warnings)
    }

    /// Tries each operation that serving needs, because the user may lack the rights for any of them.
    async fn write_warning(&self) -> Option<String> {
        let error = self.try_all_operations().await.err()?;
        Some(match Refusal::of(&error) {
            Refusal::ReadOnly => {
                "Redis is a read-only replica: set sessions.store to the master's address"
                    .to_owned()
            }
            Refusal::Rights => format!(
                "the user of sessions.store lacks rights in Redis ({error}); docs/operations.md lists those that Tally needs"
            ),
            reason => format!("Redis refuses writes at the moment ({reason}): {error}"),
        })
    }

    async fn try_all_operations(&self) -> session_store::Result<()> {
        self.check_writable().await?;
        self.check_rights().await
    }

    /// Uses each right that serving needs on a record of its own, which it deletes afterwards.
    async fn check_rights(&self) -> session_store::Result<()> {
        let mut record = Record {
            id: Id::default(),
            data: HashMap::new(),
            expiry_date: OffsetDateTime::now_utc() + RIGHTS_AGE,
        };
        self.create(&mut record).await?;
        let encoded = EncodedRecord::from(record.clone());
        let checked = async {
            self.load(&record.id).await?;
            self.subscribe(&record.id).await?;
            self.compare_and_swap(&encoded, &encoded).await?;
            self.check_notification().await?;
            self.unsubscribe(&record.id).await?;
            self.compare_and_delete(&encoded).await?;
            self.check_console_rights().await
        };
        let checked = checked.await;
        let deleted = self.delete(&record.id).await;
        checked.and(deleted)
    }

    /// Waits for the notification of a change. A refused SUBSCRIBE has no other sign, because fred does not wait for its
    /// response. A server that runs receives its notifications itself.
    async fn check_notification(&self) -> session_store::Result<()> {
        if self.subscriber.is_receiving() {
            return Ok(());
        }
        let missing = "NOPERM a change was published, but its notification did not arrive";
        let event = timeout(COMMAND_TIMEOUT, self.next_event()).await;
        event.map(|_| ()).map_err(|_| backend(missing))
    }

    async fn info(&self) -> session_store::Result<String> {
        let query = |client: Client| async move {
            let info = CustomCommand::new_static("INFO", None, false);
            client
                .custom::<String, Value>(info, Vec::new())
                .await
                .map_err(backend)
        };
        self.send(&self.reads, query).await
    }

    async fn clock_warning(&self) -> session_store::Result<Option<String>> {
        let query = |client: Client| async move {
            let time = CustomCommand::new_static("TIME", None, false);
            client
                .custom::<(i64, i64), Value>(time, Vec::new())
                .await
                .map_err(backend)
        };
        let before = OffsetDateTime::now_utc().unix_timestamp();
        let (seconds, _) = self.send(&self.reads, query).await?;
        let after = OffsetDateTime::now_utc().unix_timestamp();
        let off = (before - seconds).max(seconds - after);
        Ok((off > CLOCK_TOLERANCE).then(|| {
            format!(
                "the clocks of this machine and of Redis differ by {off} seconds, so sessions expire early or late"
            )
        }))
    }
}

/// The value of a field in the response to INFO.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = info.lines().filter_map(|line| line.trim().split_once(':'));
    lines
        .find(|(field, _)| *field == name)
        .map(|(_, value)| value)
}

fn persistence_warning(info: &str) -> Option<String> {
    let saves = field(info, "aof_enabled") == Some("1");
    (!saves).then(|| {
        "Redis has no append-only file (appendonly no), so a crash loses the latest sessions; set appendonly yes"
            .to_owned()
    })
}

fn eviction_warning(info: &str) -> Option<String> {
    let policy = field(info, "maxmemory_policy")?;
    let is_limited = field(info, "maxmemory").is_some_and(|limit| limit != "0");
    // Every session has an expiry, so the volatile policies evict sessions too.
    let evicts = policy.starts_with("allkeys-") || (policy.starts_with("volatile-") && is_limited);
    evicts.then(|| {
        format!(
            "Redis evicts sessions when its memory is full (maxmemory-policy {policy}); set it to noeviction"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eviction_policy_that_affects_sessions_is_a_warning() {
        let info = |limit: &str, policy: &str| {
            format!("# Memory\r\nmaxmemory:{limit}\r\nmaxmemory_policy:{policy}\r\n")
        };
        for policy in ["allkeys-lru", "volatile-ttl", "allkeys-random"] {
            let warning = eviction_warning(&info("1000000", policy)).expect("a warning");
            assert!(warning.contains(policy), "{warning}");
        }
        assert!(eviction_warning(&info("0", "allkeys-lru")).is_some());
        assert_eq!(eviction_warning(&info("0", "volatile-ttl")), None);
        assert_eq!(eviction_warning(&info("1000000", "noeviction")), None);
    }
}
