//! The request id, which appears in the log and in the response, and which a proxy may set.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue},
};
use ipnet::IpNet;

use super::address;

/// The header of the request id, in requests and responses.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The maximum length of an id from a proxy, in bytes.
const MAX_LENGTH: usize = 64;

/// Assigns an id to each request, unless a trusted proxy has set one.
pub fn assign(trusted: &[IpNet]) -> impl Fn(Request) -> Request + Clone + use<> {
    let trusted = Arc::<[IpNet]>::from(trusted);
    // Hash the numbers, because plain numbers would reveal how many requests the server has handled.
    let (numbers, hasher) = (Arc::<AtomicU64>::default(), RandomState::new());
    move |mut request| {
        let peer = address::peer(&request);
        let is_trusted = peer.is_some_and(|peer| address::is_trusted(peer, &trusted));
        let forwarded = is_trusted
            .then(|| forwarded_id(request.headers()))
            .flatten();
        let id = forwarded.unwrap_or_else(|| {
            let number = numbers.fetch_add(1, Ordering::Relaxed);
            format_id(hasher.hash_one(number))
        });
        request.headers_mut().insert(REQUEST_ID, id);
        request
    }
}

/// The id in the headers, if it consists of letters, digits and `-_.`.
fn forwarded_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let value = headers.get(REQUEST_ID)?;
    let bytes = value.as_bytes();
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let is_valid = (1..=MAX_LENGTH).contains(&bytes.len()) && bytes.iter().all(is_allowed);
    is_valid.then(|| value.clone())
}

fn format_id(number: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("{number:016x}")).unwrap_or(HeaderValue::from_static("0"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{body::Body, extract::ConnectInfo};
    use std::net::SocketAddr;

    fn assigned(text: &str, peer: [u8; 4]) -> HeaderValue {
        let proxy = "10.0.0.0/8".parse().expect("a network");
        let request = Request::builder()
            .header(REQUEST_ID, text)
            .extension(ConnectInfo(SocketAddr::from((peer, 1_234))))
            .body(Body::empty())
            .expect("a request");
        assign(&[proxy])(request).headers()[REQUEST_ID].clone()
    }

    #[test]
    fn only_a_valid_id_from_a_trusted_proxy_is_used() {
        let (proxy, visitor) = ([10, 0, 0, 1], [192, 0, 2, 1]);
        assert_eq!(assigned("abc-1.2_3", proxy), "abc-1.2_3");
        let long = "a".repeat(65);
        for (text, peer) in [("abc", visitor), ("a b", proxy), (long.as_str(), proxy)] {
            let id = assigned(text, peer);
            assert_ne!(id, text);
            assert_eq!(id.len(), 16);
        }
        assert_eq!(format_id(255), "00000000000000ff");
    }
}
