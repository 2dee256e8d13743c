//! A walk through every name that Redis has, of all of its servers, in small steps. Sessions among
//! them that are there from its beginning to its end are met, unless a connection broke meanwhile.

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

/// So many names are looked at in one step.
const STEP: u32 = 500;

/// How long a step may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// Where it is, until it is dropped.
pub struct Scan<'a> {
    redis: &'a Redis,
    steps: Pin<Box<dyn Stream<Item = Result<ScanResult, Error>> + Send>>,
    /// Dropping one asks for the next one, even where nobody wants it any more.
    step: Option<ScanResult>,
    reconnections: Receiver<Server>,
    changes: Receiver<Vec<ClusterStateChange>>,
}

impl Redis {
    /// Begins a walk.
    ///
    /// # Errors
    /// When there is no connection to Redis.
    pub(super) async fn begin_scan(&self) -> session_store::Result<Scan<'_>> {
        let client = self.reads.client().await.map_err(backend)?;
        let (reconnections, changes) = (client.reconnect_rx(), client.cluster_change_rx());
        let pattern = format!("{}*", escaped(&self.prefix));
        Ok(Scan {
            redis: self,
            steps: if self.is_clustered() {
                Box::pin(client.scan_cluster(pattern, Some(STEP), None))
            } else {
                Box::pin(client.scan(pattern, Some(STEP), None))
            },
            step: None,
            reconnections,
            changes,
        })
    }

    /// The sessions among these names: others may share this Redis.
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
        self.step = None;
        let step = timeout(STEP_TIMEOUT, self.steps.next()).await;
        let Some(step) = step.map_err(|_| backend("Redis is silent"))? else {
            return Ok(None);
        };
        let names = self.step.insert(step.map_err(backend)?).take_results();
        let names = names.unwrap_or_default();
        let ids = names
            .iter()
            .filter_map(|name| self.redis.id(name.as_str()?));
        let ids: Vec<Id> = ids.collect();
        self.redis.sessions_of(&ids).await.map(Some)
    }

    /// Whether no connection broke since it began, and no server of a Cluster took over another one's
    /// names: a Redis that was restarted in between has its names in another order.
    fn has_seen_all(&mut self) -> bool {
        is_silent(&mut self.reconnections) && is_silent(&mut self.changes)
    }
}

impl Drop for Scan<'_> {
    fn drop(&mut self) {
        if let Some(step) = self.step.take() {
            step.cancel();
        }
    }
}

fn is_silent<T: Clone>(events: &mut Receiver<T>) -> bool {
    matches!(events.try_recv(), Err(TryRecvError::Empty))
}

/// A prefix as a pattern that stands for itself alone.
fn escaped(prefix: &str) -> String {
    let special = |character| matches!(character, '*' | '?' | '[' | ']' | '\\' | '^' | '-');
    let escape = |character: char| {
        let escape = special(character).then_some('\\');
        escape.into_iter().chain([character])
    };
    prefix.chars().flat_map(escape).collect()
}
