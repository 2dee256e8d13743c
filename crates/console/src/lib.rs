//! The operator's console of an application with [`tally_session`]: charts of what happens, and the sessions, to
//! look into and to revoke.
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
//! Make the sessions with [`Config::record_stats`](tally_session::Config::record_stats), so that the charts have
//! something to show and Redis keeps an index of the sessions.
//!
//! The server renders the pages, and they work without script. A client that is not signed in sees the sign-in page at
//! every address. Each action of an operator is a line of the log, with the target [`AUDIT_TARGET`].
//!
//! The console reads the operator's address from [`ClientInfo`](tally_session::ClientInfo), and the name of a request
//! from the header `x-request-id`, which a layer outside of it may set.

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
pub use password::{HashError, PasswordHash, SHORTEST as SHORTEST_PASSWORD, ask_and_hash};

use login_throttle::LoginThrottle;
use password::Verifier;

/// The realm that operators are signed in to. Users of the application sign in to a realm of their own.
pub const REALM: &str = "console";

/// Whom operators are signed in as: they have one password.
const OPERATOR: &str = "operator";

/// What carries the token of a sign-in link.
const TOKEN: &str = "pass";

/// How long a sign-in link may be used, in seconds.
const TOKEN_AGE: u32 = 600;

/// How long a sign-in holds where [`Console::with_limits`] says nothing else: half an hour without use, half a day.
const LIMITS: Limits = Limits {
    idle: Some(1_800),
    absolute: Some(43_200),
};

/// The colours of the console's pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ColorScheme {
    /// As the operator's system has them.
    #[default]
    System,
    Light,
    Dark,
}

/// A column of the list of sessions, and a line of a session's page.
struct Column<S> {
    name: &'static str,
    value: fn(&S) -> String,
}

/// The console of an application.
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

/// Shows nothing of the password's hash.
impl<S: SessionState> fmt::Debug for Console<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut console = formatter.debug_struct("Console");
        console.field("title", &self.title).finish_non_exhaustive()
    }
}

impl<S: SessionState> Console<S> {
    /// Makes a console of these sessions. `password` is the hash of the operator's password.
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

    /// How long a sign-in holds; half an hour without use, and half a day, where this is not called.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The name of the console, on each page.
    #[must_use]
    pub fn with_title(mut self, title: impl Into<String>) -> Self {
        self.title = title.into();
        self
    }

    /// The name of the store, for the sentences that tell what it can't offer.
    #[must_use]
    pub fn with_store_name(mut self, store: impl Into<String>) -> Self {
        self.store = store.into();
        self
    }

    /// The address of an icon, an SVG.
    #[must_use]
    pub fn with_icon(mut self, icon: impl Into<String>) -> Self {
        self.icon = Some(icon.into());
        self
    }

    /// The colours that the operator has chosen in the application, where it keeps such a choice.
    #[must_use]
    pub fn with_color_scheme(mut self, color_scheme: fn(&S) -> ColorScheme) -> Self {
        self.color_scheme = color_scheme;
        self
    }

    /// Shows a value of each session's state, without masking it.
    #[must_use]
    pub fn with_column(mut self, name: &'static str, value: fn(&S) -> String) -> Self {
        self.columns.push(Column { name, value });
        self
    }

    /// The console's pages. Nest them at any path, inside the session layer.
    pub fn router(self) -> Router {
        routes::router(Arc::new(self))
    }
}

/// Makes the address of a sign-in page, of the console at this URL. Anyone who opens it, once and within ten minutes,
/// is not held up by the passwords that others try. The password itself is still asked for.
///
/// # Errors
/// When the store can't be asked, or the operating system gives no random numbers.
pub async fn sign_in_link<S: SessionState>(
    sessions: &SessionManager<S>,
    console: &str,
) -> Result<String, SessionError> {
    let token = sessions.make_login_token(REALM, TOKEN_AGE).await?;
    Ok(format!("{console}?{TOKEN}={token}"))
}
