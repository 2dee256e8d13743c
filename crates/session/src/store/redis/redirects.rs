//! Follows a Cluster's redirections, one command at a time, on a connection that nothing else uses.
//!
//! fred sends ASKING on a shared connection and takes the next response for its own. That may be the response to
//! another request's command, so two clients could get each other's records. Therefore no shared connection follows
//! redirections.
//!
//! After a MOVED, the client updates its map of the Cluster, and the same command finds its node. So only commands on a
//! slot that is being moved come here.

use std::fmt;

use fred::prelude::{Builder, Client};
use tokio::sync::Mutex;
use tower_sessions::session_store;

use super::{
    backend,
    pool::{Connected, connect},
};

/// How many times a command may be redirected before it fails.
const MAX_REDIRECTIONS: u32 = 5;

/// The connection for redirected commands, which is opened when the first one needs it.
pub struct Redirects {
    builder: Builder,
    connected: Mutex<Option<Connected>>,
}

impl fmt::Debug for Redirects {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Redirects")
    }
}

impl Redirects {
    /// Does not connect yet.
    pub fn new(mut builder: Builder) -> Self {
        builder.with_connection_config(|connection| {
            connection.max_redirections = MAX_REDIRECTIONS;
            connection.max_command_attempts = MAX_REDIRECTIONS;
        });
        Self {
            builder,
            connected: Mutex::default(),
        }
    }

    /// Runs a command while no other one uses the connection. After a command that failed or was dropped, the
    /// connection is not reused, because the response might still arrive.
    ///
    /// # Errors
    /// When the command fails, or the connection can't be opened.
    pub async fn follow<T, F>(&self, call: impl FnOnce(Client) -> F) -> session_store::Result<T>
    where
        F: Future<Output = session_store::Result<T>>,
    {
        let mut slot = self.connected.lock().await;
        let connected = match slot.take() {
            Some(connected) => connected,
            None => connect(&self.builder, &[]).await.map_err(backend)?,
        };
        let result = call(connected.client.clone()).await;
        if result.is_ok() {
            *slot = Some(connected);
        }
        result
    }
}
