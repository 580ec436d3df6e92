//! The address others are told: configured, or the one this machine uses to reach its peers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Stand for "anywhere else" where no peer is known: addresses for documentation (RFC 5737 and
/// RFC 3849), which only a default route leads to.
const ANYWHERE: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9),
    SocketAddr::new(
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        9,
    ),
];

/// The source address the kernel picks towards the first of `towards` that can be routed; without
/// any it is that of the default route, so that a mesh of one needs no seeds.
/// Connecting a UDP socket sends nothing. Addresses of this machine itself are passed over as
/// long as another one can be routed, since the route to oneself says little.
#[must_use]
pub fn own_address(towards: &[SocketAddr]) -> Option<IpAddr> {
    if towards.is_empty() {
        return ANYWHERE.into_iter().find_map(source_towards);
    }
    let sources = || {
        towards.iter().filter_map(|target| {
            let source = source_towards(*target)?;
            Some((*target, source))
        })
    };
    let outward = sources().find(|(target, source)| target.ip() != *source);
    outward
        .or_else(|| sources().next())
        .map(|(_, source)| source)
}

fn source_towards(target: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(target).ok()?;
    let source = socket.local_addr().ok()?.ip();
    (!source.is_unspecified()).then_some(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_peers_the_default_route_counts() {
        let routed = ANYWHERE.into_iter().find_map(source_towards);
        assert_eq!(own_address(&[]), routed);
    }

    #[test]
    fn loopback_is_reached_from_loopback() {
        let own = own_address(&["127.0.0.1:9".parse().unwrap()]);
        assert_eq!(own, Some(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }
}
