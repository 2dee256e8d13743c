//! The name of a request in the log, in the answer's head, and at the proxy in front.

use std::fmt;

use axum::http::{HeaderMap, HeaderValue};

/// The header that carries it, in and out.
pub const REQUEST_ID: &str = "x-request-id";

/// The longest that is taken over from a proxy, in characters.
const LONGEST: usize = 64;

/// What a trusted proxy has named the request, or else a number of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestId {
    Given(HeaderValue),
    Own(u64),
}

impl RequestId {
    /// `believed`: the peer is a trusted proxy, whose name for the request is taken over if it
    /// holds nothing but letters, digits, and `-_.`.
    pub fn of(headers: &HeaderMap, believed: bool, number: u64) -> Self {
        let given = headers.get(REQUEST_ID).filter(|value| {
            let bytes = value.as_bytes();
            let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
            believed && (1..=LONGEST).contains(&bytes.len()) && bytes.iter().all(plain)
        });
        given.map_or(Self::Own(number), |value| Self::Given(value.clone()))
    }

    /// The header's value.
    pub fn value(&self) -> HeaderValue {
        match self {
            Self::Given(value) => value.clone(),
            Self::Own(number) => HeaderValue::from_str(&format!("{number:016x}"))
                .unwrap_or(HeaderValue::from_static("0")),
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(value) => formatter.write_str(value.to_str().unwrap_or("unreadable")),
            Self::Own(number) => write!(formatter, "{number:016x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trusted_proxy_names_a_request_and_only_plainly() {
        let headers = |text: &str| {
            let value = HeaderValue::from_str(text).expect("a value");
            HeaderMap::from_iter([(REQUEST_ID.parse().expect("a name"), value)])
        };
        let named = |text: &str, believed| RequestId::of(&headers(text), believed, 1).to_string();
        assert_eq!(named("abc-1.2_3", true), "abc-1.2_3");
        assert_eq!(named("abc", false), "0000000000000001");
        assert_eq!(named("a b", true), "0000000000000001");
        assert_eq!(named(&"a".repeat(65), true), "0000000000000001");
        assert_eq!(
            RequestId::of(&HeaderMap::new(), true, 255).value(),
            "00000000000000ff"
        );
    }
}
