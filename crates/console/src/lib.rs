//! An admin console for applications that use [`tally_session`]: charts of activity, and a list of sessions to inspect
//! and revoke.
//!
//! [`Console::router`] is an ordinary axum `Router`. Nest it at any path, inside the session layer:
//!
//! ```
//! # use axum::Router;
//! # use tally_console::{Console, PasswordHash};
//! # use tally_session::{Map, SessionManager};
//! # fn app(sessions: SessionManager<Map>, hash: PasswordHash) -> Router {
//! let console = Console::new(&sessions, hash);
//! Router::new()
//!     .nest("/ops", console.router())
//!     .layer(sessions.layer())
//! # }
//! ```
//!
//! Enable [`Config::record_stats`](tally_session::Config::record_stats). Without it the charts are empty, and Redis
//! keeps no index of the sessions.
//!
//! The server renders the pages, and they work without JavaScript. A client that is not signed in gets the sign-in page
//! at every address. Each action of an operator is logged with the target [`AUDIT_TARGET`].
//!
//! The console reads the operator's address from [`ClientInfo`](tally_session::ClientInfo), and the request id from the
//! header `x-request-id`, which an outer layer may set.

mod access;
mod audit;
mod charts;
mod format;
mod layout;
mod live;
mod login_throttle;
mod mount;
mod overview;
mod password;
mod routes;
mod sessions;
mod sign_in;
mod sign_ins;

use std::{fmt, sync::Arc};

use axum::Router;
use tally_session::{SessionError, SessionManager, SessionState, auth::Limits};

pub use audit::TARGET as AUDIT_TARGET;
pub use password::{HashError, PasswordHash, SHORTEST as MIN_PASSWORD_LENGTH, prompt_and_hash};

use login_throttle::LoginThrottle;
use password::Verifier;

/// The realm that operators sign in to. Users of the application sign in to realms of their own.
pub const REALM: &str = "console";

/// The user name of every operator. There is only one password.
const OPERATOR: &str = "operator";

/// The query parameter of a sign-in link.
const LOGIN_TOKEN: &str = "pass";

/// How long a sign-in link is valid, in seconds.
const LOGIN_TOKEN_AGE: u32 = 600;

/// The default of [`Console::with_limits`]: 30 minutes without use, 12 hours in total.
const LIMITS: Limits = Limits {
    idle: Some(1_800),
    absolute: Some(43_200),
};

/// The colour scheme of the console's pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ColorScheme {
    /// The preference of the operator's system.
    #[default]
    System,
    Light,
    Dark,
}

/// A column in the list of sessions, which is also shown on the page of a session.
struct Column<S> {
    name: &'static str,
    value: fn(&S) -> String,
}

/// Builder for the console of an application.
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # use tally_console::{Console, PasswordHash};
/// # use tally_session::{SessionManager, SessionState};
/// # #[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
/// # struct Cart { items: Vec<String> }
/// # impl SessionState for Cart {}
/// # fn console(sessions: &SessionManager<Cart>, hash: PasswordHash) -> axum::Router {
/// Console::new(sessions, hash)
///     .with_title("Shop console")
///     .with_column("Items", |cart| cart.items.len().to_string())
///     .router()
/// # }
/// ```
pub struct Console<S: SessionState> {
    sessions: SessionManager<S>,
    verifier: Verifier,
    throttle: LoginThrottle,
    limits: Limits,
    title: String,
    store: String,
    icon: Option<String>,
    color_scheme: fn(&S) -> ColorScheme,
    columns: Vec<Column<S>>,
}

/// Omits the password hash.
impl<S: SessionState> fmt::Debug for Console<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut console = formatter.debug_struct("Console");
        console.field("title", &self.title).finish_non_exhaustive()
    }
}

impl<S: SessionState> Console<S> {
    /// Creates a console for these sessions. `password` is the hash of the operator's password.
    pub fn new(sessions: &SessionManager<S>, password: PasswordHash) -> Self {
        Self {
            sessions: sessions.clone(),
            verifier: Verifier::new(password),
            throttle: LoginThrottle::default(),
            limits: LIMITS,
            title: "Session console".to_owned(),
            store: "This store".to_owned(),
            icon: None,
            color_scheme: |_| ColorScheme::System,
            columns: Vec::new(),
        }
    }

    /// Sets how long a sign-in lasts. The default is 30 minutes without use and 12 hours in total.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the name of the console, which every page shows. The default is "Session console".
    #[must_use]
    pub fn with_title(mut self, title: impl Into<String>) -> Self {
        self.title = title.into();
        self
    }

    /// Sets the name of the store, which the pages use to say what the store does not support.
    #[must_use]
    pub fn with_store_name(mut self, store: impl Into<String>) -> Self {
        self.store = store.into();
        self
    }

    /// Sets the URL of an SVG icon.
    #[must_use]
    pub fn with_icon(mut self, icon: impl Into<String>) -> Self {
        self.icon = Some(icon.into());
        self
    }

    /// Sets how to read the operator's colour scheme from the session, if the application stores such a choice.
    #[must_use]
    pub fn with_color_scheme(mut self, color_scheme: fn(&S) -> ColorScheme) -> Self {
        self.color_scheme = color_scheme;
        self
    }

    /// Adds a column with a value from the state of each session. The value is not masked.
    #[must_use]
    pub fn with_column(mut self, name: &'static str, value: fn(&S) -> String) -> Self {
        self.columns.push(Column { name, value });
        self
    }

    /// Builds the router. Nest it at any path, inside the session layer.
    pub fn router(self) -> Router {
        routes::router(Arc::new(self))
    }
}

/// Creates a sign-in link for the console at the URL `console`.
///
/// The browser that opens the link is exempt from the limits on attempts by other clients. The link works once, within
/// ten minutes. The password is still required.
///
/// # Errors
/// Returns an error if the store fails, or if the operating system provides no random numbers.
pub async fn sign_in_link<S: SessionState>(
    sessions: &SessionManager<S>,
    console: &str,
) -> Result<String, SessionError> {
    let token = sessions.make_login_token(REALM, LOGIN_TOKEN_AGE).await?;
    Ok(format!("{console}?{LOGIN_TOKEN}={token}"))
}
