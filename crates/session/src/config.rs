//! The config of an application's sessions.

use std::fmt;

use derive_setters::Setters;
use http::HeaderName;
use thiserror::Error;

use super::limit::Rate;

/// How an application's sessions behave. The defaults are Django's, where Django has the same setting.
///
/// Each field has a setter with the prefix `with_`:
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
    /// How long a session lives after its last write, in seconds, and the cookie's `Max-Age`. Default: two weeks.
    pub cookie_age: u64,
    /// Whether the cookie has no `Max-Age`, so that it expires when the browser closes. The record still lives for
    /// `cookie_age`. Default: off.
    pub expire_at_browser_close: bool,
    /// The cookie's name. Default: `sessionid`.
    pub cookie_name: String,
    /// The cookie's `Domain`. Default: empty, so browsers send the cookie only to this host.
    pub cookie_domain: String,
    /// The cookie's `Path`. Default: `/`.
    pub cookie_path: String,
    /// Whether the cookie is `Secure`. Default: if the client is known to use https.
    pub cookie_secure: CookieSecure,
    /// Whether the cookie is `HttpOnly`, which hides it from scripts. Default: on.
    pub cookie_http_only: bool,
    /// With which cross-site requests browsers send the cookie. Default: `Lax`.
    pub cookie_same_site: SameSite,
    /// Whether the cookie is `Partitioned` (CHIPS): a separate cookie for each site that embeds this one. Browsers
    /// accept it only if it is `Secure`. Default: off.
    pub cookie_partitioned: bool,
    /// Hosts whose cookie has a different name or `Domain`. Default: none.
    pub cookie_hosts: Vec<CookieHost>,
    /// How the id travels between client and server. Default: in a cookie.
    pub transport: Transport,
    /// Whether each response below 500 extends the lifetime of the client's session. Default: off.
    pub save_every_request: bool,
    /// The shortest time between two extensions by `save_every_request`, in seconds. Default: 0, with each request.
    pub renew_interval: u64,
    /// How long a session lives after its last write, in seconds, if that is shorter than `cookie_age`. Default: no
    /// limit.
    pub idle_age: Option<u64>,
    /// How long a session lives after its creation, in seconds, however often it is written. Default: no limit.
    pub absolute_age: Option<u64>,
    /// How long a session lives until the client has sent its cookie back, in seconds. It keeps bots without cookies
    /// from filling the store. Default: ten minutes.
    pub unconfirmed_age: u64,
    /// Whether a change that leaves a session empty ends it. A session is empty if its state is the default and it has
    /// no messages, no sign-in and no expiry of its own. Default: off, so it keeps its id.
    pub delete_empty: bool,
    /// The most sessions in which a user can be signed in to a realm. A further sign-in ends the oldest one, in stores
    /// that can list a user's sessions. Default: no limit.
    pub max_user_sessions: Option<u32>,
    /// Whether a sign-in stores the `User-Agent` header, so that users recognise their devices. Default: on.
    pub keep_user_agents: bool,
    /// Whether a sign-in stores the address of its last use, so that users recognise their devices. Default: on.
    pub keep_addresses: bool,
    /// The most subscribers on one server. Default: 10,000.
    pub max_subscribers: usize,
    /// How fast one address may create sessions. Default: no limit.
    pub new_sessions: Option<Rate>,
    /// A header for the session's revision, in each response that depends on the session. Of two responses, the one
    /// with the higher revision is newer. Default: none.
    pub revision_header: Option<HeaderName>,
    /// Whether to record statistics for the operator's console. Default: off.
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
            cookie_secure: CookieSecure::IfHttps,
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

/// The reason why a [`Config`] is invalid, in one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The cookie's name contains a character that cookie names must not have.
    #[error("a cookie's name may contain only letters, digits and !#$%&'*+-.^_`|~")]
    CookieName,
    /// Browsers reject a cookie with this name's prefix unless it is `Secure`.
    #[error("a __Host- or __Secure- name requires a cookie that is always Secure")]
    PrefixNeedsSecure,
    /// Browsers reject a cookie with this name's prefix if it has a `Domain`, or another `Path` than `/`.
    #[error("a __Host- name requires the Path / and no Domain")]
    PrefixNeedsHost,
    /// Browsers reject this cookie unless it is `Secure`.
    #[error("SameSite=None and Partitioned require a cookie that is always Secure")]
    CrossSiteNeedsSecure,
    /// The cookie's `Domain` or `Path` contains a character that would break the header.
    #[error(
        "a cookie's Domain and Path must not contain spaces, commas, semicolons, quotes or backslashes"
    )]
    CookieAttribute,
    /// An age of 0 would end each session at once.
    #[error("ages must be at least one second")]
    Age,
    /// Two of the state's counters have the same name, or one has the name of a built-in statistic.
    #[error("the counter name {0:?} is already taken")]
    CounterName(&'static str),
}

impl Config {
    /// Checks that browsers will accept the cookie, and that no age is 0.
    /// [`SessionManager::new`](crate::SessionManager::new) calls it.
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

/// Whether a text is a token of RFC 9110, as a cookie's name must be.
fn is_token(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(allowed)
}

fn is_attribute(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_graphic() && !b";,\\\"".contains(&byte);
    text.bytes().all(allowed)
}

/// When the cookie is `Secure`, so that browsers send it only over https.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CookieSecure {
    /// Always. The right choice for any site that is served over https.
    Always,
    /// Never.
    Never,
    /// If the client uses https, according to [`ClientInfo`](crate::ClientInfo) or the request's URI.
    IfHttps,
}

/// With which cross-site requests browsers send the cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// With none.
    Strict,
    /// When the user follows a link to this site.
    Lax,
    /// With all. Browsers accept it only if the cookie is `Secure`.
    None,
}

impl fmt::Display for SameSite {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

/// The cookie of a host that differs from the config's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieHost {
    /// The host in requests, without the port.
    pub host: String,
    /// The cookie's name on this host.
    pub name: String,
    /// The cookie's `Domain` on this host. Empty: none.
    pub domain: String,
}

/// How the session's id travels between client and server.
///
/// With a header, a response sends the id in that header instead of a cookie. The header is empty where a cookie would
/// be removed. Requests send the id in the same header or as `Authorization: Bearer`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// In a cookie, for browsers.
    #[default]
    Cookie,
    /// In this header, for apps and programs.
    Header(HeaderName),
    /// In either, as the client does. If a request has both, the header wins. A client without a session that wants
    /// its id in the header sends an empty header.
    CookieOrHeader(HeaderName),
}

impl Transport {
    /// The conventional header, `x-auth-token`.
    pub const HEADER: HeaderName = HeaderName::from_static("x-auth-token");

    /// The header that carries the id, if there is one.
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
    fn a_cookie_that_browsers_would_reject_is_refused() {
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
