//! Gives each request its session handle, and writes what became of it into the answer's head.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::Request,
    http::{
        HeaderValue,
        header::{CACHE_CONTROL, RETRY_AFTER, SET_COOKIE, VARY},
    },
    response::{IntoResponse, Response},
};
use tokio::runtime::Handle;

use super::{Session, SessionError, Sessions, cookie, state::SessionState};

/// The response's header with the number of the session's last write, so that a page knows which of two
/// responses is the newer.
const REVISION: &str = "session-revision";

/// What is known of a request before anything is done for it.
#[derive(Clone, Copy, Debug)]
pub struct ClientInfo {
    /// The request's own, from [`Sessions::next_request`].
    pub number: u64,
    /// The visitor's.
    pub address: IpAddr,
    /// A trusted proxy says that the visitor has come by https.
    pub is_https: bool,
}

/// Goes with an answer whose session made trouble, for the log.
#[derive(Clone, Debug)]
pub struct Cause(pub SessionError);

/// Gives a request its session, which server functions and handlers find in the extensions: parses
/// the cookie and touches no store; the handle does, when it is asked.
pub fn begin<S: SessionState>(
    sessions: &Arc<Sessions<S>>,
    request: &mut Request,
    client: ClientInfo,
) -> Session<S> {
    let sent = cookie::sent(request.headers(), &sessions.settings.cookie_name);
    let session = Session::new(Arc::clone(sessions), sent, client);
    request.extensions_mut().insert(session.clone());
    session
}

/// Takes back what a request has changed, unless its response is known before this is dropped: a browser may
/// hang up at any time.
#[derive(Debug)]
pub struct Unanswered<S: SessionState>(Option<Session<S>>);

impl<S: SessionState> Unanswered<S> {
    pub fn new(session: &Session<S>) -> Self {
        Self(Some(session.clone()))
    }

    /// The response is known.
    pub fn answered(mut self) {
        self.0 = None;
    }
}

impl<S: SessionState> Drop for Unanswered<S> {
    fn drop(&mut self) {
        if let Some(session) = self.0.take()
            && session.has_changes()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move { session.roll_back().await });
        }
    }
}

/// Commits what the request did, or takes it back where its answer failed, and writes the
/// outcome into the answer's head. A panic must have become a status of 500 before.
pub async fn end<S: SessionState>(session: &Session<S>, mut response: Response) -> Response {
    let mut failed = response.status().is_server_error();
    if !failed && let Err(error) = session.commit().await {
        response = error.into_response();
        failed = true;
    }
    if failed {
        session.roll_back().await;
    }
    if let Some(error) = session.error() {
        response.extensions_mut().insert(Cause(error));
    }
    let (touched, decision) = session.outcome();
    if !touched {
        return response;
    }
    let headers = response.headers_mut();
    if let Some(revision) = session.revision() {
        headers.insert(REVISION, HeaderValue::from(revision));
    }
    headers.append(VARY, HeaderValue::from_static("Cookie"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    if !failed
        && let Some(value) = cookie::set_cookie(&decision, session.settings(), session.is_https())
    {
        headers.append(SET_COOKIE, value);
    }
    response
}

/// One line for whoever asked, and when to come back; the log has the cause.
impl IntoResponse for SessionError {
    fn into_response(self) -> Response {
        let (status, seconds) = self.answer();
        let why = match self {
            Self::Flooded { .. } => "Too many new sessions come from your network right now.\n",
            Self::Full => "No more pages can be told of changes right now.\n",
            _ => "Your session can't be reached right now. Please try again.\n",
        };
        let headers = [
            (RETRY_AFTER, HeaderValue::from(seconds)),
            (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        (status, headers, why).into_response()
    }
}
