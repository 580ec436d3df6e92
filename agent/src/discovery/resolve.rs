//! Seeds to addresses. An answer is bounded in size and time, whoever gives it.

use crate::config::Seed;
use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;

/// How long one seed may take.
const SEED_TIME: Duration = Duration::from_secs(10);

/// How much a program may print, bytes.
const EXEC_OUTPUT_MAX: u64 = 64 * 1024;

/// How many addresses are taken from all seeds together.
const ADDRESSES_MAX: usize = 256;

/// Why a seed gave no address.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ResolveError {
    /// The name has no address now.
    #[error("{name} has no address: {why}; check the DNS record or cluster.seeds")]
    Dns {
        /// The name.
        name: String,
        /// What the resolver said.
        why: String,
    },
    /// The program failed.
    #[error("the seed program {} failed: {why}; run it by hand as this user", program.display())]
    Exec {
        /// The program.
        program: PathBuf,
        /// How.
        why: String,
    },
    /// It took too long.
    #[error("{seed} gave no answer within {} s", SEED_TIME.as_secs())]
    Slow {
        /// The seed.
        seed: String,
    },
}

/// Turns seeds into addresses.
#[derive(Debug)]
pub struct Resolver {
    seeds: Vec<Seed>,
    grpc_port: u16,
    dns: Option<TokioResolver>,
}

impl Resolver {
    /// A resolver for these seeds; `grpc_port` is taken where a program names none.
    #[must_use]
    pub fn new(seeds: Vec<Seed>, grpc_port: u16) -> Resolver {
        Resolver {
            seeds,
            grpc_port,
            dns: None,
        }
    }

    /// Do all seeds stand in the configuration as addresses? Then they never change.
    #[must_use]
    pub fn is_static(&self) -> bool {
        self.seeds
            .iter()
            .all(|seed| matches!(seed, Seed::Address(_)))
    }

    /// The addresses now, without repetition, and what went wrong on the way.
    pub async fn resolve(&mut self) -> (Vec<SocketAddr>, Vec<ResolveError>) {
        let mut addresses = BTreeSet::new();
        let mut errors = Vec::new();
        for seed in self.seeds.clone() {
            let answer = match timeout(SEED_TIME, self.one(&seed)).await {
                Ok(answer) => answer,
                Err(_) => Err(ResolveError::Slow {
                    seed: describe(&seed),
                }),
            };
            match answer {
                Ok(found) => addresses.extend(found),
                Err(error) => errors.push(error),
            }
        }
        (addresses.into_iter().take(ADDRESSES_MAX).collect(), errors)
    }

    async fn one(&mut self, seed: &Seed) -> Result<Vec<SocketAddr>, ResolveError> {
        match seed {
            Seed::Address(address) => Ok(vec![*address]),
            Seed::Dns { name, port } => self.dns(name, *port).await,
            Seed::Exec(program) => self.exec(program).await,
        }
    }

    /// SRV `_pgaa._tcp.<name>` where there is one, else the name's addresses.
    async fn dns(&mut self, name: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
        let failed = |why: String| ResolveError::Dns {
            name: name.to_owned(),
            why,
        };
        // The system's resolver first: it knows /etc/hosts, and most names have no SRV record.
        let srv = self.srv(name).await.unwrap_or_default();
        if !srv.is_empty() {
            let mut addresses = Vec::new();
            for (target, port) in srv {
                let found = tokio::net::lookup_host((target.as_str(), port)).await;
                addresses.extend(found.map_err(|error| failed(error.to_string()))?);
            }
            return Ok(addresses);
        }
        let found = tokio::net::lookup_host((name, port)).await;
        found
            .map(Iterator::collect)
            .map_err(|error| failed(error.to_string()))
    }

    async fn srv(&mut self, name: &str) -> Option<Vec<(String, u16)>> {
        if self.dns.is_none() {
            self.dns = TokioResolver::builder_tokio().ok()?.build().ok();
        }
        let answer = self
            .dns
            .as_ref()?
            .srv_lookup(format!("_pgaa._tcp.{name}"))
            .await
            .ok()?;
        let target = |data: &RData| {
            let RData::SRV(srv) = data else { return None };
            Some((srv.target.to_utf8(), srv.port))
        };
        Some(
            answer
                .answers()
                .iter()
                .filter_map(|record| target(&record.data))
                .collect(),
        )
    }

    /// One address or name a line; what follows a `#` is a comment.
    async fn exec(&mut self, program: &Path) -> Result<Vec<SocketAddr>, ResolveError> {
        let failed = |why: String| ResolveError::Exec {
            program: program.to_owned(),
            why,
        };
        let output = run(program).await.map_err(failed)?;
        let mut addresses = Vec::new();
        for line in output.lines() {
            let entry = line.split('#').next().unwrap_or_default().trim();
            if entry.is_empty() {
                continue;
            }
            if let Ok(address) = entry.parse() {
                addresses.push(address);
            } else if let Ok(ip) = entry.parse() {
                addresses.push(SocketAddr::new(ip, self.grpc_port));
            } else {
                let (name, port) = split_port(entry, self.grpc_port).ok_or_else(|| {
                    failed(format!(
                        "it printed {entry:?}, which is no address and no name"
                    ))
                })?;
                let found = tokio::net::lookup_host((name, port)).await;
                addresses.extend(found.map_err(|error| failed(format!("{name}: {error}")))?);
            }
        }
        Ok(addresses)
    }
}

fn split_port(entry: &str, default: u16) -> Option<(&str, u16)> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
    let (name, port) = match entry.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().ok()?),
        None => (entry, default),
    };
    (!name.is_empty() && name.chars().all(allowed)).then_some((name, port))
}

fn describe(seed: &Seed) -> String {
    match seed {
        Seed::Address(address) => address.to_string(),
        Seed::Dns { name, .. } => name.clone(),
        Seed::Exec(program) => program.display().to_string(),
    }
}

/// Runs a program and takes what it prints. It is ended when it takes too long.
async fn run(program: &Path) -> Result<String, String> {
    let mut child = Command::new(program)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        let mut bounded = stdout.take(EXEC_OUTPUT_MAX);
        bounded
            .read_to_end(&mut output)
            .await
            .map_err(|error| error.to_string())?;
    }
    let status = child.wait().await.map_err(|error| error.to_string())?;
    if !status.success() {
        return Err(status.to_string());
    }
    String::from_utf8(output).map_err(|_| "its output is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn script(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("list-peers");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        (directory, path)
    }

    #[tokio::test]
    async fn a_program_lists_addresses() {
        let (_keep, path) =
            script("echo 10.0.0.1; echo '10.0.0.2:99 # second'; echo; echo 10.0.0.1");
        let mut resolver = Resolver::new(vec![Seed::Exec(path)], 7432);
        let (found, errors) = resolver.resolve().await;
        assert_eq!(errors, []);
        assert_eq!(
            found,
            [
                "10.0.0.1:7432".parse().unwrap(),
                "10.0.0.2:99".parse().unwrap()
            ]
        );
    }

    #[tokio::test]
    async fn a_failing_program_and_nonsense_are_named() {
        for (text, expected) in [("exit 3", "exit status: 3"), ("echo 'a b'", "no address")] {
            let (_keep, path) = script(text);
            let mut resolver = Resolver::new(vec![Seed::Exec(path)], 7432);
            let (found, errors) = resolver.resolve().await;
            assert!(found.is_empty());
            assert!(errors[0].to_string().contains(expected), "{}", errors[0]);
        }
    }
}
