//! Sessions kept on the server, found again by a small cookie, that lose no update.
//!
//! ```no_run
//! use serde::{Deserialize, Serialize};
//! use tally_session::{Session, expiry::Expiry, sign_in::SignIn, state::SessionState};
//!
//! #[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
//! struct Cart { items: Vec<String> }
//! impl SessionState for Cart {}
//!
//! # async fn tour(session: Session<Cart>, stamp: u64, now: i64) -> Result<(), Box<dyn std::error::Error>> {
//! let items = session.update(|cart| { cart.items.push("tea".to_owned()); cart.items.len() }).await?;
//! let cart = session.read().await?;
//! session.set_expiry(Some(Expiry::seconds(1_800)?)).await?;
//! session.sign_in("members", SignIn::new(stamp, now));     // new id, same data, signed in there alone
//! let member = session.signed_in("members").await?;        // SignIn::check says whether it still holds
//! session.sign_out("members").await?;                      // new id, same data
//! session.flush().await?;                                  // record and cookie gone
//! # Ok(())
//! # }
//! ```
//!
//! A change is a *function*, not a value: `update` loads the newest record, runs the function, and
//! saves only if the stored record is still the one that it loaded; else it does so again. So two
//! requests never overwrite each other, on one server or on many. Hence the function must depend
//! on the state alone: it may run more than once.
//!
//! What a request changed is saved before its answer begins. If that answer then fails (a status
//! of 500 or more, or a panic), the change is taken back, and an id that was to be rotated stays.
//!
//! Behind the handle: [`layer`] gives each request its handle and writes the answer's headers,
//! [`cookie`] takes every decision about the cookie, [`id`] makes and hides ids, [`record`] says
//! what is stored, [`expiry`] how long, [`queue`] carries out the changes, [`undo`] takes them
//! back, [`live`] tells open pages, [`flood`] limits the making of new sessions, [`store`] holds the
//! engines, [`metrics`] counts, and [`config`] says what can be set. [`sign_in`] and [`messages`]
//! are kept with a session; [`state`] is what an application keeps in it; [`operator`] is what an operator may do with all of them, [`register`]
//! what is written down for that, [`account`] what all servers know of the operator, and [`pass`] what
//! lets him in while strangers hold up everybody else.
//!
//! tower-sessions' own manager layer is not used: it writes back whole records (the last writer
//! wins), sends no `Vary`, forgets a session's own expiry, loses the session when a rotation meets
//! a 5xx, and stores a record for each unknown id under `always_save`. Records, ids and stores are
//! tower-sessions' own.

pub mod account;
pub mod config;
pub mod cookie;
pub mod expiry;
#[cfg(feature = "axum")]
mod extract;
pub mod flood;
pub mod id;
pub mod layer;
pub mod live;
pub mod manager;
mod map;
pub mod messages;
pub mod metrics;
pub mod operator;
pub mod pass;
pub mod queue;
pub mod record;
pub mod register;
pub mod sign_in;
pub mod state;
pub mod store;
#[cfg(test)]
mod tests;
pub mod undo;

pub use config::{Config, CookieSecure, SameSite};
pub use expiry::Expiry;
pub use layer::{SessionLayer, SessionService};
pub use live::{News, Subscription};
pub use manager::{ConnectError, SessionManager};
pub use map::Map;
pub use messages::{Level, Message};
pub use record::{Info, Snapshot};
pub use state::SessionState;

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use thiserror::Error;
use time::OffsetDateTime;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep, timeout},
};
use tower_sessions::{session::Id, session_store};

use cookie::Cookie;
use flood::Flood;
use id::SessionId;
use layer::ClientInfo;
use live::Live;
use metrics::Metrics;
use queue::{Function, Known, Outcome, PATIENCE, Queue};
use record::{Stored, jitter};
use register::Register;
use sign_in::SignIn;
use store::{Store, instrumented::InstrumentedStore, refusal::Refusal};

/// Why a session could not be read or changed. What could not be saved was not counted.
#[derive(Clone, Debug, Error)]
pub enum SessionError {
    #[error("the session store failed: {0}")]
    Store(Arc<session_store::Error>),
    #[error("the session could not be saved: other servers were faster too often")]
    Contended,
    /// The one case where a change may have been saved although its request failed.
    #[error("the session store stopped answering while a change was saved: {0}")]
    Undecided(Arc<session_store::Error>),
    #[error("the record can't be encoded: {0}")]
    Encode(Arc<serde_json::Error>),
    #[error("no random numbers from the operating system: {0}")]
    Random(getrandom::Error),
    #[error("a change of the session panicked")]
    Panicked,
    #[error("so many open pages listen already that no more can")]
    Full,
    /// Its address has made too many sessions; it may make one more in so many seconds.
    #[error("too many new sessions from one address; one more in {seconds} s")]
    Flooded { seconds: u64 },
    #[error("the store was restarted, or lost a server, meanwhile")]
    Interrupted,
    #[error("no session layer around this request")]
    NoLayer,
    /// A session can't begin any more: its cookie goes with the response's head. Streamed responses make their
    /// session before they begin, for example with [`Session::touch`] or with `SsrMode::Async` in Leptos.
    #[error(
        "the response's head is out, so no cookie can carry a new session: change the session before the response begins"
    )]
    HeadSent,
    /// What is kept under a key is of another type.
    #[error("what the session keeps can't be decoded: {0}")]
    Decode(Arc<serde_json::Error>),
}

impl From<session_store::Error> for SessionError {
    fn from(error: session_store::Error) -> Self {
        Self::Store(Arc::new(error))
    }
}

impl From<serde_json::Error> for SessionError {
    fn from(error: serde_json::Error) -> Self {
        Self::Encode(Arc::new(error))
    }
}

impl From<getrandom::Error> for SessionError {
    fn from(error: getrandom::Error) -> Self {
        Self::Random(error)
    }
}

impl SessionError {
    /// The same failure where a change may have been saved before it.
    fn undecided(self) -> Self {
        match self {
            Self::Store(error) => Self::Undecided(error),
            other => other,
        }
    }

    /// Whether the store is at fault, which tells of its outages itself.
    pub fn is_of_the_store(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Undecided(_))
    }

    /// The status and the seconds after which another try is worth it, for whoever answers.
    pub fn answer(&self) -> (StatusCode, u64) {
        match self {
            Self::Flooded { seconds } => (StatusCode::TOO_MANY_REQUESTS, *seconds),
            Self::Full => (StatusCode::SERVICE_UNAVAILABLE, RETRY_FULL),
            Self::NoLayer | Self::HeadSent | Self::Decode(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, 0)
            }
            _ => (StatusCode::SERVICE_UNAVAILABLE, RETRY),
        }
    }
}

/// What all requests share: the engine, the config, and the queues of busy sessions.
#[derive(Debug)]
pub struct Sessions<S> {
    pub config: Config,
    store: Arc<dyn Store>,
    flood: Flood,
    metrics: Metrics,
    queue: Arc<Queue<S>>,
    live: Arc<Live<S>>,
    /// What is written down for the operator's console, where there is one.
    register: Option<Register>,
    /// Held while that is done, so that it is done in order.
    noting: tokio::sync::Mutex<()>,
    requests: AtomicU64,
    /// What was last found out about the store, and when.
    checked: tokio::sync::Mutex<Option<(Instant, Result<(), Refusal>)>>,
}

impl<S: SessionState> Sessions<S> {
    /// Sessions kept in `store`.
    ///
    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn new(config: Config, store: Arc<dyn Store>) -> Result<Self, SessionError> {
        let metrics = Metrics::default();
        let store: Arc<dyn Store> = Arc::new(InstrumentedStore::new(store, metrics.clone()));
        let live = Arc::new(Live::new(Arc::clone(&store), config.live_pages));
        let queue = Queue::new(
            Arc::clone(&store),
            config.clone(),
            Arc::clone(&live),
            metrics.clone(),
        )?;
        let queue = Arc::new(queue);
        // Servers start at far-away numbers, so that no two requests of one session share one.
        let requests = AtomicU64::new(queue.server());
        Ok(Self {
            flood: Flood::new(config.new_sessions),
            register: config.registers.then(Register::default),
            noting: tokio::sync::Mutex::default(),
            config,
            store,
            metrics,
            queue,
            live,
            requests,
            checked: tokio::sync::Mutex::default(),
        })
    }

    /// What has been counted, for the operator.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// A number that no other request of these sessions has, on any server.
    pub fn next_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether sessions can be read and written. The store is asked at most once a second, whoever asks.
    ///
    /// # Errors
    /// Why they can't be.
    pub async fn check_ready(&self) -> Result<(), Refusal> {
        let mut checked = self.checked.lock().await;
        if let Some((at, result)) = *checked
            && at.elapsed() < CHECKED_FOR
        {
            return result;
        }
        // Goes on by itself where nobody waits any more: only a command that has run out of time tells
        // that its connection is useless.
        let store = Arc::clone(&self.store);
        let check = tokio::spawn(async move {
            store.load(&PING).await?;
            store.check_writable().await
        });
        let result = match timeout(CHECK_TIMEOUT, check).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(Refusal::of(&error)),
            Ok(Err(_)) | Err(_) => Err(Refusal::Unreachable),
        };
        *checked = Some((Instant::now(), result));
        result
    }

    /// Forgets what is no longer needed of the addresses that made sessions.
    pub fn forget_rested(&self) {
        self.flood.forget_rested();
    }

    /// The open pages that are told of changes.
    pub fn live(&self) -> &Arc<Live<S>> {
        &self.live
    }

    /// Deletes a session's record, and tells its open pages.
    async fn delete(&self, id: Id) -> Result<(), SessionError> {
        self.store.delete(&id).await?;
        self.has_gone(id);
        Ok(())
    }

    /// Forgets a session whose record is gone, tells its open pages, and writes it down.
    fn has_gone(&self, id: Id) {
        self.queue.forget(id);
        self.live.changed(id);
        if let Some(register) = &self.register {
            register.gone(id);
        }
    }

    /// The size of the engine's write-ahead log in bytes, where it has one.
    pub fn store_log_bytes(&self) -> Option<u64> {
        self.store.log_bytes()
    }

    /// Leaves the store tidy before the process ends.
    pub async fn close(&self) {
        self.store.close().await;
    }

    /// Removes expired records for as long as there are any, in batches; engines that do so by
    /// themselves have none. `progress` hears the count after each batch.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn clear_expired(&self, progress: impl FnMut(u64)) -> Result<u64, SessionError> {
        let cleared = store::clear_expired(self.store.as_ref(), progress).await?;
        self.metrics.expired.inc_by(cleared);
        Ok(cleared)
    }
}

/// When clients shall come back to a store that did not answer, in seconds.
const RETRY: u64 = 2;

/// When an open page shall ask again for a stream, in seconds.
const RETRY_FULL: u64 = 30;

/// How long a readiness check holds.
const CHECKED_FOR: Duration = Duration::from_secs(1);

/// How long the store may take to show that it is ready: balancers ask again after a few seconds.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// An id that no session has, for the hash of no id is known: asking for it asks the store.
const PING: Id = Id(0);

/// One request's session. Clones share the same state.
pub struct Session<S: SessionState> {
    sessions: Arc<Sessions<S>>,
    number: u64,
    /// The visitor's, by which the making of sessions is limited.
    address: IpAddr,
    /// The visitor has come by https, as a trusted proxy says.
    is_https: bool,
    request: Arc<Mutex<RequestState<S>>>,
    /// Tells that none of the request's work goes on in the background any more.
    idle: Arc<Notify>,
}

impl<S: SessionState> Clone for Session<S> {
    fn clone(&self) -> Self {
        Self {
            sessions: Arc::clone(&self.sessions),
            number: self.number,
            address: self.address,
            is_https: self.is_https,
            request: Arc::clone(&self.request),
            idle: Arc::clone(&self.idle),
        }
    }
}

impl<S: SessionState> fmt::Debug for Session<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Session(…)")
    }
}

/// Work for a request that goes on in the background, whether anything waits for it or not.
#[derive(Debug)]
struct Pending<S: SessionState>(Session<S>);

impl<S: SessionState> Pending<S> {
    fn of(session: &Session<S>) -> Self {
        session.state().pending += 1;
        Self(session.clone())
    }
}

impl<S: SessionState> Drop for Pending<S> {
    fn drop(&mut self) {
        self.0.state().pending -= 1;
        self.0.idle.notify_waiters();
    }
}

/// The right to make the request's session, which one change at a time has: else each of several changes at
/// once would make its own.
///
/// It waits for a notice rather than in a queue, where a change that is held half done would hold up the others.
struct Creation<S: SessionState>(Session<S>);

impl<S: SessionState> Creation<S> {
    async fn begin(session: &Session<S>) -> Self {
        loop {
            let idle = session.idle.notified();
            if !std::mem::replace(&mut session.state().creating, true) {
                return Self(session.clone());
            }
            idle.await;
        }
    }
}

impl<S: SessionState> Drop for Creation<S> {
    fn drop(&mut self) {
        self.0.state().creating = false;
        self.0.idle.notify_waiters();
    }
}

/// What one request has found out and decided so far.
#[derive(Debug)]
struct RequestState<S> {
    /// The request's well-formed ids, until one of them is found in the store.
    candidates: Vec<SessionId>,
    /// The visitor sent a cookie of the name, well-formed or not.
    sent_cookie: bool,
    /// Something asked for the session: the answer depends on the cookie.
    touched: bool,
    /// The session was there when this request first asked for it.
    found: bool,
    /// It was, and no longer is: it was deleted elsewhere meanwhile.
    ended: bool,
    /// The session was made by this request.
    created: bool,
    /// It is being made right now.
    creating: bool,
    /// The response has begun: no cookie can be set any more.
    answered: bool,
    /// The id shall be a new one if the answer succeeds.
    rotates: bool,
    /// What becomes of the test cookie's mark with the next write.
    test_cookie: TestCookie,
    /// The session of the new id is signed in to this realm.
    sign_in: Option<(&'static str, SignIn)>,
    /// What this request has done, for the charts.
    activity: u64,
    /// What this request changed, in order.
    changes: Vec<undo::Change<S>>,
    /// The session as this request last saw it, and when it ends.
    latest: Option<(Stored<S>, i64)>,
    cookie: Cookie,
    /// What went wrong last.
    error: Option<SessionError>,
    /// Changes that are on their way.
    pending: usize,
}

/// What a request does about the test cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TestCookie {
    Keep,
    Set,
    Delete,
}

/// A session that is in the store.
struct Found<S> {
    id: SessionId,
    known: Known<S>,
}

impl<S: SessionState> Session<S> {
    pub(crate) fn new(sessions: Arc<Sessions<S>>, sent: cookie::Sent, client: ClientInfo) -> Self {
        Self {
            sessions,
            number: client.number,
            address: client.address,
            is_https: client.is_https,
            request: Arc::new(Mutex::new(RequestState {
                candidates: sent.ids,
                sent_cookie: sent.any,
                touched: false,
                found: false,
                ended: false,
                created: false,
                creating: false,
                answered: false,
                rotates: false,
                test_cookie: TestCookie::Keep,
                sign_in: None,
                activity: 0,
                changes: Vec::new(),
                latest: None,
                cookie: Cookie::Keep,
                error: None,
                pending: 0,
            })),
            idle: Arc::default(),
        }
    }

    /// The session of the request that is being answered, in a server function.
    ///
    /// # Errors
    /// [`SessionError::NoLayer`] outside of a request.
    #[cfg(feature = "leptos")]
    pub fn current() -> Result<Self, SessionError> {
        leptos::prelude::use_context::<http::request::Parts>()
            .and_then(|parts| parts.extensions.get::<Self>().cloned())
            .ok_or(SessionError::NoLayer)
    }

    /// This request's number, for marks that only a later request may find.
    pub fn request(&self) -> u64 {
        self.number
    }

    /// The state as stored; the default where there is no session. Stores nothing, and is no
    /// activity: the session lives no longer for it.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn read(&self) -> Result<S, SessionError> {
        let found = self.find().await?;
        Ok(found
            .map(|found| found.known.stored.state)
            .unwrap_or_default())
    }

    /// The session's own expiry; `None`: as the config says.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn expiry(&self) -> Result<Option<Expiry>, SessionError> {
        let found = self.find().await?;
        Ok(found.and_then(|found| found.known.stored.expiry))
    }

    /// Changes the state and returns what `change` returned. A change that changes nothing is
    /// not stored, and makes no session.
    ///
    /// It goes on where it is dropped or held half done; if the response fails, it is taken back all the
    /// same.
    ///
    /// # Errors
    /// When the change could not be saved; then it was not saved, or ([`SessionError::Undecided`])
    /// nobody can know.
    pub async fn update<T, F>(&self, change: F) -> Result<T, SessionError>
    where
        F: Fn(&mut S) -> T + Send + Sync + 'static,
        T: Send + 'static,
    {
        self.change(move |stored| change(&mut stored.state), false)
            .await
    }

    /// Gives the session its own expiry, kept with it; `None`: back to the config. Makes a
    /// session where there is none.
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn set_expiry(&self, expiry: Option<Expiry>) -> Result<(), SessionError> {
        self.change(move |stored| stored.expiry = expiry, false)
            .await
    }

    /// Marks the session, to find out whether the visitor's browser keeps cookies. The mark goes with the next
    /// [`Session::update`] of this request, or is written when the response is known. Makes a session where there
    /// is none.
    pub fn set_test_cookie(&self) {
        self.test_cookie(TestCookie::Set);
    }

    /// Removes the mark, in the same way. None there is no error.
    pub fn delete_test_cookie(&self) {
        self.test_cookie(TestCookie::Delete);
    }

    fn test_cookie(&self, decision: TestCookie) {
        let mut request = self.state();
        if request.answered {
            tracing::error!("the test cookie is set after the response's head is out, and is lost");
            return;
        }
        request.touched = true;
        request.test_cookie = decision;
    }

    /// Whether the mark of an earlier request has come back with the cookie. Never true in the request that
    /// set it.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn test_cookie_worked(&self) -> Result<bool, SessionError> {
        let found = self.find().await?;
        let mark = found.and_then(|found| found.known.stored.test_mark);
        Ok(mark.is_some_and(|marked_by| marked_by != self.number))
    }

    /// Gives the session a new id with the same data, once the answer succeeds; the old id is then
    /// dead. For whenever a visitor's rights change; signing in and out do it by themselves.
    pub fn cycle_id(&self) {
        let mut request = self.state();
        if request.answered {
            tracing::error!("the id is to change after the response's head is out, and stays");
            return;
        }
        request.touched = true;
        request.rotates = true;
    }

    /// Signs in to a realm: once the answer succeeds, the session goes on under a new id and is
    /// signed in there. The old id never is, so whoever knows it has nothing; and if the answer
    /// fails, it goes on working as it did. Makes a session where there is none.
    pub fn sign_in(&self, realm: &'static str, sign_in: SignIn) {
        self.cycle_id();
        self.state().sign_in = Some((realm, sign_in));
    }

    /// Signs out of a realm, under a new id; what else the session holds stays.
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn sign_out(&self, realm: &'static str) -> Result<(), SessionError> {
        self.end_sign_in(realm).await?;
        self.cycle_id();
        Ok(())
    }

    /// Forgets a sign-in that holds no longer; `false`: that has been done already.
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn end_sign_in(&self, realm: &'static str) -> Result<bool, SessionError> {
        let end = move |stored: &mut Stored<S>| stored.sign_ins.remove(realm).is_some();
        self.change(end, false).await
    }

    /// The sign-in to a realm, where there is one, whether it still holds or not.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn signed_in(&self, realm: &str) -> Result<Option<SignIn>, SessionError> {
        let found = self.find().await?;
        Ok(found.and_then(|found| found.known.stored.sign_ins.get(realm).copied()))
    }

    /// The session, if a realm knows it: the browser is no stranger there.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn known_in(&self, realm: &str) -> Result<Option<Id>, SessionError> {
        let found = self.find().await?;
        let found = found.filter(|found| found.known.stored.known_in.contains(realm));
        Ok(found.map(|found| found.id.hashed()))
    }

    /// Uses up a pass to a realm, which then knows this session, and says whether it was one. Makes a
    /// session where there is none, however many its address has made.
    ///
    /// # Errors
    /// As [`Session::update`]; the pass may be used up then.
    pub async fn use_pass(&self, realm: &'static str, carried: &str) -> Result<bool, SessionError> {
        let store = self.sessions.store.as_ref();
        let Some(pass) = self.noted(pass::find(store, realm, carried).await)? else {
            return Ok(false);
        };
        let used = self.noted(pass::use_up(store, pass).await)?;
        if used {
            self.become_known(realm).await?;
        }
        Ok(used)
    }

    /// What people may be shown of the session's id, once something has asked for the session and
    /// there is one.
    pub fn label(&self) -> Option<String> {
        self.stored_id().as_ref().map(id::label)
    }

    /// The name under which the store keeps the session, once something has asked for it and there
    /// is one.
    pub(crate) fn stored_id(&self) -> Option<Id> {
        let request = self.state();
        request.latest.as_ref()?;
        request.candidates.first().map(SessionId::hashed)
    }

    /// Lets a realm know this session.
    async fn become_known(&self, realm: &'static str) -> Result<(), SessionError> {
        let know = move |stored: &mut Stored<S>| _ = stored.known_in.insert(realm.to_owned());
        if self.find().await?.is_some() {
            return self.change(know, false).await;
        }
        let mut stored = Stored::new(S::default());
        know(&mut stored);
        let creation = Creation::begin(self).await;
        let created = self.create(stored, creation).await;
        self.noted(created)
    }

    /// Writes down that the sign-in to a realm is used now (seconds since 1970).
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn use_sign_in(&self, realm: &'static str, now: i64) -> Result<(), SessionError> {
        let used = move |stored: &mut Stored<S>| {
            if let Some(sign_in) = stored.sign_ins.get_mut(realm) {
                sign_in.seen = now.max(sign_in.seen);
            }
        };
        self.change(used, false).await
    }

    /// Adds a message that the next page shows once. Makes a session where there is none.
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn add_message(&self, message: Message) -> Result<(), SessionError> {
        let add =
            move |stored: &mut Stored<S>| messages::add(&mut stored.messages, message.clone());
        self.change(add, false).await
    }

    /// The messages that wait, which then wait no longer.
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn take_messages(&self) -> Result<Vec<Message>, SessionError> {
        if self.state().latest.is_none() {
            self.find().await?;
        }
        let waiting = |(stored, _): &(Stored<S>, i64)| !stored.messages.is_empty();
        if !self.state().latest.as_ref().is_some_and(waiting) {
            return Ok(Vec::new());
        }
        let take = |stored: &mut Stored<S>| std::mem::take(&mut stored.messages);
        self.change(take, false).await
    }

    /// Deletes the record at once and removes the cookie.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn flush(&self) -> Result<(), SessionError> {
        if let Some(found) = self.find().await? {
            let deleted = self.sessions.delete(found.id.hashed()).await;
            self.noted(deleted)?;
            self.sessions.metrics.flushed.inc();
        }
        let mut request = self.state();
        request.candidates.clear();
        request.changes.clear();
        request.latest = None;
        request.created = false;
        request.rotates = false;
        request.test_cookie = TestCookie::Keep;
        request.sign_in = None;
        request.cookie = request.removal();
        Ok(())
    }

    /// The session as this request last saw it, for the page that shows it; asks no store. `None`:
    /// there is none, or nothing has asked for it yet.
    pub fn snapshot(&self) -> Option<Snapshot<S>> {
        let request = self.state();
        let (stored, ends) = request.latest.as_ref()?;
        Some(stored.snapshot(*ends))
    }

    /// What is known of the session besides its state; `None`: there is no session.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn info(&self) -> Result<Option<Info>, SessionError> {
        let found = self.find().await?;
        Ok(found.map(|found| {
            let ends = found.known.record.expiry_date.unix_timestamp();
            found.known.stored.snapshot(ends).info
        }))
    }

    /// When the session ends if nobody writes it; `None`: there is no session.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn expires_at(&self) -> Result<Option<OffsetDateTime>, SessionError> {
        let found = self.find().await?;
        Ok(found.map(|found| found.known.record.expiry_date))
    }

    /// Lets the session live as long again as after a change.
    ///
    /// # Errors
    /// As [`Session::update`].
    pub async fn touch(&self) -> Result<(), SessionError> {
        self.change(|_| (), true).await
    }

    /// Tells an open page of every change of its session, whichever server makes it, beginning with
    /// how it is now. `None`: there is no session.
    ///
    /// # Errors
    /// [`SessionError::Full`] where the server has all the pages that it may have, and when the
    /// store can't be asked.
    pub async fn subscribe(&self) -> Result<Option<Subscription<S>>, SessionError> {
        match self.find().await? {
            Some(found) => {
                let listener = self.sessions.live.subscribe(found.id.hashed()).await;
                self.noted(listener).map(Some)
            }
            None => Ok(None),
        }
    }

    /// Whether the session was deleted elsewhere while this request worked with it: what the
    /// request wrote since then went into a new one.
    pub fn has_ended(&self) -> bool {
        self.state().ended
    }

    /// Changes what is stored, in the session or in a new one.
    async fn change<T, F>(&self, change: F, renews: bool) -> Result<T, SessionError>
    where
        F: Fn(&mut Stored<S>) -> T + Send + Sync + 'static,
        T: Send + 'static,
    {
        let change = Arc::new(self.with_test_cookie(change));
        loop {
            let (candidates, confirms) = {
                let mut request = self.state();
                request.touched = true;
                (request.candidates.clone(), !request.created)
            };
            for id in &candidates {
                let function = {
                    let change = Arc::clone(&change);
                    move |stored: &mut Stored<S>| {
                        // Whose cookie came back is no robot that keeps none.
                        stored.confirmed |= confirms;
                        change(stored)
                    }
                };
                if let Some(output) = self.change_found(id.clone(), function, renews).await? {
                    return Ok(output);
                }
            }
            let creation = Creation::begin(self).await;
            {
                let mut request = self.state();
                request.candidates.retain(|id| !candidates.contains(id));
                // Another change of this request has made the session meanwhile.
                if !request.candidates.is_empty() {
                    continue;
                }
                request.not_found();
            }
            return self.change_new(change.as_ref(), creation).await;
        }
    }

    /// The change, and what this request has decided about the test cookie before.
    fn with_test_cookie<T, F>(&self, change: F) -> impl Fn(&mut Stored<S>) -> T + use<S, T, F>
    where
        F: Fn(&mut Stored<S>) -> T,
    {
        let decision = std::mem::replace(&mut self.state().test_cookie, TestCookie::Keep);
        let number = self.number;
        move |stored| {
            match decision {
                TestCookie::Keep => {}
                TestCookie::Set => stored.test_mark = Some(number),
                TestCookie::Delete => stored.test_mark = None,
            }
            change(stored)
        }
    }

    /// `None`: there is no session of this id.
    async fn change_found<T: Send + 'static>(
        &self,
        id: SessionId,
        function: impl Fn(&mut Stored<S>) -> T + Send + 'static,
        renews: bool,
    ) -> Result<Option<T>, SessionError> {
        let (done, finished) = oneshot::channel();
        let (pending, hashed) = (Pending::of(self), id.hashed());
        let change = Function {
            function,
            renews,
            output: None,
            done: move |finished: Result<(Outcome<S>, Option<T>), SessionError>| {
                let recorded = finished.map(|(outcome, output)| {
                    let is_there = pending.0.record(id, outcome);
                    output.filter(|_| is_there)
                });
                drop(pending);
                // Nothing waits any more where the handler was dropped.
                let _ = done.send(recorded);
            },
        };
        let turn = self
            .sessions
            .queue
            .submit(hashed, Box::new(change), finished);
        self.noted(turn.await.unwrap_or(Err(SessionError::Panicked)))
    }

    /// Notes what became of a change, and returns whether the session is there.
    fn record(&self, id: SessionId, outcome: Outcome<S>) -> bool {
        let mut request = self.state();
        match outcome {
            Outcome::Done {
                before,
                after,
                saved,
                ends,
            } => {
                request.found = true;
                request.latest = Some((after.as_ref().clone(), ends));
                if saved {
                    request.activity += S::activity(&before.state, &after.state);
                    let lifetime = after.lifetime(&self.sessions.config);
                    request.cookie = Cookie::Set(id.clone(), lifetime.cookie);
                    request.changes.push(undo::Change { before, after });
                }
                request.candidates = vec![id];
                true
            }
            Outcome::Gone { ended } => {
                request.ended |= ended || request.found;
                false
            }
        }
    }

    async fn change_new<T>(
        &self,
        change: &impl Fn(&mut Stored<S>) -> T,
        creation: Creation<S>,
    ) -> Result<T, SessionError> {
        let empty = Stored::new(S::default());
        let mut stored = empty.clone();
        let output = change(&mut stored);
        if stored == empty {
            return Ok(output);
        }
        if self.state().answered {
            return self.noted(Err(SessionError::HeadSent));
        }
        let admitted = if self.address.is_unspecified() {
            // Nobody knows whose request this is.
            Ok(())
        } else {
            self.sessions.flood.admit(self.address)
        };
        let admitted = admitted.map_err(|seconds| {
            self.sessions.metrics.refused.inc();
            SessionError::Flooded { seconds }
        });
        self.noted(admitted)?;
        let created = self.create(stored, creation).await;
        self.noted(created)?;
        let mut request = self.state();
        request.activity += request
            .latest
            .as_ref()
            .map_or(0, |(stored, _)| S::activity(&S::default(), &stored.state));
        Ok(output)
    }

    /// Stores a new session, in a task of its own: dropped half done, nobody would know whether it is there.
    async fn create(&self, stored: Stored<S>, creation: Creation<S>) -> Result<(), SessionError> {
        let pending = Pending::of(self);
        let creating = tokio::spawn(async move {
            let created = pending.0.create_now(stored).await;
            drop(creation);
            created
        });
        creating.await.unwrap_or(Err(SessionError::Panicked))
    }

    /// Stores a new session under an id that nobody knew before, which the cookie then carries.
    async fn create_now(&self, stored: Stored<S>) -> Result<(), SessionError> {
        let id = SessionId::generate()?;
        let config = &self.sessions.config;
        let mut record = stored.record(id.hashed(), config)?;
        self.sessions.store.create(&mut record).await?;
        let lifetime = stored.lifetime(config);
        let mut request = self.state();
        request.created = true;
        request.latest = Some((stored, record.expiry_date.unix_timestamp()));
        request.candidates = vec![id.clone()];
        request.cookie = Cookie::Set(id, lifetime.cookie);
        Ok(())
    }

    /// The first of the request's ids that the store knows: a foreign cookie of the same name
    /// can't hide the visitor's own.
    async fn find(&self) -> Result<Option<Found<S>>, SessionError> {
        let candidates = {
            let mut request = self.state();
            request.touched = true;
            request.candidates.clone()
        };
        for id in candidates {
            let known = self.sessions.queue.load(id.hashed()).await;
            if let Some(known) = self.noted(known)? {
                let ends = known.record.expiry_date.unix_timestamp();
                let mut request = self.state();
                request.found = true;
                request.latest = Some((known.stored.clone(), ends));
                request.candidates = vec![id.clone()];
                return Ok(Some(Found { id, known }));
            }
        }
        self.state().not_found();
        Ok(None)
    }

    /// Keeps what went wrong, for the line in the log that tells of the answer.
    fn noted<T>(&self, result: Result<T, SessionError>) -> Result<T, SessionError> {
        if let Err(error) = &result {
            self.state().error = Some(error.clone());
        }
        result
    }

    fn state(&self) -> MutexGuard<'_, RequestState<S>> {
        self.request.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The session after a sign-in, where there is one.
fn signed_in<S: SessionState>(
    mut stored: Stored<S>,
    sign_in: Option<(&'static str, SignIn)>,
) -> Stored<S> {
    if let Some((realm, sign_in)) = sign_in {
        stored.sign_ins.insert(realm.to_owned(), sign_in);
        stored.known_in.insert(realm.to_owned());
        // Whoever knows a password is no robot.
        stored.confirmed = true;
    }
    stored
}

/// What the layer does once the answer's status is known.
impl<S: SessionState> Session<S> {
    /// Whether anything asked for the session, and what becomes of the cookie.
    pub(crate) fn outcome(&self) -> (bool, Cookie) {
        let request = self.state();
        (request.touched, request.cookie.clone())
    }

    /// The response begins: what needs the cookie comes too late from now on.
    pub(crate) fn close(&self) {
        self.state().answered = true;
    }

    /// What went wrong last.
    pub(crate) fn error(&self) -> Option<SessionError> {
        self.state().error.clone()
    }

    pub(crate) fn is_https(&self) -> bool {
        self.is_https
    }

    pub(crate) fn config(&self) -> &Config {
        &self.sessions.config
    }

    /// The number of the session's last write that this request knows of.
    pub(crate) fn revision(&self) -> Option<u64> {
        let request = self.state();
        request.latest.as_ref().map(|(stored, _)| stored.revision)
    }

    /// The answer succeeds: renews the session where the config asks for it, and rotates its id
    /// where the request did. Whoever must know the outcome before answers by calling this; the
    /// second call finds nothing left to do.
    pub async fn commit(&self) -> Result<(), SessionError> {
        self.settle().await;
        if self.state().test_cookie != TestCookie::Keep {
            self.change(|_| (), false).await?;
        }
        let (written, sent, rotates) = {
            let request = self.state();
            let written = matches!(request.cookie, Cookie::Set(..));
            (written, !request.candidates.is_empty(), request.rotates)
        };
        if self.sessions.config.save_every_request && sent && !written {
            self.change(|_| (), true).await?;
        }
        if rotates {
            let rotated = self.rotate_now().await;
            self.noted(rotated)?;
            let mut request = self.state();
            request.rotates = false;
            request.sign_in = None;
            // What was changed went to the new id, which stays.
            request.changes.clear();
        }
        self.note();
        Ok(())
    }

    /// Writes down what this request did.
    fn note(&self) {
        let mut request = self.state();
        let metrics = &self.sessions.metrics;
        metrics.visits.inc_by(std::mem::take(&mut request.activity));
        metrics
            .created
            .inc_by(u64::from(std::mem::take(&mut request.created)));
        if let Some(register) = &self.sessions.register
            && let (Cookie::Set(id, _), Some((_, ends))) = (&request.cookie, &request.latest)
        {
            register.seen(id.hashed(), *ends);
        }
    }

    /// The new record is made before the old one goes, and the old one goes only if nobody has
    /// changed it meanwhile: no moment without a session, and no change lost. Whoever revokes all
    /// sessions meanwhile says so before he looks for them: he finds the new record, or is heard here
    /// after it was made.
    async fn rotate_now(&self) -> Result<(), SessionError> {
        let sign_in = self.state().sign_in;
        let id = SessionId::generate()?;
        let config = &self.sessions.config;
        let give_up = Instant::now() + PATIENCE;
        while let Some(found) = self.find().await? {
            let old = found.known.record.id;
            let stored = signed_in(found.known.stored.clone(), sign_in);
            let mut record = stored.record(id.hashed(), config)?;
            self.sessions.store.create(&mut record).await?;
            if self.sessions.is_revoked(&stored).await? {
                self.sessions.store.delete(&id.hashed()).await?;
                self.sessions.delete(old).await?;
                continue;
            }
            if self.delete_old(&found.known, give_up).await? {
                self.sessions.has_gone(old);
                let lifetime = stored.lifetime(config);
                let mut request = self.state();
                request.latest = Some((stored, record.expiry_date.unix_timestamp()));
                request.candidates = vec![id.clone()];
                request.cookie = Cookie::Set(id, lifetime.cookie);
                return Ok(());
            }
            self.sessions.store.delete(&id.hashed()).await?;
            if Instant::now() >= give_up {
                return Err(SessionError::Contended);
            }
        }
        if sign_in.is_some() {
            let stored = signed_in(Stored::new(S::default()), sign_in);
            let creation = Creation::begin(self).await;
            self.create(stored, creation).await?;
        }
        Ok(())
    }

    /// Whether the record is gone and nobody had changed it. After a broken connection one that is
    /// gone was deleted by this.
    async fn delete_old(&self, old: &Known<S>, give_up: Instant) -> Result<bool, SessionError> {
        let store = &self.sessions.store;
        let mut broke = false;
        loop {
            match store.compare_and_delete(&old.record).await {
                Ok(true) => return Ok(true),
                Ok(false) => return Ok(broke && store.load(&old.record.id).await?.is_none()),
                Err(error) if Instant::now() >= give_up => {
                    return Err(SessionError::from(error).undecided());
                }
                Err(_) => {
                    broke = true;
                    sleep(jitter()).await;
                }
            }
        }
    }

    /// Waits for the changes that are on their way, for whose outcome nothing waits any more.
    async fn settle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.state().pending == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Whether a failed response would have to take anything back.
    pub(crate) fn has_changes(&self) -> bool {
        let request = self.state();
        request.pending > 0 || request.created || !request.changes.is_empty()
    }

    /// The answer fails: takes back what this request changed.
    pub(crate) async fn roll_back(&self) {
        self.settle().await;
        let (candidate, created, changes) = {
            let mut request = self.state();
            let changes = std::mem::take(&mut request.changes);
            (
                request.candidates.first().cloned(),
                request.created,
                changes,
            )
        };
        let Some(id) = candidate else { return };
        if created || !changes.is_empty() {
            self.sessions.metrics.rolled_back.inc();
        }
        let undone = if created {
            self.sessions.delete(id.hashed()).await
        } else if changes.is_empty() {
            Ok(())
        } else {
            let undo = move |stored: &mut Stored<S>| undo::take_back(&changes, stored);
            self.change_found(id, undo, false).await.map(|_| ())
        };
        if let Err(error) = undone {
            tracing::error!(%error, "a failed request's change could not be taken back");
        }
    }
}

impl<S> RequestState<S> {
    /// None of the request's ids is in the store.
    fn not_found(&mut self) {
        self.ended |= self.found;
        self.latest = None;
        self.candidates.clear();
        self.cookie = self.removal();
    }

    /// A cookie is removed only where there was one.
    fn removal(&self) -> Cookie {
        if self.sent_cookie {
            Cookie::Remove
        } else {
            Cookie::Keep
        }
    }
}
