//! Why a session could not be read or changed, and the response to the client.

use std::sync::Arc;

use http::{
    HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
};
use thiserror::Error;
use tower_sessions::session_store;

/// After how many seconds clients may retry when the store did not respond.
const RETRY_AFTER_SECONDS: u64 = 2;

/// After how many seconds clients may retry a subscription.
const RETRY_SUBSCRIPTION_SECONDS: u64 = 30;

/// The reason why a session could not be read or changed. A failed change was not saved, unless the variant says
/// otherwise.
///
/// As an axum response it is one line of plain text with the status [`SessionError::status`] and a `Retry-After` header
/// of [`SessionError::retry_after`]. To respond differently, map it:
///
/// ```
/// use http::StatusCode;
/// use tally_session::SessionError;
///
/// fn status(error: &SessionError) -> StatusCode {
///     match error {
///         SessionError::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
///         other => other.status(),
///     }
/// }
/// ```
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The store did not respond, or refused the operation.
    #[error("the session store failed: {0}")]
    Store(Arc<session_store::Error>),
    /// Other servers changed the session first, each time that the change was tried.
    #[error("the session could not be saved: too many conflicts with other servers")]
    Conflict,
    /// The store stopped responding while a change was being saved. This is the only case where a change may have been
    /// saved although its request failed.
    #[error("the session store stopped responding while a change was being saved: {0}")]
    Indeterminate(Arc<session_store::Error>),
    /// The state can't be serialized to JSON.
    #[error("the session can't be encoded: {0}")]
    Encode(Arc<serde_json::Error>),
    /// The operating system provides no random numbers.
    #[error("the operating system provides no random numbers: {0}")]
    Random(getrandom::Error),
    /// The function that changes the session panicked.
    #[error("a change of the session panicked")]
    Panicked,
    /// [`Config::max_subscribers`](crate::Config::max_subscribers) is reached, or the server is about to stop.
    #[error("the server has reached its limit of subscribers")]
    TooManySubscribers,
    /// The client's address has created too many sessions.
    #[error("too many new sessions from one address; retry in {seconds} s")]
    RateLimited {
        /// The seconds after which the address may create another session.
        seconds: u64,
    },
    /// A scan of all sessions was interrupted, so it may have missed some.
    #[error("the store was restarted or lost a server during a scan of all sessions")]
    Interrupted,
    /// The handler is not inside a [`SessionLayer`](crate::SessionLayer).
    #[error("no session layer around this request")]
    NoLayer,
    /// A new session is too late, because the response's headers, which set its cookie, have been sent.
    ///
    /// A streamed response must create its session before it begins. In Leptos, `SsrMode::Async` does so.
    #[error(
        "it is too late to set the cookie of a new session: change the session before the response begins"
    )]
    HeadersSent,
    /// No user is signed in.
    #[error("no user is signed in")]
    SignedOut,
    /// The store can't list the sessions of a user. These are files, Memcached, and a wrapped store.
    #[error("this session store can't list the sessions of a user")]
    NoIndex,
    /// An error of the application's own code, for [`auth::Realm`](crate::auth::Realm).
    #[error("{0}")]
    Other(Arc<dyn std::error::Error + Send + Sync>),
    /// The session's value under this key has another type.
    #[error("a value in the session can't be decoded: {0}")]
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
    /// The same error for a change that may have been saved.
    pub(crate) fn indeterminate(self) -> Self {
        match self {
            Self::Store(error) => Self::Indeterminate(error),
            other => other,
        }
    }

    /// Wraps an error of the application's own code.
    pub fn other(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Other(Arc::new(error))
    }

    /// Whether the store has failed. The start and the end of an outage are already logged.
    pub fn is_store_error(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Indeterminate(_))
    }

    /// The status of a response to this error.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::SignedOut => StatusCode::UNAUTHORIZED,
            Self::NoIndex => StatusCode::NOT_IMPLEMENTED,
            Self::NoLayer | Self::HeadersSent | Self::Decode(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The seconds after which a retry may succeed. `None`: a retry does not help.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::RateLimited { seconds } => Some(*seconds),
            Self::TooManySubscribers => Some(RETRY_SUBSCRIPTION_SECONDS),
            Self::SignedOut
            | Self::NoIndex
            | Self::NoLayer
            | Self::HeadersSent
            | Self::Decode(_) => None,
            _ => Some(RETRY_AFTER_SECONDS),
        }
    }

    /// The response to this error: one line of plain text, and a `Retry-After` header. The text does not reveal the
    /// cause, which belongs in the log.
    pub fn response(&self) -> Response<String> {
        let text = match self {
            Self::RateLimited { .. } => "Too many new sessions come from your network right now.\n",
            Self::TooManySubscribers => "Live updates are at their limit right now.\n",
            Self::SignedOut => "Please sign in.\n",
            Self::NoIndex => "This site can't list your sessions.\n",
            Self::NoLayer | Self::HeadersSent | Self::Decode(_) => {
                "Something went wrong on this site.\n"
            }
            _ => "Your session can't be reached right now. Please try again.\n",
        };
        let mut response = Response::new(text.to_owned());
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(CONTENT_TYPE, plain);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
