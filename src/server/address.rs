//! Whose request it is, and what for: as the connection says, or behind trusted proxies as they say.
//!
//! `X-Forwarded-For`, `-Proto` and `-Host`, or where a proxy sends none of them `Forwarded` (RFC 7239). From
//! anyone else these headers mean nothing.

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

/// The header in which each proxy adds the address that connected to it.
const FORWARDED_FOR: &str = "x-forwarded-for";

const FORWARDED_PROTO: &str = "x-forwarded-proto";
const FORWARDED_HOST: &str = "x-forwarded-host";
const FORWARDED: &str = "forwarded";

/// Adds to a request whose it is: [`ClientInfo`] for the session layer, and [`Forwarded`] where a trusted proxy has passed
/// it on.
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

/// The address at the other end of the request's connection.
pub fn peer(request: &Request) -> Option<IpAddr> {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    peer.map(|ConnectInfo(peer)| peer.ip())
}

/// What a trusted proxy says of the request that it passes on; nothing where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// Whether the visitor has come by https; `None`: the proxy does not say.
    pub is_https: Option<bool>,
    /// The host that the visitor has asked for.
    pub host: Option<String>,
}

impl Forwarded {
    /// What these headers say, if they come from a trusted proxy.
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

/// The first of a header's values, which the proxy that the visitor connected to has set.
fn first<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let value = headers.get(name)?.to_str().ok()?;
    value.split(',').next().map(str::trim)
}

/// A parameter of the first element of `Forwarded`.
fn parameter<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    value_of(first(headers, FORWARDED)?, name)
}

/// A parameter of one element: `for=192.0.2.7;proto=https`.
fn value_of<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(key, _)| key.trim().eq_ignore_ascii_case(name))?;
    Some(value.trim().trim_matches('"'))
}

/// The visitor's address. `X-Forwarded-For` is believed from its end, and only as far as every
/// address behind it is a trusted proxy's: what a visitor writes into it himself counts for nothing.
pub fn visitor(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut address = peer.to_canonical();
    if trusted.is_empty() {
        return address;
    }
    let elements = headers.contains_key(FORWARDED_FOR);
    let name = if elements { FORWARDED_FOR } else { FORWARDED };
    let lines = headers.get_all(name).iter().rev();
    let hops = lines.flat_map(|line: &HeaderValue| line.as_bytes().rsplit(|byte| *byte == b','));
    for hop in hops {
        if !is_trusted(address, trusted) {
            break;
        }
        let hop = std::str::from_utf8(hop).ok();
        let hop = hop.and_then(|hop| {
            if elements {
                Some(hop)
            } else {
                value_of(hop, "for")
            }
        });
        // What can't be read hides what stands before it.
        let Some(next) = hop.and_then(parsed) else {
            break;
        };
        address = next.to_canonical();
    }
    address
}

/// An address, which some proxies write with its port, and `Forwarded` in brackets where it is IPv6.
fn parsed(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let bare = hop.strip_prefix('[').and_then(|hop| hop.strip_suffix(']'));
    let hop = bare.unwrap_or(hop);
    let with_port = || hop.parse::<SocketAddr>().map(|address| address.ip());
    hop.parse().or_else(|_| with_port()).ok()
}

/// Whether what this peer says about others is believed.
pub fn is_trusted(peer: IpAddr, trusted: &[IpNet]) -> bool {
    let peer = peer.to_canonical();
    trusted.iter().any(|network| network.contains(&peer))
}

/// A network (`10.0.0.0/8`) or one address.
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
    fn a_visitor_can_not_choose_an_address() {
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
    fn a_trusted_proxy_says_by_what_and_for_which_host_a_visitor_came() {
        let said = |is_https, host: &str| Forwarded {
            is_https: Some(is_https),
            host: Some(host.to_owned()),
        };
        let lines = [
            ("x-forwarded-proto", "https, http"),
            ("x-forwarded-host", "shop.example, inner.example"),
        ];
        assert_eq!(forwarded("10.0.0.1", &lines).0, said(true, "shop.example"));
        assert_eq!(forwarded("192.0.2.1", &lines).0, Forwarded::default());
        let element = [(
            "forwarded",
            "For=\"[2001:db8::7]:4711\";Proto=http;host=\"shop.example:8080\", for=10.0.0.2",
        )];
        let (said_so, address) = forwarded("10.0.0.1", &element);
        assert_eq!(said_so, said(false, "shop.example:8080"));
        assert_eq!(address, "2001:db8::7");
        assert_eq!(forwarded("192.0.2.1", &element).1, "192.0.2.1");
    }

    #[test]
    fn nonsense_and_nothing_leave_the_proxy() {
        assert_eq!(seen("::1", &["unknown"], &["::1"]), "::1");
        assert_eq!(seen("::ffff:10.0.0.1", &[], &["10.0.0.1"]), "10.0.0.1");
        assert_eq!(network("10.0.0.0/33"), None);
        assert_eq!(network("shop.example"), None);
    }
}
