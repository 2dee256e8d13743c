//! Deserializers for the values of settings.
//!
//! A value from a file has its TOML type. A value from an environment variable is a string. The error message of each
//! deserializer states the allowed values.

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

/// The maximum of a number: ten thousand years in seconds. Adding an age to a timestamp then can't overflow.
const MAX: u64 = 315_360_000_000;

/// A whole number of at least `MIN`.
pub fn number<'de, D: Deserializer<'de>, const MIN: u64>(from: D) -> Result<u64, D::Error> {
    within(from, MIN, MAX)
}

/// A whole number that fits into 32 bits, of at least `MIN`.
pub fn small<'de, D: Deserializer<'de>, const MIN: u64>(from: D) -> Result<u32, D::Error> {
    let number = within(from, MIN, u32::MAX.into())?;
    u32::try_from(number).map_err(D::Error::custom)
}

/// A number of bytes, or of items in memory, of at least `MIN`.
pub fn size<'de, D: Deserializer<'de>, const MIN: u64>(from: D) -> Result<usize, D::Error> {
    Ok(usize::try_from(number::<D, MIN>(from)?).unwrap_or(usize::MAX))
}

/// A number of seconds. 0 becomes `None`, which means no limit.
pub fn limit<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let seconds = number::<D, 0>(from)?;
    Ok((seconds > 0).then_some(seconds))
}

fn within<'de, D: Deserializer<'de>>(from: D, min: u64, max: u64) -> Result<u64, D::Error> {
    let number = match Value::deserialize(from)? {
        Value::Integer(number) => u64::try_from(number).ok(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let number = number.filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| D::Error::custom(format!("a whole number from {min} to {max}")))
}

/// A boolean, or one of the usual words for it in environment variables.
pub fn boolean<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    parse_boolean(&Value::deserialize(from)?).ok_or_else(|| D::Error::custom("true or false"))
}

fn parse_boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Boolean(boolean) => Some(*boolean),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Some(true),
            "false" | "0" | "no" | "off" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// Whether the cookie is Secure. `auto` becomes `None`, and the site's address decides.
pub fn secure<'de, D: Deserializer<'de>>(from: D) -> Result<Option<CookieSecure>, D::Error> {
    let value = Value::deserialize(from)?;
    if value
        .as_str()
        .is_some_and(|text| text.eq_ignore_ascii_case("auto"))
    {
        return Ok(None);
    }
    match parse_boolean(&value) {
        Some(true) => Ok(Some(CookieSecure::Always)),
        Some(false) => Ok(Some(CookieSecure::Never)),
        None => Err(D::Error::custom("auto, true or false")),
    }
}

/// A list of strings, or a string of comma-separated values.
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
    list.ok_or_else(|| D::Error::custom("a list of strings"))
}

pub fn networks<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
    let allowed = "addresses and networks, such as 192.0.2.7 or 10.0.0.0/8";
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
            "scheme://host[:port], such as https://shop.example",
        ))
    }
}

/// A string, parsed by `parse`. The error message is `allowed`.
fn parsed<'de, D: Deserializer<'de>, T>(
    from: D,
    allowed: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, D::Error> {
    let value = Value::deserialize(from)?;
    let found = value.as_str().and_then(parse);
    found.ok_or_else(|| D::Error::custom(allowed))
}

/// One of these words, case-insensitively.
fn one_of<'de, D: Deserializer<'de>, T: Copy>(from: D, words: &[(&str, T)]) -> Result<T, D::Error> {
    let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    parsed(from, &names.join(", "), |text| {
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

/// A log filter: a level, or `tracing` directives.
pub fn log<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let allowed = "error, warn, info, debug, trace, or tracing directives such as warn,tally=debug";
    parsed(from, allowed, |text| {
        // The filter takes a word that is not a level as a target, and would log everything of that target.
        let is_level = |part: &str| tracing::Level::from_str(part.trim()).is_ok();
        let mut parts = text.split(',');
        let is_valid = parts.all(|part| part.contains('=') || is_level(part));
        (is_valid && EnvFilter::builder().parse(text).is_ok()).then(|| text.to_owned())
    })
}

/// An address and a port. The host may be a name that the system can resolve.
pub fn socket_address<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    let allowed = "an address and a port, such as 127.0.0.1:3000, localhost:3000 or [::]:80";
    parsed(from, allowed, resolve)
}

/// An address and a port. `off` becomes `None`.
pub fn optional_address<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<SocketAddr>, D::Error> {
    parsed(from, "an address and a port, or off", |text| {
        if text.is_empty() || text.eq_ignore_ascii_case("off") {
            return Some(None);
        }
        resolve(text).map(Some)
    })
}

fn resolve(text: &str) -> Option<SocketAddr> {
    text.to_socket_addrs().ok()?.next()
}

/// The origin that visitors use. A trailing slash is removed. May be empty.
pub fn site<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    parsed(from, "http://host or https://host, or empty", |text| {
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

/// A prefix of keys. Memcached allows keys of up to 250 printable characters, and a record's own key has 22.
pub fn key_prefix<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let allowed = "up to 100 printable ASCII characters without spaces, or empty";
    parsed(from, allowed, |text| {
        let is_prefix = text.len() <= 100 && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_prefix.then(|| text.to_owned())
    })
}

/// The name of a table in PostgreSQL or MySQL. The names of further tables are this name with a suffix.
pub fn table<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    parsed(from, StoreOptions::ALLOWED_TABLE, |text| {
        StoreOptions::is_table(text).then(|| text.to_owned())
    })
}

/// The name of a cookie: a token as defined by RFC 9110.
pub fn cookie_name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let allowed = "a cookie name: letters, digits and !#$%&'*+-.^_`|~";
    parsed(from, allowed, |text| {
        let is_token =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        (!text.is_empty() && text.bytes().all(is_token)).then(|| text.to_owned())
    })
}

pub fn cookie_domain<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    parsed(from, "a host name, or empty", |text| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte);
        text.bytes().all(is_allowed).then(|| text.to_owned())
    })
}

pub fn cookie_path<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    parsed(from, "a path that starts with /", |text| {
        let is_allowed = |byte: u8| byte.is_ascii_graphic() && !b";,\\\"".contains(&byte);
        (text.starts_with('/') && text.bytes().all(is_allowed)).then(|| text.to_owned())
    })
}

/// The name of the header that carries the session id. Empty for cookies only.
pub fn transport<'de, D: Deserializer<'de>>(from: D) -> Result<Transport, D::Error> {
    let allowed = "the name of a header, such as x-auth-token, or empty";
    parsed(from, allowed, |text| match text {
        "" => Some(Transport::Cookie),
        name => HeaderName::from_str(name)
            .ok()
            .map(Transport::CookieOrHeader),
    })
}

/// The hash of the console's password. Empty disables the console.
pub fn password_hash<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PasswordHash>, D::Error> {
    parsed(
        from,
        "the output of tally hash-password, or empty",
        |text| {
            if text.is_empty() {
                return Some(None);
            }
            PasswordHash::parse(text).map(Some)
        },
    )
}
