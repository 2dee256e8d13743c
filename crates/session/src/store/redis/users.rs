//! The index of users in Redis: sign-ins in the order of their users, and by when each is looked at again.

use fred::types::{Value, scripts::Script};
use tower_sessions::session_store;

use super::Redis;
use crate::store::{UserEntry, UserIndex};

/// The sign-ins in the order of their users.
const BY_USER: &str = "users";

/// The sign-ins by when each is looked at again, in seconds since 1970.
const BY_CHECK: &str = "users-to-check";

/// Is among the sign-ins once the index has been completed, so it is lost with them.
const COMPLETE: &str = "complete";

/// This many sign-ins go in one command, so that Redis is busy with none of them for long.
const TOGETHER: usize = 100;

/// The scripts. Each file names its arguments at its top.
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

/// What Redis keeps of an entry, without when it is looked at again. No part but the last one has a colon.
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

/// The entry; `None`: somebody else has written it.
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

    /// Runs a script on the index, in steps. It waits for replicas as a save does.
    async fn run_on_users(
        &self,
        script: &Script,
        steps: impl Iterator<Item = Vec<String>> + Send,
    ) -> session_store::Result<()> {
        for step in steps {
            let arguments = step.into_iter().map(String::into_bytes).collect();
            self.run_on(script, self.user_keys(), arguments).await?;
        }
        Ok(())
    }

    /// Uses the rights that the index of users takes.
    pub(super) async fn check_user_rights(&self) -> session_store::Result<()> {
        self.is_complete().await?;
        self.entries("none").await?;
        self.due(0, 1).await.map(|_| ())
    }
}

#[async_trait::async_trait]
impl UserIndex for Redis {
    async fn add(&self, entries: &[UserEntry]) -> session_store::Result<()> {
        let words = |entry: &UserEntry| [member(entry), entry.check_at.to_string()];
        let steps = entries.chunks(TOGETHER);
        let steps = steps.map(|step| step.iter().flat_map(words).collect());
        self.run_on_users(&self.user_scripts.add, steps).await
    }

    async fn remove(&self, entries: &[UserEntry]) -> session_store::Result<()> {
        let steps = entries.chunks(TOGETHER);
        let steps = steps.map(|step| step.iter().map(member).collect());
        self.run_on_users(&self.user_scripts.remove, steps).await
    }

    async fn entries(&self, user: &str) -> session_store::Result<Vec<UserEntry>> {
        // A semicolon comes after a colon.
        let range = [format!("[{user}:"), format!("({user};")].map(Value::from);
        let members: Vec<String> = self.read("ZRANGEBYLEX", BY_USER, range.to_vec()).await?;
        Ok(members
            .iter()
            .filter_map(|member| entry(member, 0))
            .collect())
    }

    async fn due(&self, now: i64, limit: u32) -> session_store::Result<Vec<UserEntry>> {
        let words: Vec<Value> = vec![
            "-inf".into(),
            now.into(),
            "LIMIT".into(),
            0.into(),
            i64::from(limit).into(),
        ];
        let members: Vec<String> = self.read("ZRANGEBYSCORE", BY_CHECK, words).await?;
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
        let words = vec![COMPLETE.into()];
        let score: Option<f64> = self.read("ZSCORE", BY_USER, words).await?;
        Ok(score.is_some())
    }

    async fn set_complete(&self) -> session_store::Result<()> {
        let words = vec![0.into(), COMPLETE.into()];
        self.command::<i64>(&self.writes, "ZADD", self.console_key(BY_USER), words)
            .await
            .map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use tower_sessions::session::Id;

    use super::*;

    #[test]
    fn an_entry_survives_its_text() {
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
