//! The index of users in Redis: the sign-ins in the order of their users, and by the time of their next check.

use fred::types::{Value, scripts::Script};
use tower_sessions::session_store;

use super::Redis;
use crate::store::{UserEntry, UserIndex};

/// The sign-ins in the order of their users.
const BY_USER: &str = "users";

/// The sign-ins by the time of their next check, in seconds since 1970.
const BY_CHECK: &str = "users-to-check";

/// A member of [`BY_USER`] once the index is complete. As a member, it is lost together with the index.
const COMPLETE: &str = "complete";

/// The most sign-ins in one command. It bounds how long other commands wait for Redis.
const CHUNK_SIZE: usize = 100;

/// The scripts. Each file documents its arguments at the top.
#[derive(Debug)]
pub struct Scripts {
    add: Script,
    remove: Script,
}

impl Default for Scripts {
    fn default() -> Self {
        Self {
            add: Script::from_lua(include_str!("lua/index_users.lua")),
            remove: Script::from_lua(include_str!("lua/unindex_users.lua")),
        }
    }
}

/// An entry as a member of the index, without the time of its next check. Only the last part may contain a colon.
fn member(entry: &UserEntry) -> String {
    let UserEntry {
        user,
        id,
        realm,
        number,
        signed_in_at,
        check_at: _,
    } = entry;
    format!("{user}:{id}:{number:x}:{signed_in_at}:{realm}")
}

/// Parses a member of the index. `None`: it is not an entry.
fn entry(member: &str, check_at: i64) -> Option<UserEntry> {
    let mut parts = member.splitn(5, ':');
    Some(UserEntry {
        user: parts.next()?.to_owned(),
        id: parts.next()?.parse().ok()?,
        number: u64::from_str_radix(parts.next()?, 16).ok()?,
        signed_in_at: parts.next()?.parse().ok()?,
        realm: parts.next()?.to_owned(),
        check_at,
    })
}

impl Redis {
    fn user_keys(&self) -> Vec<String> {
        vec![self.console_key(BY_USER), self.console_key(BY_CHECK)]
    }

    /// Runs a script on the index for each chunk of arguments. It waits for replicas as a save does.
    async fn run_on_users(
        &self,
        script: &Script,
        chunks: impl Iterator<Item = Vec<String>> + Send,
    ) -> session_store::Result<()> {
        for chunk in chunks {
            let arguments = chunk.into_iter().map(String::into_bytes).collect();
            self.run_on(script, self.user_keys(), arguments).await?;
        }
        Ok(())
    }

    /// Uses each right that the index of users needs.
    pub(super) async fn check_user_rights(&self) -> session_store::Result<()> {
        self.is_complete().await?;
        self.entries("none").await?;
        self.due(0, 1).await.map(|_| ())
    }
}

#[async_trait::async_trait]
impl UserIndex for Redis {
    async fn add(&self, entries: &[UserEntry]) -> session_store::Result<()> {
        let args = |entry: &UserEntry| [member(entry), entry.check_at.to_string()];
        let chunks = entries.chunks(CHUNK_SIZE);
        let chunks = chunks.map(|chunk| chunk.iter().flat_map(args).collect());
        self.run_on_users(&self.user_scripts.add, chunks).await
    }

    async fn remove(&self, entries: &[UserEntry]) -> session_store::Result<()> {
        let chunks = entries.chunks(CHUNK_SIZE);
        let chunks = chunks.map(|chunk| chunk.iter().map(member).collect());
        self.run_on_users(&self.user_scripts.remove, chunks).await
    }

    async fn entries(&self, user: &str) -> session_store::Result<Vec<UserEntry>> {
        // The range ends at a semicolon, the character after a colon.
        let range = [format!("[{user}:"), format!("({user};")].map(Value::from);
        let members: Vec<String> = self.read("ZRANGEBYLEX", BY_USER, range.to_vec()).await?;
        Ok(members
            .iter()
            .filter_map(|member| entry(member, 0))
            .collect())
    }

    async fn due(&self, now: i64, limit: u32) -> session_store::Result<Vec<UserEntry>> {
        let args: Vec<Value> = vec![
            "-inf".into(),
            now.into(),
            "LIMIT".into(),
            0.into(),
            i64::from(limit).into(),
        ];
        let members: Vec<String> = self.read("ZRANGEBYSCORE", BY_CHECK, args).await?;
        Ok(members
            .iter()
            .filter_map(|member| entry(member, now))
            .collect())
    }

    async fn count(&self) -> session_store::Result<u64> {
        let all = vec!["-inf".into(), "+inf".into()];
        self.read("ZCOUNT", BY_CHECK, all).await
    }

    async fn is_complete(&self) -> session_store::Result<bool> {
        let args = vec![COMPLETE.into()];
        let score: Option<f64> = self.read("ZSCORE", BY_USER, args).await?;
        Ok(score.is_some())
    }

    async fn set_complete(&self) -> session_store::Result<()> {
        let args = vec![0.into(), COMPLETE.into()];
        self.command::<i64>(&self.writes, "ZADD", self.console_key(BY_USER), args)
            .await
            .map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use tower_sessions::session::Id;

    use super::*;

    #[test]
    fn an_entry_round_trips_through_a_member() {
        let written = UserEntry {
            user: crate::auth::user_key("ada"),
            id: Id(-7),
            realm: "a:realm".to_owned(),
            number: u64::MAX,
            signed_in_at: 1_800_000_000,
            check_at: 5,
        };
        assert_eq!(entry(&member(&written), 5), Some(written));
        assert_eq!(entry(COMPLETE, 5), None);
    }
}
