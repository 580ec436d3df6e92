//! Free ports on the loopback address, held until the process that needs them starts.
//!
//! Knows nothing of what listens on them.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;

/// Where the kernel says from which ports it picks ones for outgoing connections.
const EPHEMERAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// The lowest port that is tried; below it well-known services listen.
const LOWEST: u16 = 10_000;
/// Fewer ports than this below the ephemeral ones are not worth a search.
const ENOUGH: u16 = 1_000;
/// How many ports are tried before the machine counts as full.
const TRIES_MAX: u32 = 10_000;

/// The ports of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// PostgreSQL.
    pub postgres: u16,
    /// gRPC (TCP) and gossip (UDP).
    pub grpc: u16,
    /// Health and metrics.
    pub http: u16,
}

impl Ports {
    /// This port on the loopback address.
    #[must_use]
    pub fn local(port: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }
}

/// Ports that nobody else can take while this lives.
#[derive(Debug)]
pub struct Reserved {
    /// The ports.
    pub ports: Ports,
    _tcp: [TcpListener; 3],
    _udp: UdpSocket,
}

/// Reserves the ports of one node.
pub fn reserve() -> Result<Reserved> {
    let range = choices(&fs::read_to_string(EPHEMERAL).unwrap_or_default());
    let (postgres, postgres_held) = search(&range, tcp)?;
    let (grpc, (grpc_held, gossip_held)) = search(&range, |port| Some((tcp(port)?, udp(port)?)))?;
    let (http, http_held) = search(&range, tcp)?;
    Ok(Reserved {
        ports: Ports {
            postgres,
            grpc,
            http,
        },
        _tcp: [postgres_held, grpc_held, http_held],
        _udp: gossip_held,
    })
}

/// The ports to choose from, given the kernel's two numbers: those that no outgoing connection
/// can get by chance between our letting go of one and the server's taking it.
fn choices(ephemeral: &str) -> Range<u16> {
    let low = ephemeral
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok());
    match low {
        Some(low) if low >= LOWEST + ENOUGH => LOWEST..low,
        Some(_) | None => LOWEST..u16::MAX,
    }
}

fn search<T>(range: &Range<u16>, hold: impl Fn(u16) -> Option<T>) -> Result<(u16, T)> {
    for _ in 0..TRIES_MAX {
        let port = rand::random_range(range.clone());
        if let Some(held) = hold(port) {
            return Ok((port, held));
        }
    }
    bail!(
        "no free port was found on 127.0.0.1 between {} and {}",
        range.start,
        range.end
    )
}

fn tcp(port: u16) -> Option<TcpListener> {
    TcpListener::bind(Ports::local(port)).ok()
}

fn udp(port: u16) -> Option<UdpSocket> {
    UdpSocket::bind(Ports::local(port)).ok()
}

/// Reserves the ports of several nodes.
pub fn reserve_for(nodes: u16) -> Result<Vec<Reserved>> {
    (0..nodes)
        .map(|_| reserve().context("ports for a node"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outgoing_connections_cannot_get_a_chosen_port() {
        assert_eq!(choices("32768\t60999\n"), 10_000..32_768);
        assert_eq!(choices("1024 65535"), 10_000..65_535);
        assert_eq!(choices(""), 10_000..65_535);
        assert_eq!(choices("x y"), 10_000..65_535);
    }

    #[test]
    fn reserved_ports_are_taken_and_then_free() {
        let reserved = reserve_for(3).unwrap();
        let ports: Vec<Ports> = reserved.iter().map(|held| held.ports).collect();
        for held in &ports {
            for port in [held.postgres, held.grpc, held.http] {
                assert!(tcp(port).is_none(), "{port} could be taken twice");
            }
            assert!(udp(held.grpc).is_none());
        }
        let mut all: Vec<u16> = ports
            .iter()
            .flat_map(|p| [p.postgres, p.grpc, p.http])
            .collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 9);
        drop(reserved);
        assert!(tcp(ports[0].postgres).is_some() && udp(ports[0].grpc).is_some());
    }
}
