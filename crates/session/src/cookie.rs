//! Every decision about what carries the id: what a request brings, and what a response sets.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AUTHORIZATION, COOKIE, SET_COOKIE},
};

use super::{
    config::{Config, CookieSecure},
    id::SessionId,
};

/// The most well-formed cookies of the name that are looked up. A flood of them costs no more.
const MOST_CANDIDATES: usize = 4;

/// What becomes of the client's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cookie {
    /// Left alone.
    Keep,
    /// Set to this id, for up to this number of seconds; `None`: until the browser closes.
    Set(SessionId, Option<u64>),
    /// Removed: it names no session.
    Remove,
}

/// What carries the id of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Carrier {
    /// The cookie of the config.
    #[default]
    Cookie,
    /// The cookie of one of the config's hosts, by its place there.
    CookieOfHost(usize),
    /// The header of the config.
    Header,
}

/// The ids that a request brought.
#[derive(Debug, Default)]
pub struct Sent {
    /// There was one, well-formed or not.
    pub any: bool,
    /// The well-formed ones, in their order.
    pub ids: Vec<SessionId>,
    /// What brought them.
    pub carrier: Carrier,
}

/// Reads a request's ids as bytes, because a client may send anything. `host` is the one that the client named.
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

/// Which cookie a host has.
fn carrier_of(host: Option<&str>, config: &Config) -> Carrier {
    let named = |host: &str| {
        let mut hosts = config.cookie_hosts.iter();
        hosts.position(|other| other.host.eq_ignore_ascii_case(host))
    };
    match host.and_then(named) {
        Some(place) => Carrier::CookieOfHost(place),
        None => Carrier::Cookie,
    }
}

/// The name and the Domain of the cookie.
fn cookie_of(carrier: Carrier, config: &Config) -> (&str, &str) {
    let host = match carrier {
        Carrier::CookieOfHost(place) => config.cookie_hosts.get(place),
        Carrier::Cookie | Carrier::Header => None,
    };
    host.map_or((&config.cookie_name, &config.cookie_domain), |host| {
        (&host.name, &host.domain)
    })
}

/// The named header counts even where it holds no id; a bearer's token may belong to something else.
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
                && sent.ids.len() < MOST_CANDIDATES
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

/// The header that tells the client what becomes of its id; `None`: it is left alone. A removal carries the same
/// Domain, Path and Secure as the cookie, or browsers would not obey it.
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
    // Shows up in no `Debug` of the response.
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
        CookieSecure::WhereHttps => is_https,
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

/// What a response that depends on the session varies by.
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
