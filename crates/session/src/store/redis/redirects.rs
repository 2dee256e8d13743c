//! Follows a Cluster's redirections, one command at a time, on a connection that nothing else uses.
//!
//! fred sends ASKING on a connection that others share and takes the next response for its own, which may be
//! the response to somebody else's command: two clients could get each other's records. So no shared
//! connection may follow a redirection. A MOVED has the client learn the Cluster's state, after which
//! the same command finds its node; only the keys of a slot that is being moved come here.

use std::fmt;

use fred::prelude::{Builder, Client};
use tokio::sync::Mutex;
use tower_sessions::session_store;

use super::{
    backend,
    pool::{Connected, connect},
};

/// How often a command is redirected before it fails.
const MOST_REDIRECTIONS: u32 = 5;

/// The connection, where one has been needed.
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
    /// Connects when a command is redirected for the first time.
    pub fn new(mut builder: Builder) -> Self {
        builder.with_connection_config(|connection| {
            connection.max_redirections = MOST_REDIRECTIONS;
            connection.max_command_attempts = MOST_REDIRECTIONS;
        });
        Self {
            builder,
            connected: Mutex::default(),
        }
    }

    /// Runs a command alone. A connection on which one failed, or was given up, is not used again: its
    /// response might come later.
    ///
    /// # Errors
    /// The command's own, and when no connection can be made.
    pub async fn follow<T, F>(&self, call: impl FnOnce(Client) -> F) -> session_store::Result<T>
    where
        F: Future<Output = session_store::Result<T>>,
    {
        let mut place = self.connected.lock().await;
        let connected = match place.take() {
            Some(connected) => connected,
            None => connect(&self.builder, &[]).await.map_err(backend)?,
        };
        let result = call(connected.client.clone()).await;
        if result.is_ok() {
            *place = Some(connected);
        }
        result
    }
}
