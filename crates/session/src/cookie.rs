//! The session id in cookies and headers: reading it from a request, and setting it in a response.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AUTHORIZATION, COOKIE, SET_COOKIE},
};

use super::{
    config::{Config, CookieSecure},
    id::SessionId,
};

/// The most ids of one request that are looked up. It bounds the cost of a request with many cookies of the name.
const MAX_CANDIDATES: usize = 4;

/// How a response changes the client's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cookie {
    /// The client keeps its id.
    Keep,
    /// The client gets this id, for this number of seconds. `None`: until the browser closes.
    Set(SessionId, Option<u64>),
    /// The client loses its id, because it belongs to no session.
    Remove,
}

/// What carries the id in one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Carrier {
    /// The config's cookie.
    #[default]
    Cookie,
    /// The cookie of the host with this index in [`Config::cookie_hosts`].
    CookieOfHost(usize),
    /// The config's header.
    Header,
}

/// The ids in a request.
#[derive(Debug, Default)]
pub struct Sent {
    /// The request has an id, well-formed or not.
    pub any: bool,
    /// The well-formed ids, in the request's order.
    pub ids: Vec<SessionId>,
    pub carrier: Carrier,
}

/// Reads the ids from a request's headers. The values are read as bytes, because a client may send anything.
/// `host`: the requested host.
pub fn sent(headers: &HeaderMap, host: Option<&str>, config: &Config) -> Sent {
    if let Some(name) = config.transport.header() {
        let by_header = sent_by_header(headers, name);
        if by_header.any || !config.transport.uses_cookies() {
            return by_header;
        }
    }
    let carrier = carrier_of(host, config);
    sent_by_cookie(headers, cookie_of(carrier, config).0, carrier)
}

/// The cookie for a requested host.
fn carrier_of(host: Option<&str>, config: &Config) -> Carrier {
    let named = |host: &str| {
        let mut hosts = config.cookie_hosts.iter();
        hosts.position(|other| other.host.eq_ignore_ascii_case(host))
    };
    match host.and_then(named) {
        Some(index) => Carrier::CookieOfHost(index),
        None => Carrier::Cookie,
    }
}

/// The cookie's name and `Domain`.
fn cookie_of(carrier: Carrier, config: &Config) -> (&str, &str) {
    let host = match carrier {
        Carrier::CookieOfHost(index) => config.cookie_hosts.get(index),
        Carrier::Cookie | Carrier::Header => None,
    };
    host.map_or((&config.cookie_name, &config.cookie_domain), |host| {
        (&host.name, &host.domain)
    })
}

/// Reads the id from the named header, or from `Authorization: Bearer`.
///
/// The named header counts as sent even if its value is no id. A bearer token counts only if it is an id, because it
/// may belong to another application.
fn sent_by_header(headers: &HeaderMap, name: &HeaderName) -> Sent {
    let named = headers.get(name).map(HeaderValue::as_bytes);
    let bearer = || {
        let value = headers.get(AUTHORIZATION)?.as_bytes();
        let (scheme, token) = value.split_at_checked("bearer ".len())?;
        let is_bearer = scheme.eq_ignore_ascii_case(b"bearer ");
        SessionId::parse(token.trim_ascii()).filter(|_| is_bearer)
    };
    let id = match named {
        Some(value) => SessionId::parse(value.trim_ascii()),
        None => bearer(),
    };
    Sent {
        any: named.is_some() || id.is_some(),
        ids: id.into_iter().collect(),
        carrier: Carrier::Header,
    }
}

fn sent_by_cookie(headers: &HeaderMap, name: &str, carrier: Carrier) -> Sent {
    let mut sent = Sent {
        carrier,
        ..Sent::default()
    };
    for header in headers.get_all(COOKIE) {
        for pair in header.as_bytes().split(|byte| *byte == b';') {
            let pair = pair.trim_ascii();
            let Some(value) = pair
                .strip_prefix(name.as_bytes())
                .and_then(|rest| rest.strip_prefix(b"="))
            else {
                continue;
            };
            sent.any = true;
            if let Some(id) = SessionId::parse(unquoted(value))
                && sent.ids.len() < MAX_CANDIDATES
                && !sent.ids.contains(&id)
            {
                sent.ids.push(id);
            }
        }
    }
    sent
}

fn unquoted(value: &[u8]) -> &[u8] {
    value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""))
        .unwrap_or(value)
}

/// The response header that sets or removes the client's id. `None`: the client keeps it.
///
/// A removal has the same `Domain`, `Path` and `Secure` as the cookie. Otherwise browsers would ignore it.
pub fn header(
    cookie: &Cookie,
    carrier: Carrier,
    config: &Config,
    is_https: bool,
) -> Option<(HeaderName, HeaderValue)> {
    let (id, age) = match cookie {
        Cookie::Keep => return None,
        Cookie::Set(id, age) => (id.cookie_value(), *age),
        Cookie::Remove => (String::new(), Some(0)),
    };
    let (name, text) = match (carrier, config.transport.header()) {
        (Carrier::Header, Some(name)) => (name.clone(), id),
        _ => (SET_COOKIE, set_cookie(&id, age, carrier, config, is_https)),
    };
    let mut value = HeaderValue::from_str(&text).ok()?;
    // Hides the id from the `Debug` output of the response.
    value.set_sensitive(true);
    Some((name, value))
}

fn set_cookie(
    id: &str,
    age: Option<u64>,
    carrier: Carrier,
    config: &Config,
    is_https: bool,
) -> String {
    let (name, domain) = cookie_of(carrier, config);
    let mut text = format!("{name}={id}");
    if config.cookie_http_only {
        text.push_str("; HttpOnly");
    }
    text.push_str(&format!("; SameSite={}", config.cookie_same_site));
    let secure = match config.cookie_secure {
        CookieSecure::Always => true,
        CookieSecure::Never => false,
        CookieSecure::IfHttps => is_https,
    };
    if secure {
        text.push_str("; Secure");
    }
    if config.cookie_partitioned {
        text.push_str("; Partitioned");
    }
    if !domain.is_empty() {
        text.push_str(&format!("; Domain={domain}"));
    }
    text.push_str(&format!("; Path={}", config.cookie_path));
    if let Some(age) = age {
        text.push_str(&format!("; Max-Age={age}"));
    }
    text
}

/// The `Vary` header of a response that depends on the session.
pub fn vary(config: &Config) -> HeaderValue {
    let Some(name) = config.transport.header() else {
        return HeaderValue::from_static("Cookie");
    };
    let cookie = if config.transport.uses_cookies() {
        "Cookie, "
    } else {
        ""
    };
    let text = format!("{cookie}Authorization, {name}");
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("*"))
}
