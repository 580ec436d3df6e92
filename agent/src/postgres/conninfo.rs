//! The one place that writes libpq connection strings, and reads its own.
//!
//! Knows libpq's quoting and nothing of the mesh's state. Never writes a password.

use pgaa_core::ids::NodeId;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use thiserror::Error;

/// A value can't be part of a connection string.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error(
    "{keyword} can't be written into a connection string: it holds a zero byte, or isn't UTF-8"
)]
pub struct BadConninfo {
    /// The keyword.
    pub keyword: &'static str,
}

/// How another node's server is reached.
#[derive(Debug, Clone, Copy)]
pub struct Remote<'a> {
    /// Which node; its certificate must carry `<uuid>.pgaa`.
    pub node: NodeId,
    /// Where its PostgreSQL listens.
    pub address: SocketAddr,
    /// The database.
    pub database: &'a str,
    /// The role that logs in, by certificate.
    pub role: &'a str,
    /// Our certificate; libpq reads it anew for each connection.
    pub cert: &'a Path,
    /// Its key.
    pub key: &'a Path,
    /// The authority that signed the other node's certificate.
    pub ca: &'a Path,
}

/// Keyword/value pairs as one connection string (libpq, "Keyword/Value Connection Strings"):
/// each value in single quotes, with quotes and backslashes escaped by a backslash.
fn join(pairs: &[(&'static str, &str)]) -> Result<String, BadConninfo> {
    let mut text = String::new();
    for &(keyword, value) in pairs {
        if value.contains('\0') {
            return Err(BadConninfo { keyword });
        }
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(keyword);
        text.push_str("='");
        for c in value.chars() {
            if matches!(c, '\'' | '\\') {
                text.push('\\');
            }
            text.push(c);
        }
        text.push('\'');
    }
    Ok(text)
}

fn path<'a>(keyword: &'static str, path: &'a Path) -> Result<&'a str, BadConninfo> {
    path.to_str().ok_or(BadConninfo { keyword })
}

impl Remote<'_> {
    /// The connection string by which this node's server reaches the other.
    ///
    /// `host` is only the name that the certificate must carry; `hostaddr` is dialled.
    /// `tcp_user_timeout` (Linux) ends a connection whose peer vanished after 15 s: pglogical
    /// overrides `connect_timeout` and the keepalives with patient values of its own
    /// (`pglogical_connect_base`). Encryption by GSS is not tried: it costs a round trip.
    pub fn conninfo(&self) -> Result<String, BadConninfo> {
        let host = format!("{}.pgaa", self.node);
        let address = self.address.ip().to_string();
        let port = self.address.port().to_string();
        join(&[
            ("host", &host),
            ("hostaddr", &address),
            ("port", &port),
            ("dbname", self.database),
            ("user", self.role),
            ("sslmode", "verify-full"),
            ("sslcert", path("sslcert", self.cert)?),
            ("sslkey", path("sslkey", self.key)?),
            ("sslrootcert", path("sslrootcert", self.ca)?),
            ("gssencmode", "disable"),
            ("connect_timeout", "5"),
            ("keepalives_idle", "5"),
            ("keepalives_interval", "3"),
            ("keepalives_count", "3"),
            ("tcp_user_timeout", "15000"),
        ])
    }
}

/// The connection string of the local server, over its Unix socket: what the local pglogical
/// node announces. It is used by this server alone, and so it does not change when the machine
/// gets another address.
pub fn local(
    socket_dir: &Path,
    port: u16,
    database: &str,
    role: &str,
) -> Result<String, BadConninfo> {
    let port = port.to_string();
    join(&[
        ("host", path("host", socket_dir)?),
        ("port", &port),
        ("dbname", database),
        ("user", role),
        ("connect_timeout", "5"),
    ])
}

/// The words of a connection string that was written here.
pub(super) fn words(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = text.chars().peekable();
    while rest.peek().is_some() {
        let keyword: String = rest.by_ref().take_while(|c| *c != '=').collect();
        // The quote.
        rest.next();
        let mut value = String::new();
        while let Some(c) = rest.next() {
            match c {
                '\\' => value.extend(rest.next()),
                '\'' => break,
                other => value.push(other),
            }
        }
        found.insert(keyword.trim().to_owned(), value);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_values_come_back_as_they_were() {
        for odd in [
            "",
            " ",
            "a b",
            "o'neil",
            "back\\slash",
            "'",
            "\\",
            "x=y",
            "ü",
            "a\nb",
            "\\'",
        ] {
            let text = local(Path::new("/run/x y"), 5432, odd, odd).unwrap();
            let found = words(&text);
            assert_eq!(found["dbname"], odd);
            assert_eq!(found["user"], odd);
            assert_eq!(found["host"], "/run/x y");
            let config: tokio_postgres::Config = text.parse().unwrap();
            assert_eq!(config.get_dbname(), Some(odd));
        }
    }

    #[test]
    fn a_zero_byte_is_refused() {
        let error = local(Path::new("/run"), 5432, "a\0b", "x").unwrap_err();
        assert_eq!(error.keyword, "dbname");
    }

    #[test]
    fn a_remote_is_verified_and_dialled_by_address() {
        let remote = Remote {
            node: NodeId(uuid::Uuid::from_u128(7)),
            address: "[::1]:6150".parse().unwrap(),
            database: "shop",
            role: "pgaa",
            cert: Path::new("/c"),
            key: Path::new("/k"),
            ca: Path::new("/a"),
        };
        let found = words(&remote.conninfo().unwrap());
        assert_eq!(found["host"], "00000000-0000-0000-0000-000000000007.pgaa");
        assert_eq!(found["hostaddr"], "::1");
        assert_eq!(found["port"], "6150");
        assert_eq!(found["sslmode"], "verify-full");
    }
}
