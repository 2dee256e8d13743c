//! A scan of all keys on all nodes of Redis, in small batches. It returns every session that exists during the whole
//! scan, unless a connection breaks.

use std::{pin::Pin, time::Duration};

use fred::{
    error::Error,
    interfaces::EventInterface,
    types::{
        ClusterStateChange,
        config::Server,
        scan::{ScanResult, Scanner},
    },
};
use futures_util::{Stream, StreamExt, future::join_all};
use tokio::{
    sync::broadcast::{Receiver, error::TryRecvError},
    time::timeout,
};
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store,
};

use super::{Redis, backend};
use crate::{envelope::is_session, store::SessionScan};

/// How many keys Redis checks for one batch.
const BATCH: u32 = 500;

/// How long a batch may take.
const BATCH_TIMEOUT: Duration = Duration::from_secs(5);

/// A scan in progress. Dropping it ends the scan.
pub struct Scan<'a> {
    redis: &'a Redis,
    batches: Pin<Box<dyn Stream<Item = Result<ScanResult, Error>> + Send>>,
    /// The current batch. Dropping a [`ScanResult`] requests the next one, unless it is cancelled.
    batch: Option<ScanResult>,
    reconnections: Receiver<Server>,
    changes: Receiver<Vec<ClusterStateChange>>,
}

impl Redis {
    /// Begins a scan.
    ///
    /// # Errors
    /// When there is no connection to Redis.
    pub(super) async fn begin_scan(&self) -> session_store::Result<Scan<'_>> {
        let client = self.reads.client().await.map_err(backend)?;
        let (reconnections, changes) = (client.reconnect_rx(), client.cluster_change_rx());
        let pattern = format!("{}*", escaped(&self.prefix));
        Ok(Scan {
            redis: self,
            batches: if self.is_clustered() {
                Box::pin(client.scan_cluster(pattern, Some(BATCH), None))
            } else {
                Box::pin(client.scan(pattern, Some(BATCH), None))
            },
            batch: None,
            reconnections,
            changes,
        })
    }

    /// Loads the sessions among these records. Other applications may share this Redis.
    async fn sessions_of(&self, ids: &[Id]) -> session_store::Result<Vec<Record>> {
        let mut sessions = Vec::new();
        for record in join_all(ids.iter().map(|id| self.load(id))).await {
            match record {
                Ok(Some(record)) if is_session(&record) => sessions.push(record),
                Ok(_) | Err(session_store::Error::Decode(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sessions)
    }
}

#[async_trait::async_trait]
impl SessionScan for Scan<'_> {
    async fn next(&mut self) -> session_store::Result<Option<Vec<Record>>> {
        self.batch = None;
        let batch = timeout(BATCH_TIMEOUT, self.batches.next()).await;
        let Some(batch) = batch.map_err(|_| backend("Redis did not respond to SCAN"))? else {
            return Ok(None);
        };
        let keys = self.batch.insert(batch.map_err(backend)?).take_results();
        let keys = keys.unwrap_or_default();
        let ids = keys.iter().filter_map(|key| self.redis.id(key.as_str()?));
        let ids: Vec<Id> = ids.collect();
        self.redis.sessions_of(&ids).await.map(Some)
    }

    /// Whether no connection has broken since the scan began, and no node of a Cluster has taken over another one's
    /// keys. A Redis that was restarted has its keys in another order.
    fn has_seen_all(&mut self) -> bool {
        is_empty(&mut self.reconnections) && is_empty(&mut self.changes)
    }
}

impl Drop for Scan<'_> {
    fn drop(&mut self) {
        if let Some(batch) = self.batch.take() {
            batch.cancel();
        }
    }
}

fn is_empty<T: Clone>(events: &mut Receiver<T>) -> bool {
    matches!(events.try_recv(), Err(TryRecvError::Empty))
}

/// Escapes a prefix, so that it matches only itself in a pattern.
fn escaped(prefix: &str) -> String {
    let special = |character| matches!(character, '*' | '?' | '[' | ']' | '\\' | '^' | '-');
    let escape = |character: char| {
        let escape = special(character).then_some('\\');
        escape.into_iter().chain([character])
    };
    prefix.chars().flat_map(escape).collect()
}
