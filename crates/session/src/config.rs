//! How sessions behave: what an application decides for all of its sessions.

use std::fmt;

use super::flood::Rate;

/// How sessions behave. The defaults are those of Django, as far as it has them.
///
/// ```
/// use tally_session::Config;
///
/// let config = Config { cookie_name: "id".to_owned(), cookie_age: 3_600, ..Config::default() };
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    /// How long a session lives after its last write, in seconds; the cookie's Max-Age. Two weeks.
    pub cookie_age: u64,
    /// No Max-Age: the cookie goes when the browser closes. The record still lives `cookie_age`.
    pub expire_at_browser_close: bool,
    /// The cookie's name: `sessionid`.
    pub cookie_name: String,
    /// The cookie's Domain; empty: none, so that the browser sends it to this host alone.
    pub cookie_domain: String,
    /// The cookie's Path: `/`.
    pub cookie_path: String,
    /// Whether the cookie is Secure. By default where the visitor is known to have come by https.
    pub cookie_secure: CookieSecure,
    /// Whether scripts can't read the cookie. They can't.
    pub cookie_http_only: bool,
    /// With which requests of other sites browsers send the cookie: `Lax`.
    pub cookie_same_site: SameSite,
    /// Every response below 500 to a visitor who has a session renews it. Off.
    pub save_every_request: bool,
    /// How long a session lives that nobody writes, in seconds, if shorter than `cookie_age`.
    pub idle_age: Option<u64>,
    /// How long a session lives at the most, in seconds, however often it is written.
    pub absolute_age: Option<u64>,
    /// How long a session lives whose cookie has never come back, in seconds: ten minutes. Robots that keep no
    /// cookie can't fill the store.
    pub unconfirmed_age: u64,
    /// The most open pages on one server that are told of changes: 10,000.
    pub live_pages: usize,
    /// How fast one address may make new sessions; `None`: no limit.
    pub new_sessions: Option<Rate>,
    /// What happens is written down for an operator's console. Off.
    pub registers: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cookie_age: 1_209_600,
            expire_at_browser_close: false,
            cookie_name: "sessionid".to_owned(),
            cookie_domain: String::new(),
            cookie_path: "/".to_owned(),
            cookie_secure: CookieSecure::WhereHttps,
            cookie_http_only: true,
            cookie_same_site: SameSite::Lax,
            save_every_request: false,
            idle_age: None,
            absolute_age: None,
            unconfirmed_age: 600,
            live_pages: 10_000,
            new_sessions: None,
            registers: false,
        }
    }
}

/// Whether browsers may send the cookie by https alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CookieSecure {
    Always,
    Never,
    /// On this machine, where a trusted proxy says so.
    WhereHttps,
}

/// With which requests of other sites the browser sends the cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    Strict,
    Lax,
    None,
}

impl fmt::Display for SameSite {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}
