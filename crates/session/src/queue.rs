//! The queues of changes, one for each session that is being changed on this server.
//!
//! A queue's worker saves the waiting changes in batches, so a save conflicts only with other servers.
//!
//! The request that opens a queue polls its worker. That spares a switch to another task and back, a sixth of a
//! request's CPU time. The worker becomes a task of its own as soon as the session's next change is queued, or the
//! request is dropped. So a request that is dropped, or that nobody polls, never blocks another one.
//!
//! A queue exists only while it has changes.

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroUsize,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt;

use lru::LruCache;
use time::OffsetDateTime;
use tokio::{
    runtime::Handle,
    sync::oneshot,
    time::{Instant, sleep},
};
use tower_sessions::{
    session::{Id, Record},
    session_store,
};

use super::{
    SessionError,
    config::Config,
    envelope::{Envelope, WriteStamp, jitter},
    live::Live,
    metrics::Recorder,
    state::SessionState,
    store::{EncodedRecord, Store, Swap, refusal::Refusal},
};

/// How long a change is retried after conflicts and broken connections. The time starts when the oldest change of its
/// batch is submitted. Together with the stores' own timeouts, it keeps a client from waiting for longer than about
/// eight seconds.
pub const RETRY_DEADLINE: Duration = Duration::from_secs(4);

/// The wait before a save is sent again after its connection broke. It doubles each time.
const MIN_BACKOFF: Duration = Duration::from_millis(1);
const MAX_BACKOFF: Duration = Duration::from_millis(200);

/// The most changes in one write. It bounds the time that the first of them waits for the last.
const MAX_BATCH: usize = 128;

/// The most records in the cache: about 4 MB if they are of ordinary size.
const CACHE_CAPACITY: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");

/// The largest record that is cached, in bytes, so that the cache's memory is bounded.
const MAX_CACHED_BYTES: usize = 2_048;

/// The outcome of a change.
#[derive(Debug)]
pub enum Outcome<S> {
    /// The change was saved, or there was nothing to save.
    Done {
        before: Arc<Envelope<S>>,
        after: Arc<Envelope<S>>,
        saved: bool,
        /// When the session now expires, in seconds since 1970.
        expires_at: i64,
    },
    /// There is no such session. `ended`: it was deleted while the change was being tried.
    Gone { ended: bool },
}

/// A queued change.
pub trait Change<S>: Send {
    /// Changes the session. May run more than once, each time on a newer state.
    fn apply(&mut self, stored: &mut Envelope<S>);
    /// Whether the session is saved even if nothing has changed, to extend its lifetime.
    fn touch(&self) -> bool {
        false
    }
    /// Sends the outcome to the request.
    fn finish(self: Box<Self>, outcome: Result<Outcome<S>, SessionError>);
}

/// A change by a function. `done` receives the function's output with the outcome.
pub struct UpdateFn<F, T, D> {
    pub function: F,
    pub touch: bool,
    pub output: Option<T>,
    pub done: D,
}

impl<S, F, T, D> Change<S> for UpdateFn<F, T, D>
where
    F: Fn(&mut Envelope<S>) -> T + Send,
    T: Send,
    D: FnOnce(Result<(Outcome<S>, Option<T>), SessionError>) + Send,
{
    fn apply(&mut self, stored: &mut Envelope<S>) {
        self.output = Some((self.function)(stored));
    }

    fn touch(&self) -> bool {
        self.touch
    }

    fn finish(self: Box<Self>, outcome: Result<Outcome<S>, SessionError>) {
        let Self { output, done, .. } = *self;
        done(outcome.map(|outcome| (outcome, output)));
    }
}

/// The queues of the sessions that are being changed right now.
#[derive(Debug)]
pub struct Queue<S> {
    store: Arc<dyn Store>,
    config: Config,
    /// The server's number, which stamps its writes.
    server: u64,
    queues: Mutex<Queues<S>>,
    live: Arc<Live<S>>,
    /// The records that this server saved last. The next change tries its save on the cached record, without a load.
    /// A stale record does no harm, because the save compares it with the stored one.
    cache: Mutex<LruCache<Id, Loaded<S>>>,
    recorder: Arc<Recorder>,
}

type Queues<S> = HashMap<Id, SessionQueue<S>>;

/// The queue of one session.
struct SessionQueue<S> {
    /// The waiting changes, each with the time when it was submitted.
    waiting: VecDeque<(Instant, Box<dyn Change<S>>)>,
    /// The worker, while only the request that opened the queue polls it.
    inline: Option<InlineBatch>,
}

impl<S> std::fmt::Debug for SessionQueue<S> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "SessionQueue({})", self.waiting.len())
    }
}

/// A queue's worker, polled by the request that opened the queue until it becomes a task of its own.
#[derive(Clone)]
struct InlineBatch(Arc<Mutex<Option<Work>>>);

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

impl InlineBatch {
    fn new<S: SessionState>(worker: Worker<S>) -> Self {
        // A panic drops the waiting changes' senders, which is how their requests learn of it.
        let work = AssertUnwindSafe(worker.run()).catch_unwind().map(|_| ());
        Self(Arc::new(Mutex::new(Some(Box::pin(work)))))
    }

    fn poll(&self, context: &mut Context<'_>) {
        let mut work = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(future) = &mut *work
            && future.as_mut().poll(context).is_ready()
        {
            *work = None;
        }
    }

    /// Spawns the worker as a task, unless it is one already or has finished.
    fn detach(&self) {
        let work = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(work) = work
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(work);
        }
    }
}

/// The future of a submitted change's result. It also runs the queue's worker if the change has opened the queue.
#[must_use = "the queue makes no progress until this is awaited or dropped"]
pub struct QueuedChange<T> {
    inline: Option<InlineBatch>,
    finished: oneshot::Receiver<T>,
}

impl<T> Future for QueuedChange<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(inline) = &self.inline {
            inline.poll(context);
        }
        self.finished.poll_unpin(context).map(Result::ok)
    }
}

impl<T> Drop for QueuedChange<T> {
    fn drop(&mut self) {
        if let Some(inline) = &self.inline {
            inline.detach();
        }
    }
}

/// The changes that are saved in one write.
struct Batch<S> {
    changes: Vec<Box<dyn Change<S>>>,
    deadline: Instant,
}

impl<S> std::fmt::Debug for dyn Change<S> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Change")
    }
}

/// Processes the queue of one session.
///
/// If a change panics, the queue is dropped with its waiting changes, so that their requests fail instead of waiting
/// forever.
struct Worker<S: SessionState> {
    queue: Arc<Queue<S>>,
    id: Id,
}

impl<S: SessionState> Worker<S> {
    async fn run(self) {
        let mut cached = self.queue.cache().pop(&self.id);
        while let Some(batch) = self.queue.next_batch(self.id) {
            cached = self.queue.change(self.id, batch, cached).await;
        }
        if let Some(loaded) = cached.filter(|loaded| loaded.record.size() <= MAX_CACHED_BYTES) {
            self.queue.cache().put(self.id, loaded);
        }
    }
}

impl<S: SessionState> Drop for Worker<S> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.queue.queues().remove(&self.id);
        }
    }
}

/// A session with its record.
#[derive(Debug)]
pub struct Loaded<S> {
    pub record: EncodedRecord,
    /// Never modified: a change makes a new one.
    pub envelope: Arc<Envelope<S>>,
}

/// A write to be tried, with the outcome of each of its changes.
struct Attempt<S> {
    new: Loaded<S>,
    write: WriteStamp,
    outcomes: Vec<Outcome<S>>,
}

/// The save of one batch, with its retries.
struct BatchSave<'a, S: SessionState> {
    queue: &'a Queue<S>,
    id: Id,
    batch: Batch<S>,
    /// The last attempt, after a conflict. It may be the conflicting write itself, if its connection broke after the
    /// store had saved it.
    unconfirmed: Option<Attempt<S>>,
    /// The store has returned the session since the batch began.
    existed: bool,
    /// The last save was sent more than once.
    resent: bool,
}

/// The next step for a batch.
enum Step<S> {
    /// Load the record from the store.
    Load,
    /// Run the changes on the cached record.
    TryCached(Loaded<S>),
    /// Run the changes on the record that the store has just returned.
    TryLoaded(Loaded<S>),
    /// Replace the record by the attempt's.
    Save(Loaded<S>, Box<Attempt<S>>),
    /// The batch has finished. This is the session's record, if it is known.
    Finished(Option<Loaded<S>>),
}

impl<S: SessionState> BatchSave<'_, S> {
    async fn run(mut self, cached: Option<Loaded<S>>) -> Option<Loaded<S>> {
        let mut step = cached.map_or(Step::Load, Step::TryCached);
        loop {
            step = match step {
                Step::Load => self.load().await,
                Step::TryCached(cached) => self.try_cached(cached),
                Step::TryLoaded(loaded) => self.try_loaded(loaded),
                Step::Save(old, attempt) => self.save(old, *attempt).await,
                Step::Finished(loaded) => return loaded,
            };
        }
    }

    async fn load(&mut self) -> Step<S> {
        match self.queue.load(self.id).await {
            Ok(found) => self.found(found),
            Err(error) if self.resent => self.fail(&error.indeterminate()),
            Err(error) => self.fail(&error),
        }
    }

    fn found(&mut self, found: Option<Loaded<S>>) -> Step<S> {
        match found {
            Some(loaded) => {
                self.existed = true;
                Step::TryLoaded(loaded)
            }
            None => {
                let ended = self.existed;
                self.finish(|| Ok(Outcome::Gone { ended }));
                Step::Finished(None)
            }
        }
    }

    fn try_cached(&mut self, cached: Loaded<S>) -> Step<S> {
        match self.queue.attempt(&cached, &mut self.batch.changes) {
            Ok(Some(attempt)) => Step::Save(cached, Box::new(attempt)),
            // Without a save, nothing compares the cached record with the stored one.
            Ok(None) => Step::Load,
            Err(error) => self.fail(&error),
        }
    }

    fn try_loaded(&mut self, loaded: Loaded<S>) -> Step<S> {
        if let Some(unconfirmed) = self.unconfirmed.take() {
            if loaded.envelope.is_stamped(unconfirmed.write) {
                return self.saved(unconfirmed.outcomes, loaded);
            }
            if Instant::now() >= self.batch.deadline {
                return self.fail(&SessionError::Conflict);
            }
        }
        match self.queue.attempt(&loaded, &mut self.batch.changes) {
            Ok(Some(attempt)) => Step::Save(loaded, Box::new(attempt)),
            Ok(None) => {
                self.finish(|| Ok(unchanged(&loaded)));
                Step::Finished(Some(loaded))
            }
            Err(error) => self.fail(&error),
        }
    }

    async fn save(&mut self, old: Loaded<S>, attempt: Attempt<S>) -> Step<S> {
        let (old, new) = (&old.record, &attempt.new.record);
        let (swapped, resent) = self.queue.save(old, new, self.batch.deadline).await;
        self.resent = resent;
        match swapped {
            Ok(Swap::Saved) => self.saved(attempt.outcomes, attempt.new),
            Ok(Swap::Conflict(newest)) => {
                self.queue.recorder.conflicts.inc();
                self.unconfirmed = Some(attempt);
                match newest {
                    Some(record) => {
                        let found = self.queue.decode(record);
                        self.found(found)
                    }
                    None => Step::Load,
                }
            }
            Err(error) => self.fail(&error),
        }
    }

    fn saved(&mut self, outcomes: Vec<Outcome<S>>, saved: Loaded<S>) -> Step<S> {
        self.queue.live.changed(self.id);
        let mut outcomes = outcomes.into_iter();
        self.finish(|| outcomes.next().ok_or(SessionError::Panicked));
        Step::Finished(Some(saved))
    }

    fn fail(&mut self, error: &SessionError) -> Step<S> {
        self.finish(|| Err(error.clone()));
        Step::Finished(None)
    }

    /// Sends each request of the batch the outcome of its change.
    fn finish(&mut self, mut outcome: impl FnMut() -> Result<Outcome<S>, SessionError>) {
        for change in self.batch.changes.drain(..) {
            change.finish(outcome());
        }
    }
}

impl<S: SessionState> Queue<S> {
    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn new(
        store: Arc<dyn Store>,
        config: Config,
        live: Arc<Live<S>>,
        recorder: Arc<Recorder>,
    ) -> Result<Self, SessionError> {
        Ok(Self {
            store,
            config,
            server: getrandom::u64()?,
            queues: Mutex::default(),
            live,
            cache: Mutex::new(LruCache::new(CACHE_CAPACITY)),
            recorder,
        })
    }

    /// This server's number among those that share the store.
    pub fn server(&self) -> u64 {
        self.server
    }

    /// Adds a change to the session's queue, and opens the queue if there is none. The result arrives on `finished`.
    pub fn submit<T>(
        self: &Arc<Self>,
        id: Id,
        change: Box<dyn Change<S>>,
        finished: oneshot::Receiver<T>,
    ) -> QueuedChange<T> {
        let change = (Instant::now(), change);
        let mut queues = self.queues();
        if let Some(queue) = queues.get_mut(&id) {
            queue.waiting.push_back(change);
            let inline = queue.inline.take();
            drop(queues);
            if let Some(inline) = inline {
                inline.detach();
            }
            return QueuedChange {
                inline: None,
                finished,
            };
        }
        let inline = InlineBatch::new(Worker {
            queue: Arc::clone(self),
            id,
        });
        let queue = SessionQueue {
            waiting: VecDeque::from([change]),
            inline: Some(inline.clone()),
        };
        queues.insert(id, queue);
        QueuedChange {
            inline: Some(inline),
            finished,
        }
    }

    /// Takes the next batch of waiting changes. `None`: no change waits, and the queue has been removed.
    fn next_batch(&self, id: Id) -> Option<Batch<S>> {
        let mut queues = self.queues();
        let waiting = &mut queues.get_mut(&id)?.waiting;
        let Some((oldest, _)) = waiting.front() else {
            queues.remove(&id);
            return None;
        };
        let deadline = *oldest + RETRY_DEADLINE;
        let size = waiting.len().min(MAX_BATCH);
        let changes = waiting.drain(..size).map(|(_, change)| change).collect();
        Some(Batch { changes, deadline })
    }

    /// Runs and saves a batch, and returns the session's new record if it is known. `cached`: the record that was saved
    /// last, which may be stale.
    async fn change(
        &self,
        id: Id,
        batch: Batch<S>,
        cached: Option<Loaded<S>>,
    ) -> Option<Loaded<S>> {
        // The store may still have an expired record, and a save would revive it.
        let now = OffsetDateTime::now_utc();
        let cached = cached.filter(|cached| cached.record.expiry_date > now);
        let save = BatchSave {
            queue: self,
            id,
            batch,
            unconfirmed: None,
            existed: false,
            resent: false,
        };
        save.run(cached).await
    }

    /// Runs the changes on a session. `None`: there is nothing to save.
    fn attempt(
        &self,
        loaded: &Loaded<S>,
        batch: &mut [Box<dyn Change<S>>],
    ) -> Result<Option<Attempt<S>>, SessionError> {
        let write = WriteStamp {
            server: self.server,
            token: getrandom::u64()?,
        };
        let mut newest = Arc::clone(&loaded.envelope);
        let mut outcomes = Vec::with_capacity(batch.len());
        for change in batch.iter_mut() {
            let before = newest;
            let mut next = Envelope::clone(&before);
            change.apply(&mut next);
            let saved = change.touch() || *before != next;
            if saved {
                next.bump_revision();
            }
            next.stamp(write);
            newest = Arc::new(next);
            outcomes.push(Outcome::Done {
                saved,
                before,
                after: Arc::clone(&newest),
                expires_at: 0,
            });
        }
        let any = outcomes
            .iter()
            .any(|outcome| matches!(outcome, Outcome::Done { saved: true, .. }));
        if !any {
            return Ok(None);
        }
        let record = newest.record(loaded.record.id, &self.config)?;
        for outcome in &mut outcomes {
            if let Outcome::Done { expires_at, .. } = outcome {
                *expires_at = record.expiry_date.unix_timestamp();
            }
        }
        Ok(Some(Attempt {
            new: Loaded {
                record: EncodedRecord::from(record),
                envelope: newest,
            },
            write,
            outcomes,
        }))
    }

    /// Saves a record, and sends the same save again while its connection breaks.
    ///
    /// Sending it again is safe: the save succeeds at most once, because it replaces the record that it compares with.
    /// After [`Swap::Conflict`], the stored record's stamp shows whether another server wrote it or an earlier try of
    /// this save.
    ///
    /// The returned flag is `true` if the save was sent more than once.
    async fn save(
        &self,
        old: &EncodedRecord,
        new: &EncodedRecord,
        deadline: Instant,
    ) -> (Result<Swap, SessionError>, bool) {
        let mut resent = false;
        let mut wait = MIN_BACKOFF;
        loop {
            match self.store.compare_and_swap(old, new).await {
                Ok(saved) => return (Ok(saved), resent),
                Err(error) if Refusal::of(&error).is_final() && !resent => {
                    return (Err(error.into()), false);
                }
                Err(error) if Instant::now() >= deadline => {
                    return (Err(SessionError::from(error).indeterminate()), true);
                }
                Err(error) => {
                    resent = true;
                    self.recorder.retries.inc();
                    tracing::debug!(%error, "a save failed and will be retried");
                    sleep(wait + jitter()).await;
                    wait = (2 * wait).min(MAX_BACKOFF);
                }
            }
        }
    }

    /// Loads a session. `None`: there is none, or its record can't be decoded.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn load(&self, id: Id) -> Result<Option<Loaded<S>>, SessionError> {
        let record = self.load_record(id).await?;
        Ok(record.and_then(|record| self.decode(record.into())))
    }

    fn decode(&self, record: EncodedRecord) -> Option<Loaded<S>> {
        let Some(envelope) = Envelope::of(&record) else {
            self.report_undecodable();
            return None;
        };
        Some(Loaded {
            record,
            envelope: Arc::new(envelope),
        })
    }

    async fn load_record(&self, id: Id) -> Result<Option<Record>, SessionError> {
        match self.store.load(&id).await {
            Err(session_store::Error::Decode(_)) => {
                self.report_undecodable();
                Ok(None)
            }
            other => Ok(other?),
        }
    }

    /// Counts and logs a record that can't be decoded. The log gets nothing of its content.
    fn report_undecodable(&self) {
        self.recorder.undecodable.inc();
        tracing::warn!("a session record can't be decoded; the client gets a new session");
    }

    fn cache(&self) -> MutexGuard<'_, LruCache<Id, Loaded<S>>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a deleted session from the cache.
    pub fn forget(&self, id: Id) {
        self.cache().pop(&id);
    }

    fn queues(&self) -> MutexGuard<'_, Queues<S>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unchanged<S: SessionState>(loaded: &Loaded<S>) -> Outcome<S> {
    Outcome::Done {
        before: Arc::clone(&loaded.envelope),
        after: Arc::clone(&loaded.envelope),
        saved: false,
        expires_at: loaded.record.expiry_date.unix_timestamp(),
    }
}

#[cfg(test)]
mod tests {
    use tower_sessions::SessionStore;

    use super::*;
    use crate::{
        state::tests::Counter,
        store::{self, StoreOptions, url::StoreUrl},
        tests::{Fault, FaultyStore},
    };

    async fn queue_with_session(id: Id) -> Arc<Queue<Counter>> {
        let config = Config::default();
        let store = store::open(&StoreOptions::new(StoreUrl::Memory))
            .await
            .expect("memory");
        let mut record = Envelope::new(Counter::default())
            .record(id, &config)
            .expect("a record");
        SessionStore::create(store.as_ref(), &mut record)
            .await
            .expect("created");
        let live = Arc::new(Live::new(Arc::clone(&store), 1));
        let metrics = Arc::new(Recorder::new(&[]));
        Arc::new(Queue::new(store, config, live, metrics).expect("random numbers"))
    }

    type Finished<T> = QueuedChange<Result<(Outcome<Counter>, Option<T>), SessionError>>;

    /// Submits a change without waiting for it.
    fn enqueue<T: Send + 'static>(
        queue: &Arc<Queue<Counter>>,
        id: Id,
        function: impl Fn(&mut Envelope<Counter>) -> T + Send + 'static,
    ) -> Finished<T> {
        let (done, finished) = oneshot::channel();
        let change = UpdateFn {
            function,
            touch: false,
            output: None,
            done: |result| _ = done.send(result),
        };
        queue.submit(id, Box::new(change), finished)
    }

    async fn submit<T: Send + 'static>(
        queue: &Arc<Queue<Counter>>,
        id: Id,
        function: impl Fn(&mut Envelope<Counter>) -> T + Send + 'static,
    ) -> Option<T> {
        enqueue(queue, id, function).await?.ok()?.1
    }

    #[tokio::test]
    async fn all_waiting_changes_run_and_an_empty_queue_is_removed() {
        let id = Id(7);
        let queue = queue_with_session(id).await;
        let changes: Vec<_> = (0..300)
            .map(|_| {
                let queue = Arc::clone(&queue);
                tokio::spawn(async move { submit(&queue, id, |stored| stored.state.add()).await })
            })
            .collect();
        let mut numbers = Vec::new();
        for change in changes {
            numbers.push(change.await.expect("no panic").expect("a number"));
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=300).collect::<Vec<_>>());
        while !queue.queues().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn each_change_in_a_batch_gets_a_higher_revision() {
        let id = Id(7);
        let queue = queue_with_session(id).await;
        let add = |stored: &mut Envelope<Counter>| stored.state.add();
        let read = |stored: &mut Envelope<Counter>| stored.state.count;
        let changes = [
            enqueue(&queue, id, read),
            enqueue(&queue, id, add),
            enqueue(&queue, id, add),
            enqueue(&queue, id, read),
        ];
        let mut seen = Vec::new();
        for finished in changes {
            let (outcome, _) = finished.await.expect("no panic").expect("saved");
            let Outcome::Done { after, .. } = outcome else {
                panic!("the session is gone");
            };
            seen.push((after.revision, after.state.count));
        }
        let (revisions, counts): (Vec<_>, Vec<_>) = seen.into_iter().unzip();
        assert_eq!(counts, [0, 1, 2, 2]);
        let rises: Vec<_> = revisions.windows(2).map(|two| two[1] > two[0]).collect();
        assert_eq!(rises, [true, true, false], "{revisions:?}");
        assert_eq!(revisions[2], revisions[3], "a read keeps the revision");
        let stored = queue.load(id).await.expect("loaded").expect("a session");
        assert_eq!(stored.envelope.revision, revisions[3]);
    }

    #[tokio::test]
    async fn a_change_that_panics_does_not_block_the_queue() {
        let id = Id(7);
        let queue = queue_with_session(id).await;
        let panicked = submit(&queue, id, |_| -> u64 { panic!("on purpose") }).await;
        assert_eq!(panicked, None);
        let next = submit(&queue, id, |stored| stored.state.add()).await;
        assert_eq!(next, Some(1));
    }

    #[tokio::test]
    async fn dropping_a_change_does_not_cancel_later_changes() {
        let id = Id(7);
        let queue = queue_with_session(id).await;
        let first = enqueue(&queue, id, |stored| stored.state.add());
        drop(first);
        let second = enqueue(&queue, id, |stored| stored.state.add());
        let (_, output) = second.await.expect("no panic").expect("saved");
        assert_eq!(output, Some(2));
    }

    #[tokio::test]
    async fn a_change_that_is_not_polled_does_not_block_later_changes() {
        let id = Id(7);
        let queue = queue_with_session(id).await;
        let mut unpolled = enqueue(&queue, id, |stored| stored.state.add());
        for count in 2..5 {
            let next = submit(&queue, id, |stored| stored.state.add()).await;
            assert_eq!(next, Some(count));
        }
        let (_, output) = (&mut unpolled).await.expect("no panic").expect("saved");
        assert_eq!(output, Some(1));
    }

    /// Adds one through a store whose connection breaks after each of this number of saves.
    async fn count_after_broken_saves(times: u32) -> Result<u64, SessionError> {
        let id = Id(7);
        let healthy = queue_with_session(id).await;
        let faulty = FaultyStore::new(Arc::clone(&healthy.store));
        faulty.inject(Fault::AfterSave { times });
        let store: Arc<dyn Store> = faulty;
        let live = Arc::new(Live::new(Arc::clone(&store), 1));
        let config = Config::default();
        let queue = Arc::new(Queue::new(
            store,
            config,
            live,
            Arc::new(Recorder::new(&[])),
        )?);
        let finished = enqueue(&queue, id, |stored| stored.state.add());
        let (_, output) = finished.await.expect("no panic")?;
        Ok(output.expect("a number"))
    }

    #[tokio::test]
    async fn a_save_whose_response_is_lost_counts_once() {
        assert_eq!(count_after_broken_saves(1).await.expect("counted"), 1);
        assert_eq!(count_after_broken_saves(3).await.expect("counted"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_save_that_is_never_confirmed_is_indeterminate() {
        let failed = count_after_broken_saves(u32::MAX).await;
        assert!(
            matches!(failed, Err(SessionError::Indeterminate(_))),
            "{failed:?}"
        );
    }
}
