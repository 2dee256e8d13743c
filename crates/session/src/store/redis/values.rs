//! Small shared values in Redis, under keys of their own.

use fred::types::{Value, scripts::Script};
use time::OffsetDateTime;
use tower_sessions::session_store;

use super::{Redis, backend};
use crate::{envelope::expires_in, store::Values};

/// Follows the prefix in the key of a value. No session's key has a colon there.
const VALUE: &str = "value:";

/// The scripts. Each file documents its arguments at the top.
#[derive(Debug)]
pub struct Scripts {
    set: Script,
    take: Script,
}

impl Default for Scripts {
    fn default() -> Self {
        Self {
            set: Script::from_lua(include_str!("lua/set_value.lua")),
            take: Script::from_lua(include_str!("lua/take_value.lua")),
        }
    }
}

impl Redis {
    fn value_key(&self, name: &str) -> String {
        format!("{}{VALUE}{name}", self.prefix)
    }

    /// Uses each right that values need.
    pub(super) async fn check_value_rights(&self) -> session_store::Result<()> {
        self.set_value("rights", "", expires_in(60)).await?;
        self.value("rights").await?;
        self.take_value("rights").await.map(|_| ())
    }
}

#[async_trait::async_trait]
impl Values for Redis {
    async fn value(&self, name: &str) -> session_store::Result<Option<String>> {
        self.command(&self.reads, "GET", self.value_key(name), Vec::new())
            .await
    }

    async fn set_value(
        &self,
        name: &str,
        value: &str,
        expires_at: OffsetDateTime,
    ) -> session_store::Result<()> {
        let expires_at = expires_at.unix_timestamp().to_string();
        let arguments = vec![value.as_bytes().to_vec(), expires_at.into_bytes()];
        let set = self.run_on(
            &self.value_scripts.set,
            vec![self.value_key(name)],
            arguments,
        );
        set.await.map(|_| ())
    }

    async fn take_value(&self, name: &str) -> session_store::Result<Option<String>> {
        let keys = vec![self.value_key(name)];
        let taken = self
            .run_on(&self.value_scripts.take, keys, Vec::new())
            .await?;
        match taken {
            Value::Null => Ok(None),
            value => value.convert().map(Some).map_err(backend),
        }
    }
}
