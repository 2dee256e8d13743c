//! Any engine, instrumented: how often it is asked for what, how long it takes, how often it fails.

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
    outage::{Access, Outage},
};
use crate::metrics::{Metrics, Operation};

/// The engine, and what is written down about it.
#[derive(Debug)]
pub struct InstrumentedStore {
    store: Arc<dyn Store>,
    metrics: Metrics,
    outage: Outage,
    create: Histogram,
    save: Histogram,
    load: Histogram,
    delete: Histogram,
}

impl InstrumentedStore {
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
            outage: Outage::default(),
            store,
            metrics,
        }
    }

    /// Waits for an operation and writes down what became of it. A record that can't be decoded
    /// is no failure of the store.
    async fn measure<T>(
        &self,
        access: Access,
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
        self.noted(access, result)
    }

    fn noted<T>(
        &self,
        access: Access,
        result: session_store::Result<T>,
    ) -> session_store::Result<T> {
        match &result {
            Err(error @ Error::Backend(_)) => {
                self.metrics.store_errors.inc();
                self.outage.failed(access, error);
            }
            _ => self.outage.succeeded(access),
        }
        result
    }
}

#[async_trait::async_trait]
impl SessionStore for InstrumentedStore {
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        let creating = self.store.create(record);
        self.measure(Access::Write, &self.create, creating).await
    }

    async fn save(&self, record: &Record) -> session_store::Result<()> {
        let saving = self.store.save(record);
        self.measure(Access::Write, &self.save, saving).await
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        let loading = self.store.load(id);
        self.measure(Access::Read, &self.load, loading).await
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        let deleting = self.store.delete(id);
        self.measure(Access::Write, &self.delete, deleting).await
    }
}

#[async_trait::async_trait]
impl Store for InstrumentedStore {
    async fn compare_and_save(&self, old: &Kept, new: &Kept) -> session_store::Result<Saved> {
        let saving = self.store.compare_and_save(old, new);
        self.measure(Access::Write, &self.save, saving).await
    }

    async fn compare_and_delete(&self, old: &Kept) -> session_store::Result<bool> {
        let deleting = self.store.compare_and_delete(old);
        self.measure(Access::Write, &self.delete, deleting).await
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

    fn log_bytes(&self) -> Option<u64> {
        self.store.log_bytes()
    }

    async fn check_writable(&self) -> session_store::Result<()> {
        let checked = self.store.check_writable().await;
        self.noted(Access::Write, checked)
    }

    async fn deploy_warnings(&self) -> session_store::Result<Vec<String>> {
        self.store.deploy_warnings().await
    }
}
