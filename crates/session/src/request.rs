//! What one request has found out and decided about its session.

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

/// One request's session, shared by all handles.
pub struct RequestSession<S> {
    pub sessions: Arc<Shared<S>>,
    /// No other request has it, on any server.
    pub number: u64,
    pub client: ClientInfo,
    /// What the client calls itself.
    pub user_agent: Option<HeaderValue>,
    pub carrier: Carrier,
    /// The client sent an id, well-formed or not.
    pub sent_any: bool,
    /// The request must not change anything: HEAD, OPTIONS, and prefetches.
    pub is_dry: bool,
    state: Mutex<RequestState<S>>,
    /// Tells that some of the request's work in the background has ended.
    pub progress: Notify,
}

/// What changes while the request is handled.
#[derive(Debug)]
pub struct RequestState<S> {
    /// Where the search for the session has come to.
    pub lookup: Lookup<S>,
    /// Something asked for the session: the response depends on the client's id.
    pub touched: bool,
    /// The session was deleted elsewhere after this request had found it.
    pub was_replaced: bool,
    pub creation: Creation,
    pub head: Head,
    /// What becomes of the id if the response succeeds.
    pub id_change: IdChange,
    /// What becomes of the test cookie's mark with the next write.
    pub test_cookie: TestCookie,
    /// What it has changed, to be counted once the response has succeeded.
    pub counted: Counted,
    /// What this request changed, in order.
    pub changes: Vec<rollback::Change<S>>,
    pub cookie: Cookie,
    /// What went wrong last.
    pub error: Option<SessionError>,
    /// Changes that are on their way.
    pub pending: usize,
}

/// Where the search for the request's session has come to.
#[derive(Debug)]
pub enum Lookup<S> {
    /// The client's well-formed ids, of which the store has not been asked for any, or has failed.
    Sent(Vec<SessionId>),
    /// The session.
    Found(Box<Latest<S>>),
    /// There is none.
    Absent,
}

/// The session as this request last saw it.
#[derive(Clone, Debug)]
pub struct Latest<S> {
    pub id: SessionId,
    pub envelope: Arc<Envelope<S>>,
    /// When it ends, in seconds since 1970.
    pub expires_at: i64,
}

/// Whether this request has made the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creation {
    None,
    /// One of its changes is about to. The others wait.
    Running,
    /// It has, and the response may still fail.
    Created,
}

/// The response's head, which carries the cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    Open,
    Sent,
}

/// What becomes of the id if the response succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdChange {
    Keep,
    /// A new one.
    Cycle,
    /// A new one, whose session is signed in to this realm.
    SignIn(&'static str, SignIn),
}

/// What a request does about the test cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestCookie {
    Keep,
    Set,
    Delete,
}

impl<S> RequestSession<S> {
    pub fn new(
        sessions: Arc<Shared<S>>,
        sent: Sent,
        client: ClientInfo,
        user_agent: Option<HeaderValue>,
        is_dry: bool,
    ) -> Self {
        Self {
            number: sessions.next_request(),
            sessions,
            client,
            user_agent,
            carrier: sent.carrier,
            sent_any: sent.any,
            is_dry,
            state: Mutex::new(RequestState {
                lookup: Lookup::Sent(sent.ids),
                touched: false,
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

    /// The state, unless the response's head is out: what `lost` names needs the head, so it is too late for it.
    pub fn before_head(&self, lost: &str) -> Option<MutexGuard<'_, RequestState<S>>> {
        let mut request = self.state();
        if request.head == Head::Sent {
            tracing::error!("{lost} after the response's head is out, and is lost");
            return None;
        }
        request.touched = true;
        Some(request)
    }

    /// None of the request's ids is in the store.
    pub fn not_found(&self) {
        let mut request = self.state();
        request.was_replaced |= matches!(request.lookup, Lookup::Found(_));
        request.lookup = Lookup::Absent;
        request.cookie = self.removal();
    }

    /// A cookie is removed only where there was one.
    pub fn removal(&self) -> Cookie {
        if self.sent_any {
            Cookie::Remove
        } else {
            Cookie::Keep
        }
    }
}

impl<S> RequestState<S> {
    /// The ids that may be the session's, the first one first.
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

/// Work for a request that goes on in the background, whether anything waits for it or not.
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

/// The right to make the request's session, which one change at a time has. Without it each of several concurrent
/// changes would make its own.
///
/// It waits for a notice rather than in a queue, where a change that is held half done would hold up the others.
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

    /// The session is made.
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
