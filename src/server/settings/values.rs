//! What a key may hold. A value comes from a file, in its own type, or from the environment, as text.
//!
//! The error of each function is the sentence of what is allowed.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    str::FromStr,
};

use axum::http::HeaderName;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error};
use tally_console::PasswordHash;
use tally_session::{
    CookieSecure, SameSite, Transport,
    store::{StoreOptions, StoreUrl},
};
use toml::Value;
use tracing_subscriber::EnvFilter;

use super::{LogFormat, address};

/// Ages end up as a point in time; ten thousand years keep every sum in range.
const LARGEST: u64 = 315_360_000_000;

/// A whole number, or its text, from `LEAST` on.
pub fn number<'de, D: Deserializer<'de>, const LEAST: u64>(from: D) -> Result<u64, D::Error> {
    within(from, LEAST, LARGEST)
}

/// A number of things, far fewer than seconds there are.
pub fn small<'de, D: Deserializer<'de>, const LEAST: u64>(from: D) -> Result<u32, D::Error> {
    let number = within(from, LEAST, u32::MAX.into())?;
    u32::try_from(number).map_err(D::Error::custom)
}

/// A number of bytes or of things in memory.
pub fn size<'de, D: Deserializer<'de>, const LEAST: u64>(from: D) -> Result<usize, D::Error> {
    Ok(usize::try_from(number::<D, LEAST>(from)?).unwrap_or(usize::MAX))
}

/// A number of seconds, or `None` where 0 says that there is no limit.
pub fn limit<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let seconds = number::<D, 0>(from)?;
    Ok((seconds > 0).then_some(seconds))
}

fn within<'de, D: Deserializer<'de>>(from: D, least: u64, largest: u64) -> Result<u64, D::Error> {
    let number = match Value::deserialize(from)? {
        Value::Integer(number) => u64::try_from(number).ok(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let number = number.filter(|number| (least..=largest).contains(number));
    number.ok_or_else(|| D::Error::custom(format!("a whole number from {least} to {largest}")))
}

/// True or false, or one of the words for it that people write into variables.
pub fn boolean<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    truth(&Value::deserialize(from)?).ok_or_else(|| D::Error::custom("true or false"))
}

fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Boolean(truth) => Some(*truth),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Some(true),
            "false" | "0" | "no" | "off" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// Whether the cookie is Secure; `None`: as the site's address says.
pub fn secure<'de, D: Deserializer<'de>>(from: D) -> Result<Option<CookieSecure>, D::Error> {
    let value = Value::deserialize(from)?;
    if value
        .as_str()
        .is_some_and(|text| text.eq_ignore_ascii_case("auto"))
    {
        return Ok(None);
    }
    match truth(&value) {
        Some(true) => Ok(Some(CookieSecure::Always)),
        Some(false) => Ok(Some(CookieSecure::Never)),
        None => Err(D::Error::custom("auto, true or false")),
    }
}

/// Texts, or one with commas between them.
pub fn list<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let list = match Value::deserialize(from)? {
        Value::Array(values) => {
            let texts = values.iter().map(|value| value.as_str().map(str::to_owned));
            texts.collect()
        }
        Value::String(text) => {
            let parts = text.split(',').map(|part| part.trim().to_owned());
            Some(parts.filter(|part| !part.is_empty()).collect())
        }
        _ => None,
    };
    list.ok_or_else(|| D::Error::custom("a list of texts"))
}

pub fn networks<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
    let allowed = "addresses and networks, as 192.0.2.7 or 10.0.0.0/8";
    let list = list(from)?;
    let networks = list.iter().map(|text| address::network(text));
    let networks: Option<_> = networks.collect();
    networks.ok_or_else(|| D::Error::custom(allowed))
}

pub fn origins<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let list = list(from)?;
    if list.iter().all(|origin| is_origin(origin)) {
        Ok(list)
    } else {
        Err(D::Error::custom(
            "scheme://host[:port], as https://shop.example",
        ))
    }
}

/// A text that `check` makes something of.
fn checked<'de, D: Deserializer<'de>, T>(
    from: D,
    allowed: &str,
    check: impl FnOnce(&str) -> Option<T>,
) -> Result<T, D::Error> {
    let value = Value::deserialize(from)?;
    let found = value.as_str().and_then(check);
    found.ok_or_else(|| D::Error::custom(allowed))
}

/// One of these words, in any case.
fn one_of<'de, D: Deserializer<'de>, T: Copy>(from: D, words: &[(&str, T)]) -> Result<T, D::Error> {
    let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    checked(from, &names.join(", "), |text| {
        let mut words = words.iter();
        let found = words.find(|(word, _)| word.eq_ignore_ascii_case(text));
        found.map(|(_, value)| *value)
    })
}

pub fn same_site<'de, D: Deserializer<'de>>(from: D) -> Result<SameSite, D::Error> {
    let words = [
        ("Strict", SameSite::Strict),
        ("Lax", SameSite::Lax),
        ("None", SameSite::None),
    ];
    one_of(from, &words)
}

pub fn log_format<'de, D: Deserializer<'de>>(from: D) -> Result<LogFormat, D::Error> {
    one_of(
        from,
        &[("pretty", LogFormat::Pretty), ("json", LogFormat::Json)],
    )
}

/// What tracing's filter takes: a level, or directives with levels for targets.
pub fn log<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let allowed = "error, warn, info, debug, trace, or tracing's directives, as warn,tally=debug";
    checked(from, allowed, |text| {
        // A word that is no level would be the name of a target, whose every line is logged.
        let is_level = |part: &str| tracing::Level::from_str(part.trim()).is_ok();
        let mut parts = text.split(',');
        let is_meant = parts.all(|part| part.contains('=') || is_level(part));
        (is_meant && EnvFilter::builder().parse(text).is_ok()).then(|| text.to_owned())
    })
}

/// An address, or a name that the system knows one for.
pub fn socket_address<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    let allowed = "an address and a port, as 127.0.0.1:3000, localhost:3000 or [::]:80";
    checked(from, allowed, resolved)
}

/// The same, or nowhere.
pub fn optional_address<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<SocketAddr>, D::Error> {
    checked(from, "an address and a port, or off", |text| {
        if text.is_empty() || text.eq_ignore_ascii_case("off") {
            return Some(None);
        }
        resolved(text).map(Some)
    })
}

fn resolved(text: &str) -> Option<SocketAddr> {
    text.to_socket_addrs().ok()?.next()
}

/// The address that visitors use, without a slash at its end; empty: nobody has said it.
pub fn site<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    checked(from, "http://host or https://host, or empty", |text| {
        let origin = text.trim_end_matches('/');
        (origin.is_empty() || is_origin(origin)).then(|| origin.to_owned())
    })
}

fn is_origin(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == text
    })
}

pub fn store<'de, D: Deserializer<'de>>(from: D) -> Result<StoreUrl, D::Error> {
    let value = Value::deserialize(from)?;
    let url = value.as_str().ok_or(StoreUrl::ALLOWED);
    url.and_then(StoreUrl::parse).map_err(D::Error::custom)
}

/// What Memcached takes before the 22 bytes of a record's name, and Redis takes in any case.
pub fn key_prefix<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let allowed = "at most 100 letters, digits and signs, without blanks, or empty";
    checked(from, allowed, |text| {
        let is_prefix = text.len() <= 100 && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_prefix.then(|| text.to_owned())
    })
}

/// A table of PostgreSQL or MySQL. Tables with a suffix stand beside it.
pub fn table<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    checked(from, StoreOptions::ALLOWED_TABLE, |text| {
        StoreOptions::is_table(text).then(|| text.to_owned())
    })
}

/// A token of RFC 9110.
pub fn cookie_name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let allowed = "a cookie name: letters, digits and !#$%&'*+-.^_`|~";
    checked(from, allowed, |text| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        (!text.is_empty() && text.bytes().all(known)).then(|| text.to_owned())
    })
}

pub fn cookie_domain<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    checked(from, "a host name, or empty", |text| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte);
        text.bytes().all(known).then(|| text.to_owned())
    })
}

pub fn cookie_path<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    checked(from, "a path that begins with /", |text| {
        let known = |byte: u8| byte.is_ascii_graphic() && !b";,\\\"".contains(&byte);
        (text.starts_with('/') && text.bytes().all(known)).then(|| text.to_owned())
    })
}

/// No header: cookies alone.
pub fn transport<'de, D: Deserializer<'de>>(from: D) -> Result<Transport, D::Error> {
    let allowed = "a header's name, as x-auth-token, or empty";
    checked(from, allowed, |text| match text {
        "" => Some(Transport::Cookie),
        name => HeaderName::from_str(name)
            .ok()
            .map(Transport::CookieOrHeader),
    })
}

/// No hash: no console.
pub fn password_hash<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PasswordHash>, D::Error> {
    checked(from, "what tally hash-password prints, or empty", |text| {
        if text.is_empty() {
            return Some(None);
        }
        PasswordHash::parse(text).map(Some)
    })
}
