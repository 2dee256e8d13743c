//! Changes of one session on this server wait in one queue, whose worker saves as many as are
//! waiting in one write. Comparing can then only fail against another server.
//!
//! Whoever opens a queue does its work, which saves the way to another task and back: a sixth of the CPU of a
//! request. The next change of the session makes a task of that work, and so does dropping it: a request that
//! is dropped, or held half done, holds up no other one. A queue exists only while something is in it.

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

/// How long a change is tried against other writers, or after a broken connection, before it is
/// given up, from when the oldest of its batch was asked for. With what a store takes to be given up
/// itself, no client waits longer than some eight seconds.
pub const RETRY_DEADLINE: Duration = Duration::from_secs(4);

/// The wait before a save that broke off is tried again, at first and at the most.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_millis(200);

/// The most changes in one write: bounds the time that the first of them waits for the last.
const BATCH: usize = 128;

/// So many sessions' records are remembered: some 4 MB of ordinary ones.
const RECENT: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");

/// Larger records than this are not remembered, in bytes, so that the memory for them has a bound.
const LARGEST_RECENT: usize = 2_048;

/// What became of a change.
#[derive(Debug)]
pub enum Outcome<S> {
    /// Saved, or nothing had to be saved: the session before and after the change.
    Done {
        before: Arc<Envelope<S>>,
        after: Arc<Envelope<S>>,
        saved: bool,
        /// When the session ends now, in seconds since 1970.
        expires_at: i64,
    },
    /// There is no such session. `ended`: there was one while the change was tried.
    Gone { ended: bool },
}

/// A change that waits, with its way back to the request that waits for it.
pub trait Change<S>: Send {
    /// Changes the session; may run more than once, on newer states.
    fn apply(&mut self, stored: &mut Envelope<S>);
    /// Whether the session is saved even where nothing in it has changed, to renew its age.
    fn renews(&self) -> bool {
        false
    }
    /// Tells the request.
    fn finish(self: Box<Self>, outcome: Result<Outcome<S>, SessionError>);
}

/// A change made of a function, and of what takes its result.
pub struct UpdateFn<F, T, D> {
    pub function: F,
    pub renews: bool,
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

    fn renews(&self) -> bool {
        self.renews
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
    /// Signs this server's writes.
    server: u64,
    waiting: Mutex<Waiting<S>>,
    live: Arc<Live<S>>,
    /// Records as this server last saved them, so that the next change need not load what most
    /// likely is still the same: the save compares anyway.
    recent: Mutex<LruCache<Id, Loaded<S>>>,
    recorder: Arc<Recorder>,
}

/// The queues, by session.
type Waiting<S> = HashMap<Id, Changes<S>>;

/// One session's queue.
struct Changes<S> {
    /// The changes that wait, and since when each does.
    waiting: VecDeque<(Instant, Box<dyn Change<S>>)>,
    /// What does them, for as long as nobody but the opener needs it.
    inline: Option<InlineBatch>,
}

impl<S> std::fmt::Debug for Changes<S> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Changes({})", self.waiting.len())
    }
}

/// The work of a queue, done by whoever polls it, until it becomes a task of its own.
#[derive(Clone)]
struct InlineBatch(Arc<Mutex<Option<Work>>>);

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

impl InlineBatch {
    fn new<S: SessionState>(worker: Worker<S>) -> Self {
        // What waits learns of a panic by what the panic has dropped.
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

    /// Makes a task of it, unless it is one, or done.
    fn detach(&self) {
        let work = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(work) = work
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(work);
        }
    }
}

/// What has to be awaited for a change: the work of its queue, where it has opened one, and its result.
#[must_use = "the queue stands still until this is awaited or dropped"]
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

/// What is saved in one write.
struct Batch<S> {
    changes: Vec<Box<dyn Change<S>>>,
    /// When its oldest change is given up.
    give_up: Instant,
}

impl<S> std::fmt::Debug for dyn Change<S> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Change")
    }
}

/// Empties one session's queue. If a change panics, the changes that wait are dropped with the
/// queue, and their requests fail instead of waiting for ever.
struct Worker<S: SessionState> {
    queue: Arc<Queue<S>>,
    id: Id,
}

impl<S: SessionState> Worker<S> {
    async fn run(self) {
        let mut known = self.queue.recent().pop(&self.id);
        while let Some(batch) = self.queue.next_batch(self.id) {
            known = self.queue.change(self.id, batch, known).await;
        }
        if let Some(known) = known.filter(|known| known.record.size() <= LARGEST_RECENT) {
            self.queue.recent().put(self.id, known);
        }
    }
}

impl<S: SessionState> Drop for Worker<S> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.queue.waiting().remove(&self.id);
        }
    }
}

/// A session as its record says.
#[derive(Debug)]
pub struct Loaded<S> {
    pub record: EncodedRecord,
    /// Shared by all that look at this moment of the session: a change makes the next one.
    pub envelope: Arc<Envelope<S>>,
}

/// One write that is tried: what shall be there, and the change by change between.
struct Attempt<S> {
    new: Loaded<S>,
    write: WriteStamp,
    outcomes: Vec<Outcome<S>>,
}

/// One batch on its way into the store.
struct Saving<'a, S: SessionState> {
    queue: &'a Queue<S>,
    id: Id,
    batch: Batch<S>,
    /// The attempt that was not saved, or perhaps was: its connection may have broken after that.
    lost: Option<Attempt<S>>,
    /// The store had the session since this began.
    was_there: bool,
    /// The last save was sent more than once.
    broke: bool,
}

/// What is to be done next for a batch.
enum Step<S> {
    /// Ask the store for the record.
    Load,
    /// Try it on what the record was a while ago. The save compares anyway.
    TryGuess(Loaded<S>),
    /// Try it on the record as the store has just returned it.
    Try(Loaded<S>),
    /// Save what became of it.
    Save(Loaded<S>, Box<Attempt<S>>),
    /// It is over, and this is the record as far as that is known.
    Finished(Option<Loaded<S>>),
}

impl<S: SessionState> Saving<'_, S> {
    async fn run(mut self, guess: Option<Loaded<S>>) -> Option<Loaded<S>> {
        let mut step = guess.map_or(Step::Load, Step::TryGuess);
        loop {
            step = match step {
                Step::Load => self.load().await,
                Step::TryGuess(known) => self.try_guess(known),
                Step::Try(known) => self.try_on(known),
                Step::Save(known, attempt) => self.save(known, *attempt).await,
                Step::Finished(known) => return known,
            };
        }
    }

    async fn load(&mut self) -> Step<S> {
        match self.queue.load(self.id).await {
            Ok(found) => self.found(found),
            Err(error) if self.broke => self.fail(&error.indeterminate()),
            Err(error) => self.fail(&error),
        }
    }

    /// What the store has returned.
    fn found(&mut self, found: Option<Loaded<S>>) -> Step<S> {
        match found {
            Some(known) => {
                self.was_there = true;
                Step::Try(known)
            }
            None => {
                let ended = self.was_there;
                self.finish(|| Ok(Outcome::Gone { ended }));
                Step::Finished(None)
            }
        }
    }

    fn try_guess(&mut self, known: Loaded<S>) -> Step<S> {
        match self.queue.attempt(&known, &mut self.batch.changes) {
            Ok(Some(attempt)) => Step::Save(known, Box::new(attempt)),
            // Nothing would be saved, so nothing would show that the guess was wrong.
            Ok(None) => Step::Load,
            Err(error) => self.fail(&error),
        }
    }

    fn try_on(&mut self, known: Loaded<S>) -> Step<S> {
        if let Some(lost) = self.lost.take() {
            if known.envelope.is_stamped(lost.write) {
                return self.saved(lost.outcomes, known);
            }
            if Instant::now() >= self.batch.give_up {
                return self.fail(&SessionError::Conflict);
            }
        }
        match self.queue.attempt(&known, &mut self.batch.changes) {
            Ok(Some(attempt)) => Step::Save(known, Box::new(attempt)),
            Ok(None) => {
                self.finish(|| Ok(unchanged(&known)));
                Step::Finished(Some(known))
            }
            Err(error) => self.fail(&error),
        }
    }

    async fn save(&mut self, known: Loaded<S>, attempt: Attempt<S>) -> Step<S> {
        let (old, new) = (&known.record, &attempt.new.record);
        let (swapped, broke) = self.queue.save(old, new, self.batch.give_up).await;
        self.broke = broke;
        match swapped {
            Ok(Swap::Saved) => self.saved(attempt.outcomes, attempt.new),
            Ok(Swap::Conflict(newest)) => {
                self.queue.recorder.conflicts.inc();
                self.lost = Some(attempt);
                match newest {
                    Some(record) => {
                        let found = self.queue.decoded(record);
                        self.found(found)
                    }
                    None => Step::Load,
                }
            }
            Err(error) => self.fail(&error),
        }
    }

    fn saved(&mut self, outcomes: Vec<Outcome<S>>, known: Loaded<S>) -> Step<S> {
        self.queue.live.changed(self.id);
        let mut outcomes = outcomes.into_iter();
        self.finish(|| outcomes.next().ok_or(SessionError::Panicked));
        Step::Finished(Some(known))
    }

    fn fail(&mut self, error: &SessionError) -> Step<S> {
        self.finish(|| Err(error.clone()));
        Step::Finished(None)
    }

    /// Tells each request of the batch what became of its change.
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
            waiting: Mutex::default(),
            live,
            recent: Mutex::new(LruCache::new(RECENT)),
            recorder,
        })
    }

    /// This server's number among those that share the store.
    pub fn server(&self) -> u64 {
        self.server
    }

    /// Puts a change into the session's queue, and opens it where there is none. `finished` gets its result.
    pub fn submit<T>(
        self: &Arc<Self>,
        id: Id,
        change: Box<dyn Change<S>>,
        finished: oneshot::Receiver<T>,
    ) -> QueuedChange<T> {
        let change = (Instant::now(), change);
        let mut queues = self.waiting();
        if let Some(changes) = queues.get_mut(&id) {
            changes.waiting.push_back(change);
            let inline = changes.inline.take();
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
        let changes = Changes {
            waiting: VecDeque::from([change]),
            inline: Some(inline.clone()),
        };
        queues.insert(id, changes);
        QueuedChange {
            inline: Some(inline),
            finished,
        }
    }

    /// The changes that wait; `None`, and no queue any more, where none does.
    fn next_batch(&self, id: Id) -> Option<Batch<S>> {
        let mut waiting = self.waiting();
        let queue = &mut waiting.get_mut(&id)?.waiting;
        let Some((oldest, _)) = queue.front() else {
            waiting.remove(&id);
            return None;
        };
        let give_up = *oldest + RETRY_DEADLINE;
        let size = queue.len().min(BATCH);
        let changes = queue.drain(..size).map(|(_, change)| change).collect();
        Some(Batch { changes, give_up })
    }

    /// Carries out a batch and returns the record as it then is, where that is known. `guess` is what the record was
    /// a while ago, and may have changed since.
    async fn change(&self, id: Id, batch: Batch<S>, guess: Option<Loaded<S>>) -> Option<Loaded<S>> {
        // An engine may still hold what has expired, and must not get it back.
        let now = OffsetDateTime::now_utc();
        let guess = guess.filter(|known| known.record.expiry_date > now);
        let saving = Saving {
            queue: self,
            id,
            batch,
            lost: None,
            was_there: false,
            broke: false,
        };
        saving.run(guess).await
    }

    /// Runs the changes on what was found. `None`: nothing has to be saved.
    fn attempt(
        &self,
        known: &Loaded<S>,
        batch: &mut [Box<dyn Change<S>>],
    ) -> Result<Option<Attempt<S>>, SessionError> {
        let write = WriteStamp {
            server: self.server,
            token: getrandom::u64()?,
        };
        let mut newest = Arc::clone(&known.envelope);
        let mut outcomes = Vec::with_capacity(batch.len());
        for change in batch.iter_mut() {
            let before = newest;
            let mut next = Envelope::clone(&before);
            change.apply(&mut next);
            let saved = change.renews() || *before != next;
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
        let record = newest.record(known.record.id, &self.config)?;
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

    /// Saves, and after a broken connection tries the very same save again: it can only take once,
    /// for the record that it compares with is then gone for good. `No`: another writer was
    /// faster, or an earlier try took, which the record's signature tells. Says, too, whether one
    /// broke.
    async fn save(
        &self,
        old: &EncodedRecord,
        new: &EncodedRecord,
        give_up: Instant,
    ) -> (Result<Swap, SessionError>, bool) {
        let mut broke = false;
        let mut wait = SHORTEST_WAIT;
        loop {
            match self.store.compare_and_swap(old, new).await {
                Ok(saved) => return (Ok(saved), broke),
                Err(error) if Refusal::of(&error).is_final() && !broke => {
                    return (Err(error.into()), false);
                }
                Err(error) if Instant::now() >= give_up => {
                    return (Err(SessionError::from(error).indeterminate()), true);
                }
                Err(error) => {
                    broke = true;
                    self.recorder.retries.inc();
                    tracing::debug!(%error, "a save broke off; trying it again");
                    sleep(wait + jitter()).await;
                    wait = (2 * wait).min(LONGEST_WAIT);
                }
            }
        }
    }

    /// The stored session; `None` also where its record can't be decoded.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn load(&self, id: Id) -> Result<Option<Loaded<S>>, SessionError> {
        let record = self.load_record(id).await?;
        Ok(record.and_then(|record| self.decoded(record.into())))
    }

    fn decoded(&self, record: EncodedRecord) -> Option<Loaded<S>> {
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

    /// One log line, without the content, and a counter.
    fn report_undecodable(&self) {
        self.recorder.undecodable.inc();
        tracing::warn!("a session record can't be decoded; the client gets a new session");
    }

    fn recent(&self) -> MutexGuard<'_, LruCache<Id, Loaded<S>>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session is gone: nothing of it stays in this server's memory.
    pub fn forget(&self, id: Id) {
        self.recent().pop(&id);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting<S>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unchanged<S: SessionState>(known: &Loaded<S>) -> Outcome<S> {
    Outcome::Done {
        before: Arc::clone(&known.envelope),
        after: Arc::clone(&known.envelope),
        saved: false,
        expires_at: known.record.expiry_date.unix_timestamp(),
    }
}

#[cfg(test)]
mod tests {
    use tower_sessions::SessionStore;

    use super::*;
    use crate::{
        state::tests::Counter,
        store::{self, StoreOptions, url::StoreUrl},
        tests::{Accident, Unlucky},
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

    /// A change in the queue, not waited for yet.
    fn hold<T: Send + 'static>(
        queue: &Arc<Queue<Counter>>,
        id: Id,
        function: impl Fn(&mut Envelope<Counter>) -> T + Send + 'static,
    ) -> Finished<T> {
        let (done, finished) = oneshot::channel();
        let change = UpdateFn {
            function,
            renews: false,
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
        hold(queue, id, function).await?.ok()?.1
    }

    #[tokio::test]
    async fn waiting_changes_are_all_carried_out_and_an_idle_queue_is_gone() {
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
        while !queue.waiting().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn of_changes_in_one_write_each_has_a_later_number() {
        let id = Id(7);
        let queue = queue_with_session(id).await;
        let add = |stored: &mut Envelope<Counter>| stored.state.add();
        let look = |stored: &mut Envelope<Counter>| stored.state.count;
        let changes = [
            hold(&queue, id, look),
            hold(&queue, id, add),
            hold(&queue, id, add),
            hold(&queue, id, look),
        ];
        let mut seen = Vec::new();
        for finished in changes {
            let (outcome, _) = finished.await.expect("no panic").expect("saved");
            let Outcome::Done { after, .. } = outcome else {
                panic!("it is gone");
            };
            seen.push((after.revision, after.state.count));
        }
        let (revisions, counts): (Vec<_>, Vec<_>) = seen.into_iter().unzip();
        assert_eq!(counts, [0, 1, 2, 2]);
        let rise: Vec<_> = revisions.windows(2).map(|two| two[1] > two[0]).collect();
        assert_eq!(rise, [true, true, false], "{revisions:?}");
        assert_eq!(revisions[2], revisions[3], "the same state");
        let stored = queue.load(id).await.expect("loaded").expect("a session");
        assert_eq!(stored.envelope.revision, revisions[3]);
    }

    #[tokio::test]
    async fn a_change_that_panics_blocks_nobody() {
        let id = Id(7);
        let queue = queue_with_session(id).await;
        let panicked = submit(&queue, id, |_| -> u64 { panic!("on purpose") }).await;
        assert_eq!(panicked, None);
        let next = submit(&queue, id, |stored| stored.state.add()).await;
        assert_eq!(next, Some(1));
    }

    #[tokio::test]
    async fn who_hangs_up_takes_nobodys_change_along() {
        let id = Id(7);
        let queue = queue_with_session(id).await;
        let first = hold(&queue, id, |stored| stored.state.add());
        drop(first);
        let second = hold(&queue, id, |stored| stored.state.add());
        let (_, output) = second.await.expect("no panic").expect("saved");
        assert_eq!(output, Some(2));
    }

    #[tokio::test]
    async fn a_change_that_is_held_half_done_holds_up_nobody() {
        let id = Id(7);
        let queue = queue_with_session(id).await;
        let mut held = hold(&queue, id, |stored| stored.state.add());
        for counts in 2..5 {
            let next = submit(&queue, id, |stored| stored.state.add()).await;
            assert_eq!(next, Some(counts));
        }
        let (_, output) = (&mut held).await.expect("no panic").expect("saved");
        assert_eq!(output, Some(1));
    }

    async fn count_when_it_breaks(breaks: u32) -> Result<u64, SessionError> {
        let id = Id(7);
        let whole = queue_with_session(id).await;
        let unlucky = Unlucky::new(Arc::clone(&whole.store));
        unlucky.meets(Accident::SaveBreaks { times: breaks });
        let store: Arc<dyn Store> = unlucky;
        let live = Arc::new(Live::new(Arc::clone(&store), 1));
        let config = Config::default();
        let queue = Arc::new(Queue::new(
            store,
            config,
            live,
            Arc::new(Recorder::new(&[])),
        )?);
        let finished = hold(&queue, id, |stored| stored.state.add());
        let (_, output) = finished.await.expect("no panic")?;
        Ok(output.expect("a number"))
    }

    #[tokio::test]
    async fn a_save_that_broke_after_it_took_counts_once() {
        assert_eq!(count_when_it_breaks(1).await.expect("counted"), 1);
        assert_eq!(count_when_it_breaks(3).await.expect("counted"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_can_know_is_said_to_be_undecided() {
        let failed = count_when_it_breaks(u32::MAX).await;
        assert!(
            matches!(failed, Err(SessionError::Indeterminate(_))),
            "{failed:?}"
        );
    }
}
