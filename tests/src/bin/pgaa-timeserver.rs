//! A time server for tests (SNTP, RFC 4330): passes this machine's clock on, shifted by as many
//! seconds as its argument says. Sets no clock.

use anyhow::{Context, Result};
use pgaa_agent::clock::Clocks;
use std::net::UdpSocket;

/// Seconds from NTP's first day, 1900, to 1970.
const NTP_TO_UNIX_S: i64 = 2_208_988_800;

/// The length of a packet without extensions.
const PACKET: usize = 48;

fn main() -> Result<()> {
    let shift: f64 = std::env::args()
        .nth(1)
        .context("usage: pgaa-timeserver SECONDS")?
        .parse()?;
    let shift_us = (shift * 1e6) as i64;
    let clocks = Clocks::start();
    let now = || timestamp(clocks.wall_us() + shift_us);
    let socket = UdpSocket::bind("0.0.0.0:123").context("UDP port 123 can't be bound")?;
    let mut packet = [0; PACKET];
    loop {
        let (length, client) = socket.recv_from(&mut packet)?;
        if length < PACKET {
            continue;
        }
        let received = now();
        let asked = packet[40..48].to_vec();
        // No leap second, version 4, a server; stratum 2, one question a minute, about 1 us.
        packet[..4].copy_from_slice(&[0b00_100_100, 2, 6, 0xec]);
        // Root delay and dispersion: none.
        packet[4..12].fill(0);
        packet[12..16].copy_from_slice(&[127, 0, 0, 1]);
        packet[16..24].copy_from_slice(&received);
        packet[24..32].copy_from_slice(&asked);
        packet[32..40].copy_from_slice(&received);
        packet[40..48].copy_from_slice(&now());
        socket.send_to(&packet, client)?;
    }
}

/// Microseconds since 1970 as NTP writes them: seconds and their 2^32nd parts since 1900.
fn timestamp(unix_us: i64) -> [u8; 8] {
    let seconds = unix_us.div_euclid(1_000_000) + NTP_TO_UNIX_S;
    let part = unix_us.rem_euclid(1_000_000) * (1 << 32) / 1_000_000;
    ((seconds << 32) | part).to_be_bytes()
}
