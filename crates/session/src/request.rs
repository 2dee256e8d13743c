//! The state of one request's session: what the request has loaded, changed and decided.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderValue;
use tokio::sync::Notify;

use super::{
    Session, SessionError,
    auth::SignIn,
    cookie::{Carrier, Cookie, Sent},
    envelope::Envelope,
    id::SessionId,
    layer::ClientInfo,
    manager::Shared,
    metrics::Counted,
    rollback,
    state::SessionState,
};

/// The session of one request, shared by all its handles.
pub struct RequestSession<S> {
    pub shared: Arc<Shared<S>>,
    /// Unique among all requests, on all servers.
    pub number: u64,
    pub client: ClientInfo,
    pub user_agent: Option<HeaderValue>,
    pub carrier: Carrier,
    /// The client sent an id, well-formed or not.
    pub sent_any: bool,
    /// The request must not change anything: HEAD, OPTIONS, and prefetches.
    pub is_dry: bool,
    state: Mutex<RequestState<S>>,
    /// Notified whenever some of the request's background work has ended.
    pub progress: Notify,
}

/// The part of a request's session that changes while the request is handled.
#[derive(Debug)]
pub struct RequestState<S> {
    pub lookup: Lookup<S>,
    /// The handler has used the session, so the response depends on the client's id.
    pub accessed: bool,
    /// The session was deleted elsewhere after this request had found it.
    pub was_replaced: bool,
    pub creation: Creation,
    pub head: Head,
    /// Takes effect if the response succeeds.
    pub id_change: IdChange,
    /// Takes effect with the next write.
    pub test_cookie: TestCookie,
    /// Goes to the metrics once the response has succeeded.
    pub counted: Counted,
    /// This request's changes, in order, so that they can be rolled back.
    pub changes: Vec<rollback::Change<S>>,
    pub cookie: Cookie,
    /// The last error.
    pub error: Option<SessionError>,
    /// How many changes are still running.
    pub pending: usize,
}

/// The result of the search for the request's session, as far as it has got.
#[derive(Debug)]
pub enum Lookup<S> {
    /// The client's well-formed ids. The store has not been queried yet, or has failed.
    Sent(Vec<SessionId>),
    Found(Box<Latest<S>>),
    /// There is no session.
    Absent,
}

/// The session as this request last saw it.
#[derive(Clone, Debug)]
pub struct Latest<S> {
    pub id: SessionId,
    pub envelope: Arc<Envelope<S>>,
    /// When the session expires, in seconds since 1970.
    pub expires_at: i64,
}

/// Whether this request has created the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creation {
    None,
    /// One of the request's changes is creating it. The others wait.
    Running,
    /// The session exists, and the response may still fail.
    Created,
}

/// Whether the response's headers, which carry the cookie, have been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    Open,
    Sent,
}

/// How the session's id changes if the response succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdChange {
    Keep,
    /// The session gets a new id.
    Cycle,
    /// The session gets a new id, and is signed in to this realm.
    SignIn(&'static str, SignIn),
}

/// How the test cookie's mark changes with the next write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestCookie {
    Keep,
    Set,
    Delete,
}

impl<S> RequestSession<S> {
    pub fn new(
        shared: Arc<Shared<S>>,
        sent: Sent,
        client: ClientInfo,
        user_agent: Option<HeaderValue>,
        is_dry: bool,
    ) -> Self {
        Self {
            number: shared.next_request(),
            shared,
            client,
            user_agent,
            carrier: sent.carrier,
            sent_any: sent.any,
            is_dry,
            state: Mutex::new(RequestState {
                lookup: Lookup::Sent(sent.ids),
                accessed: false,
                was_replaced: false,
                creation: Creation::None,
                head: Head::Open,
                id_change: IdChange::Keep,
                test_cookie: TestCookie::Keep,
                counted: Counted::default(),
                changes: Vec::new(),
                cookie: Cookie::Keep,
                error: None,
                pending: 0,
            }),
            progress: Notify::new(),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, RequestState<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, unless the response's headers have been sent. Then it logs that `change`, which needs the cookie,
    /// is lost.
    pub fn before_head(&self, change: &str) -> Option<MutexGuard<'_, RequestState<S>>> {
        let mut request = self.state();
        if request.head == Head::Sent {
            tracing::error!(
                change,
                "a session change is lost: it needs the cookie, and the response has already begun"
            );
            return None;
        }
        request.accessed = true;
        Some(request)
    }

    /// Records that the store has none of the request's ids.
    pub fn not_found(&self) {
        let mut request = self.state();
        request.was_replaced |= matches!(request.lookup, Lookup::Found(_));
        request.lookup = Lookup::Absent;
        request.cookie = self.removal();
    }

    /// Removes the client's cookie, if the client sent one.
    pub fn removal(&self) -> Cookie {
        if self.sent_any {
            Cookie::Remove
        } else {
            Cookie::Keep
        }
    }
}

impl<S> RequestState<S> {
    /// The ids under which the session may be stored, in the order of the search.
    pub fn candidates(&self) -> Vec<SessionId> {
        match &self.lookup {
            Lookup::Sent(ids) => ids.clone(),
            Lookup::Found(latest) => vec![latest.id.clone()],
            Lookup::Absent => Vec::new(),
        }
    }

    /// The session as this request last saw it.
    pub fn latest(&self) -> Option<&Latest<S>> {
        match &self.lookup {
            Lookup::Found(latest) => Some(latest),
            Lookup::Sent(_) | Lookup::Absent => None,
        }
    }
}

/// Counts a piece of the request's work as pending until it is dropped. The work may outlive the handler.
pub struct Pending<S: SessionState>(pub Session<S>);

impl<S: SessionState> Pending<S> {
    pub fn of(session: &Session<S>) -> Self {
        session.state().pending += 1;
        Self(session.clone())
    }
}

impl<S: SessionState> Drop for Pending<S> {
    fn drop(&mut self) {
        self.0.state().pending -= 1;
        self.0.request.progress.notify_waiters();
    }
}

/// The right to create the request's session, held by one change at a time. Without it, each of several concurrent
/// changes would create a session of its own.
///
/// It is not a `tokio::sync::Mutex`, which is fair: a change at the head of its queue that nobody polls would block
/// the others.
pub struct CreationGuard<S: SessionState> {
    session: Session<S>,
    before: Creation,
}

impl<S: SessionState> CreationGuard<S> {
    pub async fn begin(session: &Session<S>) -> Self {
        loop {
            let progress = session.request.progress.notified();
            let before = std::mem::replace(&mut session.state().creation, Creation::Running);
            if before != Creation::Running {
                return Self {
                    session: session.clone(),
                    before,
                };
            }
            progress.await;
        }
    }

    /// Records that the session has been created.
    pub fn created(mut self) {
        self.before = Creation::Created;
    }
}

impl<S: SessionState> Drop for CreationGuard<S> {
    fn drop(&mut self) {
        self.session.state().creation = self.before;
        self.session.request.progress.notify_waiters();
    }
}
