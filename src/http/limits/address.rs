//! From which address a request comes.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Once,
};

use actix_web::http::header::{HeaderMap, HeaderName};
use ipnet::IpNet;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What a proxy adds, whichever it is.
const BY_PROXY: [&str; 3] = ["x-forwarded-for", "forwarded", "x-real-ip"];

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// This machine, through no proxy that says so.
    Here,
    Address(IpAddr),
}

impl Origin {
    /// Follows `X-Forwarded-For` from its right end, where the nearest proxy wrote, as long as those who wrote are
    /// trusted. What others say of themselves is ignored.
    ///
    /// `Forwarded` (RFC 7239) is not read: a proxy that knows only one of the two headers passes the other on as
    /// the client made it up.
    pub fn of(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        let peer = peer.to_canonical();
        if is_among(trusted, peer) {
            return match headers.contains_key(FORWARDED_FOR) {
                true => Origin::Address(client(peer, headers, trusted)),
                false if peer.is_loopback() => Origin::Here,
                false => Origin::Address(peer),
            };
        }
        if !peer.is_loopback() {
            return Origin::Address(peer);
        }
        if BY_PROXY.iter().any(|name| headers.contains_key(*name)) {
            warn_once();
            return Origin::Address(peer);
        }
        Origin::Here
    }
}

/// Its clients then share one limit, which would be hard to find out.
fn warn_once() {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        tracing::warn!(
            "a proxy on this machine forwards requests, and all of them count as one address: \
             set TRUSTED_PROXIES=127.0.0.1,::1 if its X-Forwarded-For can be believed"
        );
    });
}

fn is_among(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

/// The last hop that a trusted one names: an untrusted address, or the furthest that there is.
fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let lists: Vec<&[u8]> = headers.get_all(FORWARDED_FOR).map(|value| value.as_bytes()).collect();
    let hops = lists.iter().rev().flat_map(|list| list.rsplit(|byte| *byte == b','));
    let mut nearest = peer;
    for hop in hops {
        // What cannot be read is not guessed: whoever wrote it is the last that is known.
        let Some(address) = std::str::from_utf8(hop).ok().and_then(|hop| parse(hop.trim())) else { break };
        nearest = address;
        if !is_among(trusted, address) {
            break;
        }
    }
    nearest
}

/// An address, some proxies add its port.
fn parse(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    let address = bare.parse().ok().or_else(|| hop.parse::<SocketAddr>().ok().map(|socket| socket.ip()))?;
    Some(IpAddr::to_canonical(&address))
}

/// What is counted together: an IPv4 address, or the /64 of an IPv6 address, which one customer has whole.
pub fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn origin(peer: &str, headers: &[(&'static str, &str)]) -> Origin {
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "2001:db8:1::/48"].map(|net| net.parse().unwrap()).into();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        Origin::of(peer.parse().unwrap(), &map, &trusted)
    }

    fn is(address: &str) -> Origin {
        Origin::Address(address.parse().unwrap())
    }

    const XFF: &str = "x-forwarded-for";

    #[test]
    fn what_others_than_proxies_say_of_themselves_is_ignored() {
        assert_eq!(origin("8.8.8.8", &[(XFF, "1.2.3.4")]), is("8.8.8.8"));
        assert_eq!(origin("8.8.8.8", &[(XFF, "127.0.0.1")]), is("8.8.8.8"));
        assert_eq!(
            origin("8.8.8.8", &[("forwarded", "for=1.2.3.4"), ("x-real-ip", "1.2.3.4")]),
            is("8.8.8.8")
        );
        // Not even by a trusted one that knows only the other header.
        assert_eq!(origin("10.0.0.1", &[("forwarded", "for=1.2.3.4")]), is("10.0.0.1"));
    }

    #[test]
    fn the_right_most_hop_that_is_not_trusted_counts() {
        assert_eq!(origin("10.0.0.1", &[(XFF, "1.2.3.4")]), is("1.2.3.4"));
        assert_eq!(origin("10.0.0.1", &[(XFF, "6.6.6.6, 1.2.3.4 , 10.0.0.7")]), is("1.2.3.4"));
        // Several headers are one list.
        assert_eq!(origin("10.0.0.1", &[(XFF, "6.6.6.6"), (XFF, "1.2.3.4,10.0.0.7")]), is("1.2.3.4"));
        // All are trusted: the furthest.
        assert_eq!(origin("10.0.0.1", &[(XFF, "10.0.0.3, 10.0.0.2")]), is("10.0.0.3"));
        assert_eq!(origin("2001:db8:1::9", &[(XFF, "[2001:db8:2::1]:4711")]), is("2001:db8:2::1"));
        assert_eq!(origin("10.0.0.1", &[(XFF, "1.2.3.4:5678")]), is("1.2.3.4"));
        assert_eq!(origin("::ffff:10.0.0.1", &[(XFF, "::ffff:1.2.3.4")]), is("1.2.3.4"));
    }

    #[test]
    fn what_cannot_be_read_counts_for_whoever_wrote_it() {
        for broken in ["", "unknown", "1.2.3", "1.2.3.4, _hidden", ",", "\u{e9}"] {
            assert_eq!(origin("10.0.0.1", &[(XFF, broken)]), is("10.0.0.1"), "{broken}");
        }
        assert_eq!(origin("10.0.0.1", &[(XFF, "1.2.3.4, nonsense, 10.0.0.7")]), is("10.0.0.7"));
    }

    #[test]
    fn this_machine_is_itself_only_without_a_proxy() {
        for here in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(origin(here, &[]), Origin::Here, "{here}");
        }
        assert_eq!(origin("127.0.0.1", &[(XFF, "1.2.3.4")]), is("127.0.0.1"));
        assert_eq!(origin("127.0.0.1", &[("x-real-ip", "1.2.3.4")]), is("127.0.0.1"));
        // Said by a proxy, it is an address like others.
        assert_eq!(origin("10.0.0.1", &[(XFF, "127.0.0.1")]), is("127.0.0.1"));
    }

    #[test]
    fn addresses_of_one_customer_count_as_one() {
        let same = |a: &str, b: &str| counted(a.parse().unwrap()) == counted(b.parse().unwrap());
        assert!(same("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1"));
        assert!(same("::ffff:1.2.3.4", "1.2.3.4"));
        assert!(!same("1.2.3.4", "1.2.3.5"));
    }
}
