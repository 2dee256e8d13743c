//! The name of a request in the log, in the answer's head, and at the proxy in front.

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

/// The header that carries it, in and out.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest that is taken over from a proxy, in characters.
const LONGEST: usize = 64;

/// Names each request, or leaves it the name that a trusted proxy has given it.
pub fn assign(trusted: &[IpNet]) -> impl Fn(Request) -> Request + Clone + use<> {
    let trusted = Arc::<[IpNet]>::from(trusted);
    // Makes names of numbers, which would tell how many requests there are.
    let (numbers, hasher) = (Arc::<AtomicU64>::default(), RandomState::new());
    move |mut request| {
        let peer = address::peer(&request);
        let believed = peer.is_some_and(|peer| address::is_trusted(peer, &trusted));
        let given = believed.then(|| given(request.headers())).flatten();
        let id = given.unwrap_or_else(|| {
            let number = numbers.fetch_add(1, Ordering::Relaxed);
            own(hasher.hash_one(number))
        });
        request.headers_mut().insert(REQUEST_ID, id);
        request
    }
}

/// The name that these headers give, if it holds nothing but letters, digits, and `-_.`.
fn given(headers: &HeaderMap) -> Option<HeaderValue> {
    let value = headers.get(REQUEST_ID)?;
    let bytes = value.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let is_fit = (1..=LONGEST).contains(&bytes.len()) && bytes.iter().all(plain);
    is_fit.then(|| value.clone())
}

fn own(number: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("{number:016x}")).unwrap_or(HeaderValue::from_static("0"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{body::Body, extract::ConnectInfo};
    use std::net::SocketAddr;

    fn named(text: &str, peer: [u8; 4]) -> HeaderValue {
        let proxy = "10.0.0.0/8".parse().expect("a network");
        let request = Request::builder()
            .header(REQUEST_ID, text)
            .extension(ConnectInfo(SocketAddr::from((peer, 1_234))))
            .body(Body::empty())
            .expect("a request");
        assign(&[proxy])(request).headers()[REQUEST_ID].clone()
    }

    #[test]
    fn only_a_trusted_proxy_names_a_request_and_only_plainly() {
        let (proxy, visitor) = ([10, 0, 0, 1], [192, 0, 2, 1]);
        assert_eq!(named("abc-1.2_3", proxy), "abc-1.2_3");
        let long = "a".repeat(65);
        for (text, peer) in [("abc", visitor), ("a b", proxy), (long.as_str(), proxy)] {
            let id = named(text, peer);
            assert_ne!(id, text);
            assert_eq!(id.len(), 16);
        }
        assert_eq!(own(255), "00000000000000ff");
    }
}
