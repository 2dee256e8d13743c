//! Any engine, with a clock: how often it is asked for what, how long it takes, how often it fails.

use std::{sync::Arc, time::Instant};

use prometheus_client::metrics::histogram::Histogram;
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store::{self, Error},
};

use super::{
    Heard, Kept, Saved, Store,
    census::{Census, Ledger},
};
use crate::session::metrics::{Metrics, Operation};

/// The engine, and what is written down about it.
#[derive(Debug)]
pub struct Measured {
    store: Arc<dyn Store>,
    metrics: Metrics,
    create: Histogram,
    save: Histogram,
    load: Histogram,
    delete: Histogram,
}

impl Measured {
    pub fn new(store: Arc<dyn Store>, metrics: Metrics) -> Self {
        let histogram = |operation| {
            let label = Operation { operation };
            metrics.store_seconds.get_or_create(&label).clone()
        };
        Self {
            create: histogram("create"),
            save: histogram("save"),
            load: histogram("load"),
            delete: histogram("delete"),
            store,
            metrics,
        }
    }

    /// Waits for an operation and writes down what became of it. A record that can't be decoded
    /// is no failure of the store.
    async fn measure<T>(
        &self,
        histogram: &Histogram,
        operation: impl Future<Output = session_store::Result<T>>,
    ) -> session_store::Result<T> {
        let began = Instant::now();
        let result = operation.await;
        let took = began.elapsed();
        histogram.observe(took.as_secs_f64());
        self.metrics.store_operations.inc();
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.metrics.store_microseconds.inc_by(microseconds);
        if matches!(result, Err(Error::Backend(_))) {
            self.metrics.store_errors.inc();
        }
        result
    }
}

#[async_trait::async_trait]
impl SessionStore for Measured {
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        self.measure(&self.create, self.store.create(record)).await
    }

    async fn save(&self, record: &Record) -> session_store::Result<()> {
        self.measure(&self.save, self.store.save(record)).await
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        self.measure(&self.load, self.store.load(id)).await
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        self.measure(&self.delete, self.store.delete(id)).await
    }
}

#[async_trait::async_trait]
impl Store for Measured {
    async fn compare_and_save(&self, old: &Kept, new: &Kept) -> session_store::Result<Saved> {
        let saving = self.store.compare_and_save(old, new);
        self.measure(&self.save, saving).await
    }

    async fn compare_and_delete(&self, old: &Kept) -> session_store::Result<bool> {
        let deleting = self.store.compare_and_delete(old);
        self.measure(&self.delete, deleting).await
    }

    async fn clear_expired(&self, limit: u32) -> session_store::Result<u64> {
        self.store.clear_expired(limit).await
    }

    fn has_table(&self) -> bool {
        self.store.has_table()
    }

    fn tells(&self) -> bool {
        self.store.tells()
    }

    async fn follow(&self, id: &Id) -> session_store::Result<()> {
        self.store.follow(id).await
    }

    async fn leave(&self, id: &Id) -> session_store::Result<()> {
        self.store.leave(id).await
    }

    async fn heard(&self) -> Heard {
        self.store.heard().await
    }

    async fn close(&self) {
        self.store.close().await;
    }

    fn census(&self) -> Option<&dyn Census> {
        self.store.census()
    }

    fn ledger(&self) -> Option<&dyn Ledger> {
        self.store.ledger()
    }

    async fn weakness(&self) -> session_store::Result<Option<String>> {
        self.store.weakness().await
    }
}
