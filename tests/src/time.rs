//! Time for the tests: real chronyd in namespaces, which never touch the machine's clock, and
//! servers and agents whose clock is shifted.
//!
//! Must not know any scenario.

use crate::command::{SERVER_USER, call, clean, server_file};
use crate::net::Network;
use crate::node::Node;
use crate::process::Daemon;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// Where `.ci/unpack-chrony` has put chrony: a package that was installed would take the machine's
/// own clock over.
const UNPACKED: &str = "/var/cache/pgaa-tests/chrony";

/// The port of the tests' time servers.
const PORT: u16 = 1123;

/// libfaketime, of the package of that name.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// A program of chrony, "sbin/chronyd" or "bin/chronyc".
pub fn chrony_program(part: &str) -> Result<PathBuf> {
    let path = Path::new(UNPACKED).join("usr").join(part);
    ensure!(
        path.exists(),
        "{} is missing: `make packages` fetches it",
        path.display()
    );
    Ok(path)
}

/// A chronyd that runs without control of any clock, and ends when this is dropped.
#[derive(Debug)]
pub struct Chronyd(Option<Daemon>);

impl Chronyd {
    fn start(namespace: &str, name: &str, node: &Node, settings: &str) -> Result<Chronyd> {
        let at = |end: &str| node.file(&format!("{name}.{end}"));
        let text = format!("{settings}\npidfile {}\n", at("pid").display());
        fs::write(at("conf"), text)?;
        let mut command = clean("ip");
        command.args([
            "netns",
            "exec",
            namespace,
            "setpriv",
            "--pdeathsig=KILL",
            "--",
        ]);
        command.arg(chrony_program("sbin/chronyd")?);
        // -x: no control of the clock; -d: in the foreground.
        command
            .args(["-x", "-d", "-u", "root", "-f"])
            .arg(at("conf"));
        Ok(Chronyd(Some(Daemon::spawn(
            "chronyd",
            &mut command,
            &at("log"),
        )?)))
    }

    /// A server that passes the machine's own clock on as true time, beside a node.
    pub fn serve(net: &Network, node: &Node) -> Result<Chronyd> {
        let settings = format!("local stratum 3\nallow\nport {PORT}\nbindcmdaddress /\ncmdport 0");
        Chronyd::start(&net.namespace(node.name()), "time-server", node, &settings)
    }

    /// The client of a node. What each server says is shifted by so many seconds, as if the
    /// node's clock were that far behind.
    pub fn follow(net: &Network, node: &Node, servers: &[(&Node, f64)]) -> Result<Chronyd> {
        let lines: Vec<String> = servers
            .iter()
            .map(|(server, offset)| {
                let address = server.address();
                format!("server {address} port {PORT} iburst minpoll -2 maxpoll 0 offset {offset}")
            })
            .collect();
        let settings = format!("{}\nport 0\nbindcmdaddress 127.0.0.1", lines.join("\n"));
        Chronyd::start(&net.namespace(node.name()), "time-client", node, &settings)
    }
}

impl Drop for Chronyd {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(Daemon::kill9) {
            eprintln!("a chronyd stays: {error:#}");
        }
    }
}

/// The environment of programs whose clock is shifted by what the file says. Clocks that nobody
/// can set stay as they are.
#[must_use]
pub fn shifted_by(file: &Path) -> Vec<String> {
    vec![
        format!("LD_PRELOAD={FAKETIME}"),
        format!("FAKETIME_TIMESTAMP_FILE={}", file.display()),
        "DONT_FAKE_MONOTONIC=1".to_owned(),
        // Seconds between two looks at the file.
        "FAKETIME_CACHE_DURATION=1".to_owned(),
    ]
}

/// The library leaves what it shares between processes when its process is killed, and a later one
/// of the same number could not open it.
fn sweep() -> Result<()> {
    for entry in fs::read_dir("/dev/shm")? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let named = ["sem.faketime_sem_", "faketime_shm_"];
        let pid = named.iter().find_map(|start| name.strip_prefix(start));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Writes by how many seconds a clock is shifted; running programs see it within a second.
pub fn shift(file: &Path, seconds: f64) -> Result<()> {
    sweep()?;
    // A reader must never see half of it.
    let new = file.with_extension("new");
    server_file(&new, &format!("{seconds:+.6}\n"), 0o644)
        .with_context(|| format!("of {SERVER_USER}"))?;
    call("mv", &[&new.to_string_lossy(), &file.to_string_lossy()]).map(drop)
}
