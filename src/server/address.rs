//! Whose request it is: the address that connected, or behind trusted proxies the one that they name.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderValue};
use ipnet::IpNet;

/// The header in which each proxy adds the address that connected to it.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The visitor's address. `X-Forwarded-For` is believed from its end, and only as far as every
/// address behind it is a trusted proxy's: what a visitor writes into it himself counts for nothing.
pub fn visitor(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut address = peer.to_canonical();
    if trusted.is_empty() {
        return address;
    }
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    let hops = lines.flat_map(|line: &HeaderValue| line.as_bytes().rsplit(|byte| *byte == b','));
    for hop in hops {
        if !is_trusted(address, trusted) {
            break;
        }
        // What can't be read hides what stands before it.
        let Some(next) = std::str::from_utf8(hop).ok().and_then(parsed) else {
            break;
        };
        address = next.to_canonical();
    }
    address
}

/// An address, which some proxies write with its port.
fn parsed(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
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

    #[test]
    fn nonsense_and_nothing_leave_the_proxy() {
        assert_eq!(seen("::1", &["unknown"], &["::1"]), "::1");
        assert_eq!(seen("::ffff:10.0.0.1", &[], &["10.0.0.1"]), "10.0.0.1");
        assert_eq!(network("10.0.0.0/33"), None);
        assert_eq!(network("shop.example"), None);
    }
}
