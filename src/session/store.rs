//! The engines, one file each, and the one thing that they add to tower-sessions' `SessionStore`.

mod memory;
mod redis;
mod sqlite;

use std::{fmt, sync::Arc, time::Duration};

use thiserror::Error;
use tower_sessions::{SessionStore, session::Record, session_store};

use super::settings::StoreUrl;

/// How long the start waits for a store before it gives up.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// A tower-sessions store that can also save on a condition. Without it the last writer wins:
/// with 16 connections on one session, 88 of 100 visits are lost.
#[async_trait::async_trait]
pub trait Store: SessionStore + fmt::Debug {
    /// Saves `new` if the stored record is still `old`, and says whether it did. A record that has
    /// gone is not `old`: it stays dead.
    ///
    /// # Errors
    /// When the store did not answer; the save may have happened.
    async fn compare_and_save(&self, old: &Record, new: &Record) -> session_store::Result<bool>;
}

/// The store can't be opened, in one line without its password.
#[derive(Debug, Error)]
#[error("the session store ({store}) can't be reached: {reason}")]
pub struct StoreError {
    store: StoreUrl,
    reason: String,
}

/// Opens the engine that the settings name and makes sure that it answers.
///
/// # Errors
/// When it does not.
pub async fn open(url: &StoreUrl) -> Result<Arc<dyn Store>, StoreError> {
    let opening = async {
        match url {
            StoreUrl::Memory => Ok(Arc::new(memory::Memory::default()) as Arc<dyn Store>),
            StoreUrl::Sqlite(path) => sqlite::open(path)
                .await
                .map(|store| Arc::new(store) as Arc<dyn Store>)
                .map_err(|error| error.to_string()),
            StoreUrl::Redis(url) => redis::open(url)
                .await
                .map(|store| Arc::new(store) as Arc<dyn Store>)
                .map_err(|error| error.to_string()),
        }
    };
    let opened = tokio::time::timeout(START_TIMEOUT, opening)
        .await
        .unwrap_or_else(|_| Err(format!("no answer in {START_TIMEOUT:?}")));
    opened.map_err(|reason| StoreError {
        store: url.clone(),
        reason,
    })
}

/// The bytes that the engines keep for a record: the same as tower-sessions' own stores write.
fn encoded(record: &Record) -> session_store::Result<Vec<u8>> {
    rmp_serde::to_vec(record).map_err(|error| session_store::Error::Encode(error.to_string()))
}
