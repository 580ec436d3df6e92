//! Reads one entry of `cluster.seeds`, and derives the founding set from all of them.

use super::settings::Seed;
use pgaa_core::policy::FoundingSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// The longest DNS name, RFC 1035.
const DNS_NAME_BYTES_MAX: usize = 253;

/// Reads one seed; `port` is for seeds that name none. The error is a clause for people.
pub fn parse(text: &str, port: u16) -> Result<Seed, String> {
    if let Some(program) = text.strip_prefix("exec:") {
        return match program.starts_with('/') {
            true => Ok(Seed::Exec(PathBuf::from(program))),
            false => Err(format!("{text:?}: \"exec:\" needs an absolute path")),
        };
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return address(text, SocketAddr::new(ip, port));
    }
    if let Ok(known) = text.parse::<SocketAddr>() {
        return address(text, known);
    }
    let (name, port) = match text.rsplit_once(':') {
        None => (text, port),
        Some((name, digits)) => {
            let wrong = |_| format!("{text:?}: {digits:?} is not a port");
            (name, digits.parse::<u16>().map_err(wrong)?)
        }
    };
    if port == 0 {
        return Err(format!("{text:?}: port 0 can't be reached"));
    }
    check_dns_name(name).map_err(|why| format!("{text:?} {why}"))?;
    Ok(Seed::Dns {
        name: name.to_owned(),
        port,
    })
}

fn address(text: &str, address: SocketAddr) -> Result<Seed, String> {
    if address.port() == 0 {
        return Err(format!("{text:?}: port 0 can't be reached"));
    }
    if address.ip().is_unspecified() || address.ip().is_multicast() {
        return Err(format!("{text:?}: no node has this address"));
    }
    Ok(Seed::Address(address))
}

fn check_dns_name(name: &str) -> Result<(), &'static str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let label = |label: &str| (1..=63).contains(&label.len()) && label.chars().all(allowed);
    let labels = name.strip_suffix('.').unwrap_or(name);
    if labels.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err("is neither an IP address nor a DNS name");
    }
    if name.len() > DNS_NAME_BYTES_MAX || !labels.split('.').all(label) {
        return Err("is neither an address, a DNS name, nor \"exec:/path/to/program\"");
    }
    Ok(())
}

/// With addresses alone, as many as nodes found the cluster, the founders are exactly those;
/// otherwise any that meet.
#[must_use]
pub fn founding_set(seeds: &[Seed], expect: u16) -> FoundingSet {
    let addresses = literal(seeds);
    if addresses.len() == seeds.len() && addresses.len() == usize::from(expect) {
        FoundingSet::Addresses(addresses)
    } else {
        FoundingSet::Any
    }
}

/// The seeds that are addresses.
#[must_use]
pub fn literal(seeds: &[Seed]) -> Vec<SocketAddr> {
    let address = |seed: &Seed| match seed {
        Seed::Address(address) => Some(*address),
        Seed::Dns { .. } | Seed::Exec(_) => None,
    };
    seeds.iter().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        let address = |text: &str| Seed::Address(text.parse().unwrap());
        assert_eq!(parse("10.0.0.1", 7432), Ok(address("10.0.0.1:7432")));
        assert_eq!(parse("10.0.0.1:9", 7432), Ok(address("10.0.0.1:9")));
        assert_eq!(parse("::1", 7432), Ok(address("[::1]:7432")));
        assert_eq!(parse("[::1]:9", 7432), Ok(address("[::1]:9")));
        let name = Seed::Dns {
            name: "db.example".to_owned(),
            port: 7432,
        };
        assert_eq!(parse("db.example", 7432), Ok(name));
        let name = Seed::Dns {
            name: "db".to_owned(),
            port: 9,
        };
        assert_eq!(parse("db:9", 7432), Ok(name));
        assert_eq!(
            parse("exec:/bin/list", 1),
            Ok(Seed::Exec(PathBuf::from("/bin/list")))
        );
    }

    #[test]
    fn nonsense_is_refused_and_named() {
        for bad in [
            "",
            "10.0.0.300",
            "10.0.0.1:0",
            "db:0",
            "db:x",
            "a b",
            "exec:list",
            "0.0.0.0",
            "-:1:2",
            "1.2.3",
            "..",
        ] {
            let error = parse(bad, 7432).unwrap_err();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
    }
}
