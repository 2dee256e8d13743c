//! Determines the client's address, the scheme and the host of a request, from the connection or from the headers of
//! trusted proxies.
//!
//! The headers are `X-Forwarded-For`, `-Proto` and `-Host`. If a header is missing, the corresponding parameter of
//! `Forwarded` (RFC 7239) applies. From other clients the headers are ignored.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, Request},
    http::{HeaderMap, HeaderValue},
};
use ipnet::IpNet;
use tally_session::ClientInfo;

/// The header to which each proxy appends the address of its client.
const FORWARDED_FOR: &str = "x-forwarded-for";

const FORWARDED_PROTO: &str = "x-forwarded-proto";
const FORWARDED_HOST: &str = "x-forwarded-host";
const FORWARDED: &str = "forwarded";

/// Adds extensions to a request: [`ClientInfo`] for the session layer, and [`Forwarded`] if a trusted proxy has
/// forwarded the request.
pub fn identify(trusted: &[IpNet]) -> impl Fn(Request) -> Request + Clone + use<> {
    let trusted = Arc::<[IpNet]>::from(trusted);
    move |mut request| {
        let Some(peer) = peer(&request) else {
            return request;
        };
        let forwarded = Forwarded::of(peer, request.headers(), &trusted);
        let client = ClientInfo {
            address: Some(visitor(peer, request.headers(), &trusted)),
            is_https: forwarded.is_https == Some(true),
        };
        let extensions = request.extensions_mut();
        extensions.insert(client);
        if forwarded != Forwarded::default() {
            extensions.insert(forwarded);
        }
        request
    }
}

/// The address of the connection's peer, which is a proxy or the client itself.
pub fn peer(request: &Request) -> Option<IpAddr> {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    peer.map(|ConnectInfo(peer)| peer.ip())
}

/// The original scheme and host of a request, as forwarded by a trusted proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// Whether the client has used https, if the proxy says so.
    pub is_https: Option<bool>,
    /// The host that the client has requested, if the proxy says so.
    pub host: Option<String>,
}

impl Forwarded {
    /// Parses the headers if the peer is a trusted proxy.
    pub fn of(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        if !is_trusted(peer, trusted) {
            return Self::default();
        }
        let proto = first(headers, FORWARDED_PROTO).or_else(|| parameter(headers, "proto"));
        let host = first(headers, FORWARDED_HOST).or_else(|| parameter(headers, "host"));
        Self {
            is_https: proto.map(|proto| proto.eq_ignore_ascii_case("https")),
            host: host.map(str::to_owned),
        }
    }
}

/// The first value of a comma-separated header, which the outermost proxy has set.
fn first<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let value = headers.get(name)?.to_str().ok()?;
    value.split(',').next().map(str::trim)
}

/// A parameter of the first element of `Forwarded`.
fn parameter<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    value_of(first(headers, FORWARDED)?, name)
}

/// A parameter of one element of `Forwarded`, such as `for=192.0.2.7;proto=https`.
fn value_of<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(key, _)| key.trim().eq_ignore_ascii_case(name))?;
    Some(value.trim().trim_matches('"'))
}

/// The address of the client.
///
/// `X-Forwarded-For` is read from its end. An entry counts only if all addresses after it belong to trusted proxies, so
/// that entries sent by the client itself are ignored.
pub fn visitor(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut address = peer.to_canonical();
    if trusted.is_empty() {
        return address;
    }
    let has_forwarded_for = headers.contains_key(FORWARDED_FOR);
    let name = if has_forwarded_for {
        FORWARDED_FOR
    } else {
        FORWARDED
    };
    let lines = headers.get_all(name).iter().rev();
    let hops = lines.flat_map(|line: &HeaderValue| line.as_bytes().rsplit(|byte| *byte == b','));
    for hop in hops {
        if !is_trusted(address, trusted) {
            break;
        }
        let hop = std::str::from_utf8(hop).ok();
        let hop = hop.and_then(|hop| {
            if has_forwarded_for {
                Some(hop)
            } else {
                value_of(hop, "for")
            }
        });
        // The entries before one that can't be parsed can't be trusted.
        let Some(next) = hop.and_then(parse_address) else {
            break;
        };
        address = next.to_canonical();
    }
    address
}

/// Parses an address. Some proxies add the port, and `Forwarded` has IPv6 addresses in brackets.
fn parse_address(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let bare = hop.strip_prefix('[').and_then(|hop| hop.strip_suffix(']'));
    let hop = bare.unwrap_or(hop);
    let with_port = || hop.parse::<SocketAddr>().map(|address| address.ip());
    hop.parse().or_else(|_| with_port()).ok()
}

/// Whether a peer is a trusted proxy.
pub fn is_trusted(peer: IpAddr, trusted: &[IpNet]) -> bool {
    let peer = peer.to_canonical();
    trusted.iter().any(|network| network.contains(&peer))
}

/// Parses a network (`10.0.0.0/8`) or a single address.
pub fn network(text: &str) -> Option<IpNet> {
    let single = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| single()).ok()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn seen(peer: &str, forwarded: &[&str], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            let value = HeaderValue::from_bytes(line.as_bytes()).expect("a value");
            headers.append(FORWARDED_FOR, value);
        }
        let trusted: Vec<_> = trusted.iter().filter_map(|text| network(text)).collect();
        visitor(peer.parse().expect("an address"), &headers, &trusted).to_string()
    }

    #[test]
    fn a_client_can_not_choose_its_address() {
        assert_eq!(seen("192.0.2.1", &["198.51.100.7"], &[]), "192.0.2.1");
        let trusted = ["10.0.0.0/8", "::1"];
        assert_eq!(seen("192.0.2.1", &["198.51.100.7"], &trusted), "192.0.2.1");
        assert_eq!(
            seen("10.0.0.1", &["198.51.100.7"], &trusted),
            "198.51.100.7"
        );
        let claimed = ["203.0.113.9, 198.51.100.7"];
        assert_eq!(seen("10.0.0.1", &claimed, &trusted), "198.51.100.7");
        let hidden = ["203.0.113.9", "\u{fc}"];
        assert_eq!(seen("10.0.0.1", &hidden, &trusted), "10.0.0.1");
        let hides_nothing = ["\u{fc}, 198.51.100.7"];
        assert_eq!(seen("10.0.0.1", &hides_nothing, &trusted), "198.51.100.7");
        let with_ports = ["198.51.100.7:4711, [::1]:80"];
        assert_eq!(seen("10.0.0.1", &with_ports, &trusted), "198.51.100.7");
        let two_proxies = ["203.0.113.9", "198.51.100.7, 10.0.0.2"];
        assert_eq!(seen("10.0.0.1", &two_proxies, &trusted), "198.51.100.7");
    }

    fn forwarded(peer: &str, lines: &[(&'static str, &str)]) -> (Forwarded, String) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        let trusted: Vec<_> = network("10.0.0.0/8").into_iter().collect();
        let peer = peer.parse().expect("an address");
        let address = visitor(peer, &headers, &trusted).to_string();
        (Forwarded::of(peer, &headers, &trusted), address)
    }

    #[test]
    fn a_trusted_proxy_forwards_the_scheme_and_the_host() {
        let expected = |is_https, host: &str| Forwarded {
            is_https: Some(is_https),
            host: Some(host.to_owned()),
        };
        let lines = [
            ("x-forwarded-proto", "https, http"),
            ("x-forwarded-host", "shop.example, inner.example"),
        ];
        assert_eq!(
            forwarded("10.0.0.1", &lines).0,
            expected(true, "shop.example")
        );
        assert_eq!(forwarded("192.0.2.1", &lines).0, Forwarded::default());
        let element = [(
            "forwarded",
            "For=\"[2001:db8::7]:4711\";Proto=http;host=\"shop.example:8080\", for=10.0.0.2",
        )];
        let (parsed, address) = forwarded("10.0.0.1", &element);
        assert_eq!(parsed, expected(false, "shop.example:8080"));
        assert_eq!(address, "2001:db8::7");
        assert_eq!(forwarded("192.0.2.1", &element).1, "192.0.2.1");
    }

    #[test]
    fn without_a_valid_header_the_address_is_that_of_the_proxy() {
        assert_eq!(seen("::1", &["unknown"], &["::1"]), "::1");
        assert_eq!(seen("::ffff:10.0.0.1", &[], &["10.0.0.1"]), "10.0.0.1");
        assert_eq!(network("10.0.0.0/33"), None);
        assert_eq!(network("shop.example"), None);
    }
}
