//! Subscriptions to the changes of sessions, whichever server makes them.
//!
//! A change only marks its session as changed. A task then loads the newest record and sends it to all of the
//! session's subscribers on this server. So a subscriber never goes back to an older state, a slow one skips outdated
//! states, and a hundred changes in quick succession cost a few loads.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use time::OffsetDateTime;
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep, sleep_until},
};
use tower_sessions::session::{Id, Record};

use super::{
    SessionError,
    envelope::{Envelope, Snapshot},
    state::SessionState,
    store::{ChangeEvent, Store},
};

/// The most subscribers of one session. One more replaces the oldest, which may be a dead connection that nothing has
/// noticed yet.
const MAX_PER_SESSION: usize = 16;

/// How often a subscriber gets a heartbeat. Proxies close a silent connection after 30 to 60 seconds.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The wait before a failed load is retried.
const RETRY: Duration = Duration::from_secs(1);

/// An event of a [`Subscription`].
#[derive(Clone, Debug, PartialEq)]
pub enum SessionEvent<S> {
    /// The session's current state.
    State(Arc<Snapshot<S>>),
    /// The session has ended, or never existed.
    Ended,
    /// Newer subscriptions of the same session have replaced this one. It gets no more events.
    Replaced,
    /// Sent every 15 seconds, so that proxies keep the connection open.
    Heartbeat,
}

/// The sessions that have subscribers on this server.
#[derive(Debug)]
pub struct Live<S> {
    store: Arc<dyn Store>,
    /// The most subscribers on this server.
    max_subscribers: usize,
    subscribers: AtomicUsize,
    topics: Mutex<Topics<S>>,
    /// Held while this server subscribes to the change feed or unsubscribes, so that both happen in order.
    feed_order: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Topics<S> {
    closed: bool,
    next_subscriber: u64,
    sessions: HashMap<Id, Topic<S>>,
}

/// Not derived, because the derived impl would require `S: Default`.
impl<S> Default for Topics<S> {
    fn default() -> Self {
        Self {
            closed: false,
            next_subscriber: 0,
            sessions: HashMap::new(),
        }
    }
}

/// A session with its subscribers.
#[derive(Debug)]
struct Topic<S> {
    state: watch::Sender<State<S>>,
    /// The oldest first. Dropping a sender notifies its subscriber that it has been replaced.
    subscribers: VecDeque<(u64, oneshot::Sender<()>)>,
    /// Whether this server has subscribed to the session in the store's change feed.
    is_in_feed: bool,
    refresh: Refresh,
}

#[derive(Clone, Debug)]
enum State<S> {
    Unknown,
    Present(Arc<Snapshot<S>>),
    Gone,
}

/// The progress of the task that loads the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refresh {
    Idle,
    Running,
    /// The session has changed since the load began, so it must be loaded again.
    Again,
}

impl<S: SessionState> Live<S> {
    pub fn new(store: Arc<dyn Store>, max_subscribers: usize) -> Self {
        Self {
            store,
            max_subscribers,
            subscribers: AtomicUsize::new(0),
            topics: Mutex::default(),
            feed_order: tokio::sync::Mutex::default(),
        }
    }

    /// The number of subscribers on this server.
    pub fn subscribers(&self) -> usize {
        self.subscribers.load(Ordering::Relaxed)
    }

    /// Subscribes to a session. The first event is its current state.
    ///
    /// # Errors
    /// [`SessionError::TooManySubscribers`] when the server has reached its limit or is stopping. Also when the store
    /// fails.
    pub async fn subscribe(self: &Arc<Self>, id: Id) -> Result<Subscription<S>, SessionError> {
        let mut subscription = self.add_subscriber(id)?;
        self.add_to_feed(id).await?;
        subscription.state.mark_changed();
        self.refresh(id);
        Ok(subscription)
    }

    /// Subscribes to the session in the store's change feed, unless this server already has.
    async fn add_to_feed(&self, id: Id) -> Result<(), SessionError> {
        let _order = self.feed_order.lock().await;
        let is_done = |topics: &Topics<S>| {
            let topic = topics.sessions.get(&id);
            topic.is_none_or(|topic| topic.is_in_feed)
        };
        if is_done(&self.topics()) {
            return Ok(());
        }
        if let Some(feed) = self.store.change_feed() {
            feed.subscribe(&id).await?;
        }
        if let Some(topic) = self.topics().sessions.get_mut(&id) {
            topic.is_in_feed = true;
        }
        Ok(())
    }

    fn add_subscriber(self: &Arc<Self>, id: Id) -> Result<Subscription<S>, SessionError> {
        let mut topics = self.topics();
        if topics.closed || self.subscribers() >= self.max_subscribers {
            return Err(SessionError::TooManySubscribers);
        }
        self.subscribers.fetch_add(1, Ordering::Relaxed);
        topics.next_subscriber += 1;
        let subscriber = topics.next_subscriber;
        let topic = topics.sessions.entry(id).or_insert_with(Topic::new);
        if topic.subscribers.len() >= MAX_PER_SESSION {
            topic.subscribers.pop_front();
        }
        let (keep, replaced) = oneshot::channel();
        topic.subscribers.push_back((subscriber, keep));
        Ok(Subscription {
            live: Arc::clone(self),
            id,
            subscriber,
            state: topic.state.subscribe(),
            replaced,
            next_heartbeat: Instant::now() + HEARTBEAT,
        })
    }

    /// Removes a subscriber, and the topic with the last one.
    fn remove_subscriber(self: &Arc<Self>, id: Id, subscriber: u64) {
        self.subscribers.fetch_sub(1, Ordering::Relaxed);
        let mut topics = self.topics();
        let Some(topic) = topics.sessions.get_mut(&id) else {
            return;
        };
        topic.subscribers.retain(|(other, _)| *other != subscriber);
        if !topic.subscribers.is_empty() {
            return;
        }
        topics.sessions.remove(&id);
        drop(topics);
        let live = Arc::clone(self);
        tokio::spawn(async move { live.remove_from_feed(id).await });
    }

    /// Unsubscribes from the session in the store's change feed, unless it has a new subscriber by now.
    async fn remove_from_feed(&self, id: Id) {
        let _order = self.feed_order.lock().await;
        if self.topics().sessions.contains_key(&id) {
            return;
        }
        if let Some(feed) = self.store.change_feed()
            && let Err(error) = feed.unsubscribe(&id).await
        {
            tracing::debug!(%error, "could not unsubscribe from a session's changes");
        }
    }

    /// Notifies the subscribers of a session that this server has changed or deleted. A store with a change feed
    /// reports this server's changes too.
    pub fn changed(self: &Arc<Self>, id: Id) {
        if self.store.change_feed().is_none() {
            self.refresh(id);
        }
    }

    /// Passes the change feed's events on to the subscribers, for as long as the server runs.
    pub async fn apply_remote(self: Arc<Self>) {
        let Some(feed) = self.store.change_feed() else {
            return;
        };
        loop {
            match feed.next_event().await {
                ChangeEvent::Changed(id) => self.refresh(id),
                ChangeEvent::Lagged => {
                    let all: Vec<Id> = self.topics().sessions.keys().copied().collect();
                    for id in all {
                        self.refresh(id);
                    }
                }
            }
        }
    }

    /// Ends every subscription and refuses new ones, because the server stops.
    pub fn close(&self) {
        let mut topics = self.topics();
        topics.closed = true;
        topics.sessions.clear();
    }

    /// Starts a task that loads the session, if it has subscribers and no task is loading it.
    fn refresh(self: &Arc<Self>, id: Id) {
        let mut topics = self.topics();
        let Some(topic) = topics.sessions.get_mut(&id) else {
            return;
        };
        if topic.refresh != Refresh::Idle {
            topic.refresh = Refresh::Again;
            return;
        }
        topic.refresh = Refresh::Running;
        drop(topics);
        let live = Arc::clone(self);
        tokio::spawn(async move { while live.load(id).await {} });
    }

    /// Loads the session and sends it to its subscribers. Returns `true` if it must be loaded again.
    async fn load(&self, id: Id) -> bool {
        let loaded = self.store.load(&id).await;
        if let Err(error) = &loaded {
            tracing::debug!(%error, "a session with subscribers could not be loaded");
            sleep(RETRY).await;
        }
        let mut topics = self.topics();
        let Some(topic) = topics.sessions.get_mut(&id) else {
            return false;
        };
        let again = topic.refresh == Refresh::Again || loaded.is_err();
        topic.refresh = if again {
            Refresh::Running
        } else {
            Refresh::Idle
        };
        if let Ok(record) = loaded {
            topic.state.send_replace(State::of(record.as_ref()));
        }
        again
    }

    fn topics(&self) -> MutexGuard<'_, Topics<S>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Topic<S> {
    fn new() -> Self {
        Self {
            state: watch::Sender::new(State::Unknown),
            subscribers: VecDeque::new(),
            is_in_feed: false,
            refresh: Refresh::Idle,
        }
    }
}

impl<S: SessionState> State<S> {
    fn of(record: Option<&Record>) -> Self {
        let stored = record.and_then(|record| Some((Envelope::of(record)?, record)));
        stored.map_or(Self::Gone, |(stored, record)| {
            let expires_at = record.expiry_date.unix_timestamp();
            Self::Present(Arc::new(stored.snapshot(expires_at)))
        })
    }
}

/// A stream of the events of one session. [`Session::subscribe`](crate::Session::subscribe) returns it. Dropping it
/// unsubscribes.
#[derive(Debug)]
pub struct Subscription<S: SessionState> {
    live: Arc<Live<S>>,
    id: Id,
    subscriber: u64,
    state: watch::Receiver<State<S>>,
    replaced: oneshot::Receiver<()>,
    next_heartbeat: Instant,
}

impl<S: SessionState> Subscription<S> {
    /// Waits for the next event. `None`: the server is stopping.
    pub async fn next(&mut self) -> Option<SessionEvent<S>> {
        loop {
            tokio::select! {
                biased;
                _ = &mut self.replaced => {
                    let stopping = self.live.topics().closed;
                    return (!stopping).then_some(SessionEvent::Replaced);
                }
                changed = self.state.changed() => {
                    changed.ok()?;
                    match &*self.state.borrow_and_update() {
                        State::Unknown => {}
                        State::Present(snapshot) => return Some(SessionEvent::State(Arc::clone(snapshot))),
                        State::Gone => return Some(SessionEvent::Ended),
                    }
                }
                () = sleep_until(self.next_heartbeat) => {
                    self.next_heartbeat += HEARTBEAT;
                    if self.has_expired() {
                        self.live.refresh(self.id);
                    }
                    return Some(SessionEvent::Heartbeat);
                }
            }
        }
    }

    /// Whether the session should have expired. The store sends no event when a session expires.
    fn has_expired(&self) -> bool {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        matches!(&*self.state.borrow(), State::Present(snapshot) if snapshot.info.expires_at <= now)
    }
}

impl<S: SessionState> Drop for Subscription<S> {
    fn drop(&mut self) {
        self.live.remove_subscriber(self.id, self.subscriber);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Config,
        state::tests::Counter,
        store::{self, StoreOptions, url::StoreUrl},
    };

    async fn live_with_session(max_subscribers: usize) -> (Arc<Live<Counter>>, Arc<dyn Store>, Id) {
        let store = store::open(&StoreOptions::new(StoreUrl::Memory))
            .await
            .expect("memory");
        let id = Id(7);
        save(&store, id, 1).await;
        (
            Arc::new(Live::new(Arc::clone(&store), max_subscribers)),
            store,
            id,
        )
    }

    async fn save(store: &Arc<dyn Store>, id: Id, count: u64) {
        let counter = Counter {
            count,
            ..Counter::default()
        };
        let record = Envelope::new(counter).record(id, &Config::default());
        store.save(&record.expect("a record")).await.expect("saved");
    }

    async fn count(subscription: &mut Subscription<Counter>) -> Option<u64> {
        match subscription.next().await {
            Some(SessionEvent::State(snapshot)) => Some(snapshot.state.count),
            _ => None,
        }
    }

    #[tokio::test]
    async fn subscribers_get_the_current_state_then_each_change_and_then_the_end() {
        let (live, store, id) = live_with_session(10).await;
        let mut first = live.subscribe(id).await.expect("subscribed");
        assert_eq!(count(&mut first).await, Some(1));
        let mut second = live.subscribe(id).await.expect("subscribed");
        assert_eq!(count(&mut second).await, Some(1));
        save(&store, id, 2).await;
        live.changed(id);
        for subscription in [&mut first, &mut second] {
            while count(subscription).await != Some(2) {}
        }
        store.delete(&id).await.expect("deleted");
        live.changed(id);
        for subscription in [&mut first, &mut second] {
            while subscription.next().await != Some(SessionEvent::Ended) {}
        }
        drop((first, second));
        assert_eq!(live.subscribers(), 0);
        assert!(live.topics().sessions.is_empty());
    }

    #[tokio::test]
    async fn a_new_subscriber_replaces_the_sessions_oldest_and_the_server_has_a_limit() {
        let (live, _store, id) = live_with_session(MAX_PER_SESSION + 2).await;
        let mut subscriptions = Vec::new();
        for _ in 0..=MAX_PER_SESSION {
            subscriptions.push(live.subscribe(id).await.expect("subscribed"));
        }
        assert_eq!(subscriptions[0].next().await, Some(SessionEvent::Replaced));
        assert_eq!(count(&mut subscriptions[1]).await, Some(1));
        subscriptions.push(live.subscribe(Id(8)).await.expect("subscribed"));
        assert!(matches!(
            live.subscribe(Id(9)).await,
            Err(SessionError::TooManySubscribers)
        ));
        subscriptions.clear();
        assert!(live.subscribe(Id(9)).await.is_ok());
    }

    #[tokio::test]
    async fn when_the_server_stops_every_subscription_ends_and_new_ones_are_refused() {
        let (live, _store, id) = live_with_session(10).await;
        let mut subscription = live.subscribe(id).await.expect("subscribed");
        live.close();
        assert_eq!(subscription.next().await, None);
        assert!(matches!(
            live.subscribe(id).await,
            Err(SessionError::TooManySubscribers)
        ));
    }
}
