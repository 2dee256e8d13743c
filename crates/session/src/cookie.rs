//! Every decision about the session cookie: what a request's cookies name, and what an answer sets.

use http::{HeaderMap, HeaderValue, header::COOKIE};

use super::{
    config::{Config, CookieSecure},
    id::SessionId,
};

/// Of so many well-formed cookies of the name each is looked up; a flood of them costs no more.
const MOST_CANDIDATES: usize = 4;

/// What becomes of the visitor's cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cookie {
    /// Left alone.
    Keep,
    /// Set to this id, for so many seconds; `None`: until the browser closes.
    Set(SessionId, Option<u64>),
    /// Removed: it names no session.
    Remove,
}

/// The cookies of the name that a request brought.
#[derive(Debug, Default)]
pub struct Sent {
    /// There was one, well-formed or not.
    pub any: bool,
    /// The well-formed ones, in their order.
    pub ids: Vec<SessionId>,
}

/// Reads a request's cookies as bytes, for a browser may send anything.
pub fn sent(headers: &HeaderMap, name: &str) -> Sent {
    let mut sent = Sent::default();
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

/// The `Set-Cookie` of an answer to a visitor who has, or has not, come by https; or `None` where the cookie is left alone. A removal carries the
/// same Domain, Path and Secure as the cookie, or browsers would not obey it.
pub fn set_cookie(cookie: &Cookie, config: &Config, is_https: bool) -> Option<HeaderValue> {
    let (value, age) = match cookie {
        Cookie::Keep => return None,
        Cookie::Set(id, age) => (id.cookie_value(), *age),
        Cookie::Remove => (String::new(), Some(0)),
    };
    let mut text = format!("{}={value}", config.cookie_name);
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
    if !config.cookie_domain.is_empty() {
        text.push_str(&format!("; Domain={}", config.cookie_domain));
    }
    text.push_str(&format!("; Path={}", config.cookie_path));
    if let Some(age) = age {
        text.push_str(&format!("; Max-Age={age}"));
    }
    HeaderValue::from_str(&text).ok()
}
