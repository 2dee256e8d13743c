//! How sessions behave: what an application decides for all of its sessions.

use std::fmt;

use derive_setters::Setters;
use http::HeaderName;
use thiserror::Error;

use super::limit::Rate;

/// How sessions behave. The defaults are those of Django, as far as it has them.
///
/// Each field has a setter of its name with `with_` before it:
///
/// ```
/// use tally_session::{Config, CookieSecure};
///
/// let config = Config::default()
///     .with_cookie_name("id")
///     .with_cookie_secure(CookieSecure::Always)
///     .with_cookie_age(3_600_u64);
/// assert!(config.check().is_ok());
/// ```
#[derive(Clone, Debug, Setters)]
#[setters(prefix = "with_", into)]
pub struct Config {
    /// How long a session lives after its last write, in seconds, and the cookie's Max-Age. Two weeks.
    pub cookie_age: u64,
    /// Whether the cookie goes when the browser closes: it then has no Max-Age. The record still lives
    /// `cookie_age`. Off.
    pub expire_at_browser_close: bool,
    /// The cookie's name: `sessionid`.
    pub cookie_name: String,
    /// The cookie's Domain. Empty by default: the browser sends the cookie to this host alone.
    pub cookie_domain: String,
    /// The cookie's Path: `/`.
    pub cookie_path: String,
    /// Whether the cookie is Secure. By default where the client is known to have come by https.
    pub cookie_secure: CookieSecure,
    /// Whether the cookie is hidden from scripts. On.
    pub cookie_http_only: bool,
    /// With which requests of other sites browsers send the cookie: `Lax`.
    pub cookie_same_site: SameSite,
    /// Whether the cookie is kept apart for each site that embeds this one (`Partitioned`, CHIPS). Browsers take
    /// it only from Secure cookies. Off.
    pub cookie_partitioned: bool,
    /// Hosts whose cookie has another name or Domain than the ones above. None.
    pub cookie_hosts: Vec<CookieHost>,
    /// What carries the id between client and server: a cookie.
    pub transport: Transport,
    /// Whether every response below 500 to a client that has a session renews it. Off.
    pub save_every_request: bool,
    /// How often `save_every_request` renews a session at the most, in seconds. 0 by default: with each request.
    pub renew_interval: u64,
    /// How long a session lives that nothing writes, in seconds, if shorter than `cookie_age`. Off.
    pub idle_age: Option<u64>,
    /// How long a session lives at the most, in seconds, however often it is written. Off.
    pub absolute_age: Option<u64>,
    /// How long a session lives whose cookie has never come back, in seconds: ten minutes. Robots that keep no
    /// cookie can't fill the store.
    pub unconfirmed_age: u64,
    /// Whether a session ends when a change leaves nothing in it: its state is the default one, and it has no
    /// messages, no sign-in and no expiry of its own. Off: it keeps its id.
    pub delete_empty: bool,
    /// The most sessions in which one user is signed in to one realm. The oldest sign-in ends where there would be
    /// more, in stores that can list them. No limit.
    pub max_user_sessions: Option<u32>,
    /// Whether a sign-in keeps what the browser calls itself, so that users recognise their devices. On.
    pub keep_user_agents: bool,
    /// Whether a sign-in keeps the address that it was last used from, for the same. On.
    pub keep_addresses: bool,
    /// The most subscribers on one server: 10,000.
    pub max_subscribers: usize,
    /// How fast one address may make new sessions. No limit.
    pub new_sessions: Option<Rate>,
    /// A header of each response that has read the session, with the number of the session's last write: of two
    /// responses, a page knows the newer one by it. None.
    pub revision_header: Option<HeaderName>,
    /// Whether statistics are recorded for an operator's console. Off.
    pub record_stats: bool,
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
            cookie_partitioned: false,
            cookie_hosts: Vec::new(),
            transport: Transport::Cookie,
            save_every_request: false,
            renew_interval: 0,
            idle_age: None,
            absolute_age: None,
            unconfirmed_age: 600,
            delete_empty: false,
            max_user_sessions: None,
            keep_user_agents: true,
            keep_addresses: true,
            max_subscribers: 10_000,
            new_sessions: None,
            revision_header: None,
            record_stats: false,
        }
    }
}

/// What is wrong with a [`Config`], in one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The cookie's name holds characters that no cookie's name may have.
    #[error("a cookie's name has letters, digits and !#$%&'*+-.^_`|~ alone")]
    CookieName,
    /// Browsers drop a cookie of this name without Secure.
    #[error("a __Host- or __Secure- name only with a cookie that is always Secure")]
    PrefixNeedsSecure,
    /// Browsers drop a cookie of this name with a Domain, or another Path than `/`.
    #[error("a __Host- name only without a Domain and with the Path /")]
    PrefixNeedsHost,
    /// Browsers drop such a cookie without Secure.
    #[error("SameSite=None and Partitioned only with a cookie that is always Secure")]
    CrossSiteNeedsSecure,
    /// The cookie's Domain or Path holds characters that end an attribute.
    #[error("a cookie's Domain and Path have no blanks, commas, semicolons or quotes")]
    CookieAttribute,
    /// Such a session would have ended when it begins.
    #[error("ages are at least one second")]
    Age,
    /// Two of the state's counters have one name, or one has the name of a built-in statistic.
    #[error("the counter {0:?} has a name that is taken")]
    CounterName(&'static str),
}

impl Config {
    /// Whether browsers will obey. [`SessionManager::new`](crate::SessionManager::new) asks for it.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), ConfigError> {
        let is_secure = self.cookie_secure == CookieSecure::Always;
        let hosts = self.cookie_hosts.iter();
        let names = hosts.map(|host| (host.name.as_str(), host.domain.as_str()));
        for (name, domain) in
            names.chain([(self.cookie_name.as_str(), self.cookie_domain.as_str())])
        {
            let is_host = name.starts_with("__Host-");
            if !is_token(name) {
                return Err(ConfigError::CookieName);
            }
            if !is_secure && (is_host || name.starts_with("__Secure-")) {
                return Err(ConfigError::PrefixNeedsSecure);
            }
            if is_host && (!domain.is_empty() || self.cookie_path != "/") {
                return Err(ConfigError::PrefixNeedsHost);
            }
            if !is_attribute(domain) || !is_attribute(&self.cookie_path) {
                return Err(ConfigError::CookieAttribute);
            }
        }
        let is_cross_site = self.cookie_same_site == SameSite::None || self.cookie_partitioned;
        if is_cross_site && !is_secure {
            return Err(ConfigError::CrossSiteNeedsSecure);
        }
        let ages = [
            Some(self.cookie_age),
            Some(self.unconfirmed_age),
            self.idle_age,
            self.absolute_age,
        ];
        if ages.contains(&Some(0)) {
            return Err(ConfigError::Age);
        }
        Ok(())
    }
}

/// A token of RFC 9110, which a cookie's name must be.
fn is_token(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(allowed)
}

fn is_attribute(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_graphic() && !b";,\\\"".contains(&byte);
    text.bytes().all(allowed)
}

/// Whether browsers may send the cookie by https alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CookieSecure {
    /// Always Secure: for every site that people reach by https.
    Always,
    /// Never Secure.
    Never,
    /// Secure where the client has come by https, as the request's URI or a trusted proxy says.
    WhereHttps,
}

/// With which requests of other sites the browser sends the cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// With none.
    Strict,
    /// With links that lead here.
    Lax,
    /// With all. Browsers take it only from Secure cookies.
    None,
}

impl fmt::Display for SameSite {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

/// The cookie of one host, where it differs from that of the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieHost {
    /// The host as clients name it, without a port.
    pub host: String,
    /// The cookie's name there.
    pub name: String,
    /// The cookie's Domain there; empty: none.
    pub domain: String,
}

/// What carries the id between client and server.
///
/// With a header there is no cookie: the response to a request that made a session, or changed its id, has the new
/// id in the named header. The same header is there with an empty value where a cookie would be removed. Requests
/// bring the id in the named header or as `Authorization: Bearer`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// A cookie, for browsers.
    #[default]
    Cookie,
    /// This header, for apps and programs.
    Header(HeaderName),
    /// Whatever the client uses. A request with both follows the header. A client that has no session yet and
    /// wants it by header sends the header empty.
    CookieOrHeader(HeaderName),
}

impl Transport {
    /// The header that a server names if nothing speaks for another one.
    pub const HEADER: HeaderName = HeaderName::from_static("x-auth-token");

    /// The header that carries ids, where one does.
    pub(crate) fn header(&self) -> Option<&HeaderName> {
        match self {
            Self::Cookie => None,
            Self::Header(name) | Self::CookieOrHeader(name) => Some(name),
        }
    }

    pub(crate) fn uses_cookies(&self) -> bool {
        !matches!(self, Self::Header(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_browsers_would_not_obey_is_refused() {
        let config = Config::default;
        let always = || config().with_cookie_secure(CookieSecure::Always);
        let host = |name: &str, domain: &str| CookieHost {
            host: "a.example".to_owned(),
            name: name.to_owned(),
            domain: domain.to_owned(),
        };
        for (config, result) in [
            (config(), Ok(())),
            (
                config().with_cookie_name("a b"),
                Err(ConfigError::CookieName),
            ),
            (
                config().with_cookie_name("__Host-id"),
                Err(ConfigError::PrefixNeedsSecure),
            ),
            (
                config().with_cookie_name("__Secure-id"),
                Err(ConfigError::PrefixNeedsSecure),
            ),
            (always().with_cookie_name("__Host-id"), Ok(())),
            (
                always()
                    .with_cookie_name("__Host-id")
                    .with_cookie_path("/a"),
                Err(ConfigError::PrefixNeedsHost),
            ),
            (
                always().with_cookie_hosts(vec![host("__Host-id", "a.example")]),
                Err(ConfigError::PrefixNeedsHost),
            ),
            (
                config().with_cookie_domain("a;b"),
                Err(ConfigError::CookieAttribute),
            ),
            (
                config().with_cookie_same_site(SameSite::None),
                Err(ConfigError::CrossSiteNeedsSecure),
            ),
            (
                config().with_cookie_partitioned(true),
                Err(ConfigError::CrossSiteNeedsSecure),
            ),
            (always().with_cookie_partitioned(true), Ok(())),
            (config().with_idle_age(0), Err(ConfigError::Age)),
        ] {
            assert_eq!(config.check(), result, "{config:?}");
        }
    }
}
