//! A wrapper of any store that measures its operations and reports its outages.

use std::{sync::Arc, time::Instant};

use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store::{self, Error},
};

use super::{
    ChangeFeed, DeleteExpired, Diagnostics, EncodedRecord, Store, Swap, UserIndex, Values,
    index::{SessionIndex, StatsStore},
    outage::{Access, Outage},
};
use crate::metrics::{Recorder, Times};

/// A store with metrics and outage reports.
#[derive(Debug)]
pub struct InstrumentedStore {
    store: Arc<dyn Store>,
    recorder: Arc<Recorder>,
    outage: Outage,
}

impl InstrumentedStore {
    pub fn new(store: Arc<dyn Store>, recorder: Arc<Recorder>) -> Self {
        Self {
            outage: Outage::default(),
            store,
            recorder,
        }
    }

    /// As [`Diagnostics::check_writable`]. A store without diagnostics counts as writable.
    pub async fn check_writable(&self) -> session_store::Result<()> {
        let Some(diagnostics) = self.store.diagnostics() else {
            return Ok(());
        };
        self.record_result(Access::Write, diagnostics.check_writable().await)
    }

    /// As [`Diagnostics::log_bytes`].
    pub fn log_bytes(&self) -> Option<u64> {
        self.store.diagnostics()?.log_bytes()
    }

    /// Runs an operation, and records its duration and result.
    async fn measure<T>(
        &self,
        access: Access,
        times: &Times,
        operation: impl Future<Output = session_store::Result<T>>,
    ) -> session_store::Result<T> {
        let started = Instant::now();
        let result = operation.await;
        times.observe(started.elapsed());
        self.record_result(access, result)
    }

    /// Records the result of an operation. A record that can't be decoded is not a failure of the store.
    fn record_result<T>(
        &self,
        access: Access,
        result: session_store::Result<T>,
    ) -> session_store::Result<T> {
        match &result {
            Err(error @ Error::Backend(_)) => {
                self.recorder.store_errors.inc();
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
        self.measure(Access::Write, &self.recorder.create, creating)
            .await
    }

    async fn save(&self, record: &Record) -> session_store::Result<()> {
        let saving = self.store.save(record);
        self.measure(Access::Write, &self.recorder.save, saving)
            .await
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        let loading = self.store.load(id);
        self.measure(Access::Read, &self.recorder.load, loading)
            .await
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        let deleting = self.store.delete(id);
        self.measure(Access::Write, &self.recorder.delete, deleting)
            .await
    }
}

#[async_trait::async_trait]
impl Store for InstrumentedStore {
    async fn compare_and_swap(
        &self,
        old: &EncodedRecord,
        new: &EncodedRecord,
    ) -> session_store::Result<Swap> {
        let saving = self.store.compare_and_swap(old, new);
        self.measure(Access::Write, &self.recorder.save, saving)
            .await
    }

    async fn compare_and_delete(&self, old: &EncodedRecord) -> session_store::Result<bool> {
        let deleting = self.store.compare_and_delete(old);
        self.measure(Access::Write, &self.recorder.delete, deleting)
            .await
    }

    fn delete_expired(&self) -> Option<&dyn DeleteExpired> {
        self.store.delete_expired()
    }

    fn change_feed(&self) -> Option<&dyn ChangeFeed> {
        self.store.change_feed()
    }

    async fn close(&self) {
        self.store.close().await;
    }

    fn index(&self) -> Option<&dyn SessionIndex> {
        self.store.index()
    }

    fn stats(&self) -> Option<&dyn StatsStore> {
        self.store.stats()
    }

    fn users(&self) -> Option<&dyn UserIndex> {
        self.store.users()
    }

    fn values(&self) -> Option<&dyn Values> {
        self.store.values()
    }

    fn diagnostics(&self) -> Option<&dyn Diagnostics> {
        self.store.diagnostics()
    }
}
