//! Open pages that are told of each change of their session, whichever server made it.
//!
//! Whatever changes a session only marks it as changed; a task then loads the newest record and
//! tells all pages of that session on this server. So they never go back to an older state, a page
//! that reads slowly skips what is outdated, and a hundred changes in a moment cost a few loads.

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

/// So many pages of one session are told; one more takes the place of the oldest, which may be a
/// dead connection that nobody has noticed yet.
const MOST_OF_A_SESSION: usize = 16;

/// How often a page is told that the connection is alive: sooner than proxies give up on a silent
/// one, which they do after 30 to 60 seconds.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How long a load that failed waits for its next try.
const RETRY: Duration = Duration::from_secs(1);

/// What an open page is told.
#[derive(Clone, Debug, PartialEq)]
pub enum SessionEvent<S> {
    /// The session is now like this.
    State(Arc<Snapshot<S>>),
    /// There is no session any more, or never was one.
    Ended,
    /// Too many pages of this session listen; this one is told nothing any more.
    Replaced,
    /// The connection is alive.
    Heartbeat,
}

/// The sessions that open pages listen to.
#[derive(Debug)]
pub struct Live<S> {
    store: Arc<dyn Store>,
    /// The most pages on this server.
    most: usize,
    subscribers: AtomicUsize,
    topics: Mutex<Topics<S>>,
    /// Held while the store is told which sessions to follow, so that it hears it in order.
    following: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Topics<S> {
    closed: bool,
    next_subscriber: u64,
    sessions: HashMap<Id, Topic<S>>,
}

/// Derived, it would ask for a default state.
impl<S> Default for Topics<S> {
    fn default() -> Self {
        Self {
            closed: false,
            next_subscriber: 0,
            sessions: HashMap::new(),
        }
    }
}

/// One session that pages listen to.
#[derive(Debug)]
struct Topic<S> {
    state: watch::Sender<State<S>>,
    /// The oldest first; a page whose place is dropped is told so.
    pages: VecDeque<(u64, oneshot::Sender<()>)>,
    /// The store tells of its changes.
    followed: bool,
    refresh: Refresh,
}

#[derive(Clone, Debug)]
enum State<S> {
    Unknown,
    Is(Arc<Snapshot<S>>),
    Gone,
}

/// Whether a task is loading the session, and whether it changed since that began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refresh {
    Idle,
    Running,
    Again,
}

impl<S: SessionState> Live<S> {
    /// At most `most` pages on this server are told.
    pub fn new(store: Arc<dyn Store>, most: usize) -> Self {
        Self {
            store,
            most,
            subscribers: AtomicUsize::new(0),
            topics: Mutex::default(),
            following: tokio::sync::Mutex::default(),
        }
    }

    /// How many pages are told right now.
    pub fn subscribers(&self) -> usize {
        self.subscribers.load(Ordering::Relaxed)
    }

    /// Tells a page of this session's changes, beginning with how it is now.
    ///
    /// # Errors
    /// [`SessionError::TooManySubscribers`] where the server has all the pages that it may have or is about to
    /// stop, and when the store can't be asked.
    pub async fn subscribe(self: &Arc<Self>, id: Id) -> Result<Subscription<S>, SessionError> {
        let mut listener = self.enter(id)?;
        self.follow(id).await?;
        listener.state.mark_changed();
        self.refresh(id);
        Ok(listener)
    }

    /// Has the store tell of the session, unless it does already.
    async fn follow(&self, id: Id) -> Result<(), SessionError> {
        let _order = self.following.lock().await;
        let is_followed =
            |topics: &Topics<S>| topics.sessions.get(&id).is_none_or(|topic| topic.followed);
        if is_followed(&self.topics()) {
            return Ok(());
        }
        if let Some(feed) = self.store.change_feed() {
            feed.subscribe(&id).await?;
        }
        if let Some(topic) = self.topics().sessions.get_mut(&id) {
            topic.followed = true;
        }
        Ok(())
    }

    fn enter(self: &Arc<Self>, id: Id) -> Result<Subscription<S>, SessionError> {
        let mut topics = self.topics();
        if topics.closed || self.subscribers() >= self.most {
            return Err(SessionError::TooManySubscribers);
        }
        self.subscribers.fetch_add(1, Ordering::Relaxed);
        topics.next_subscriber += 1;
        let page = topics.next_subscriber;
        let topic = topics.sessions.entry(id).or_insert_with(Topic::new);
        if topic.pages.len() >= MOST_OF_A_SESSION {
            topic.pages.pop_front();
        }
        let (place, replaced) = oneshot::channel();
        topic.pages.push_back((page, place));
        Ok(Subscription {
            live: Arc::clone(self),
            id,
            page,
            state: topic.state.subscribe(),
            replaced,
            next_heartbeat: Instant::now() + HEARTBEAT,
        })
    }

    /// A page has gone; the last one takes the session with it.
    fn exit(self: &Arc<Self>, id: Id, page: u64) {
        self.subscribers.fetch_sub(1, Ordering::Relaxed);
        let mut topics = self.topics();
        let Some(topic) = topics.sessions.get_mut(&id) else {
            return;
        };
        topic.pages.retain(|(other, _)| *other != page);
        if !topic.pages.is_empty() {
            return;
        }
        topics.sessions.remove(&id);
        drop(topics);
        let live = Arc::clone(self);
        tokio::spawn(async move { live.leave(id).await });
    }

    async fn leave(&self, id: Id) {
        let _order = self.following.lock().await;
        if self.topics().sessions.contains_key(&id) {
            return;
        }
        if let Some(feed) = self.store.change_feed()
            && let Err(error) = feed.unsubscribe(&id).await
        {
            tracing::debug!(%error, "a session could not be left");
        }
    }

    /// This server has changed or deleted the session.
    pub fn changed(self: &Arc<Self>, id: Id) {
        if self.store.change_feed().is_none() {
            self.refresh(id);
        }
    }

    /// Tells subscribers what other servers change, for as long as the server runs.
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

    /// Ends every page's stream, and lets no more begin: the server stops.
    pub fn close(&self) {
        let mut topics = self.topics();
        topics.closed = true;
        topics.sessions.clear();
    }

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

    /// Loads the session and tells its pages; `true`: it has to be done again.
    async fn load(&self, id: Id) -> bool {
        let loaded = self.store.load(&id).await;
        if let Err(error) = &loaded {
            tracing::debug!(%error, "an open page's session could not be loaded");
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
            pages: VecDeque::new(),
            followed: false,
            refresh: Refresh::Idle,
        }
    }
}

impl<S: SessionState> State<S> {
    fn of(record: Option<&Record>) -> Self {
        let stored = record.and_then(|record| Some((Envelope::of(record)?, record)));
        stored.map_or(Self::Gone, |(stored, record)| {
            let ends = record.expiry_date.unix_timestamp();
            Self::Is(Arc::new(stored.snapshot(ends)))
        })
    }
}

/// One open page, until it is dropped.
#[derive(Debug)]
pub struct Subscription<S: SessionState> {
    live: Arc<Live<S>>,
    id: Id,
    page: u64,
    state: watch::Receiver<State<S>>,
    replaced: oneshot::Receiver<()>,
    next_heartbeat: Instant,
}

impl<S: SessionState> Subscription<S> {
    /// The next that the page is told; `None`: the server stops.
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
                        State::Is(snapshot) => return Some(SessionEvent::State(Arc::clone(snapshot))),
                        State::Gone => return Some(SessionEvent::Ended),
                    }
                }
                () = sleep_until(self.next_heartbeat) => {
                    self.next_heartbeat += HEARTBEAT;
                    if self.is_over() {
                        self.live.refresh(self.id);
                    }
                    return Some(SessionEvent::Heartbeat);
                }
            }
        }
    }

    /// Engines forget a session that has expired without a word.
    fn is_over(&self) -> bool {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        matches!(&*self.state.borrow(), State::Is(snapshot) if snapshot.info.expires_at <= now)
    }
}

impl<S: SessionState> Drop for Subscription<S> {
    fn drop(&mut self) {
        self.live.exit(self.id, self.page);
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

    async fn live_with_session(most: usize) -> (Arc<Live<Counter>>, Arc<dyn Store>, Id) {
        let store = store::open(&StoreOptions::new(StoreUrl::Memory))
            .await
            .expect("memory");
        let id = Id(7);
        save(&store, id, 1).await;
        (Arc::new(Live::new(Arc::clone(&store), most)), store, id)
    }

    async fn save(store: &Arc<dyn Store>, id: Id, count: u64) {
        let counter = Counter {
            count,
            ..Counter::default()
        };
        let record = Envelope::new(counter).record(id, &Config::default());
        store.save(&record.expect("a record")).await.expect("saved");
    }

    async fn count(listener: &mut Subscription<Counter>) -> Option<u64> {
        match listener.next().await {
            Some(SessionEvent::State(snapshot)) => Some(snapshot.state.count),
            _ => None,
        }
    }

    #[tokio::test]
    async fn pages_hear_how_it_is_then_what_changes_and_then_the_end() {
        let (live, store, id) = live_with_session(10).await;
        let mut first = live.subscribe(id).await.expect("a place");
        assert_eq!(count(&mut first).await, Some(1));
        let mut second = live.subscribe(id).await.expect("a place");
        assert_eq!(count(&mut second).await, Some(1));
        save(&store, id, 2).await;
        live.changed(id);
        for listener in [&mut first, &mut second] {
            while count(listener).await != Some(2) {}
        }
        store.delete(&id).await.expect("deleted");
        live.changed(id);
        for listener in [&mut first, &mut second] {
            while listener.next().await != Some(SessionEvent::Ended) {}
        }
        drop((first, second));
        assert_eq!(live.subscribers(), 0);
        assert!(live.topics().sessions.is_empty());
    }

    #[tokio::test]
    async fn the_oldest_page_of_a_session_makes_room_and_the_server_has_a_limit() {
        let (live, _store, id) = live_with_session(MOST_OF_A_SESSION + 2).await;
        let mut pages = Vec::new();
        for _ in 0..=MOST_OF_A_SESSION {
            pages.push(live.subscribe(id).await.expect("a place"));
        }
        assert_eq!(pages[0].next().await, Some(SessionEvent::Replaced));
        assert_eq!(count(&mut pages[1]).await, Some(1));
        pages.push(live.subscribe(Id(8)).await.expect("a place"));
        assert!(matches!(
            live.subscribe(Id(9)).await,
            Err(SessionError::TooManySubscribers)
        ));
        pages.clear();
        assert!(live.subscribe(Id(9)).await.is_ok());
    }

    #[tokio::test]
    async fn when_the_server_stops_every_stream_ends_and_none_begins() {
        let (live, _store, id) = live_with_session(10).await;
        let mut page = live.subscribe(id).await.expect("a place");
        live.close();
        assert_eq!(page.next().await, None);
        assert!(matches!(
            live.subscribe(id).await,
            Err(SessionError::TooManySubscribers)
        ));
    }
}
