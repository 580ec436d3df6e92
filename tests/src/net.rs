//! A network of namespaces: one bridge in a namespace of its own, and a cable to each node.
//!
//! Cuts are made at the bridge, by cable and direction, so that they hold whatever address a node
//! has. Must not know what runs in the namespaces.

use crate::command::{call, clean};
use crate::stale::remove_namespace;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::io::Write;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The network of one run; removed when dropped.
#[derive(Debug)]
pub struct Network {
    run: String,
    nodes: Vec<String>,
    /// (from, to) by node name.
    cuts: Mutex<BTreeSet<(String, String)>>,
}

impl Network {
    /// Makes the bridge.
    pub fn create(run: &str) -> Result<Network> {
        let network = Network {
            run: run.to_owned(),
            nodes: Vec::new(),
            cuts: Mutex::new(BTreeSet::new()),
        };
        let switch = network.switch();
        call("ip", &["netns", "add", &switch]).context(
            "network namespaces can't be made: run the integration tests as root (`make test`)",
        )?;
        // Without spanning tree and snooping a cable works the moment it is plugged in.
        call(
            "ip",
            &[
                "-n",
                &switch,
                "link",
                "add",
                "br0",
                "type",
                "bridge",
                "stp_state",
                "0",
            ],
        )?;
        call("ip", &["-n", &switch, "link", "set", "br0", "up"])?;
        Ok(network)
    }

    /// Adds a namespace with one interface, `eth0`, that has `address`.
    pub fn plug(&mut self, node: &str, address: Ipv4Addr) -> Result<()> {
        let (switch, namespace) = (self.switch(), self.namespace(node));
        call("ip", &["netns", "add", &namespace])?;
        self.nodes.push(node.to_owned());
        let cable = cable(node);
        call(
            "ip",
            &[
                "link", "add", "eth0", "netns", &namespace, "type", "veth", "peer", "name", &cable,
                "netns", &switch,
            ],
        )?;
        call(
            "ip",
            &["-n", &switch, "link", "set", &cable, "master", "br0", "up"],
        )?;
        call("ip", &["-n", &namespace, "link", "set", "lo", "up"])?;
        call("ip", &["-n", &namespace, "link", "set", "eth0", "up"])?;
        self.set_address(node, address)
    }

    /// The namespace of a node.
    #[must_use]
    pub fn namespace(&self, node: &str) -> String {
        format!("{}-{node}", self.run)
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.run)
    }

    /// Takes all addresses from a node and gives it this one, as a DHCP server would.
    pub fn set_address(&self, node: &str, address: Ipv4Addr) -> Result<()> {
        let namespace = self.namespace(node);
        call(
            "ip",
            &["-n", &namespace, "-4", "addr", "flush", "dev", "eth0"],
        )?;
        let with_prefix = format!("{address}/24");
        call(
            "ip",
            &["-n", &namespace, "addr", "add", &with_prefix, "dev", "eth0"],
        )
        .map(drop)
    }

    /// Cuts the line between two nodes in both directions.
    pub fn cut(&self, a: &str, b: &str) -> Result<()> {
        let mut cuts = self.lock();
        cuts.insert((a.to_owned(), b.to_owned()));
        cuts.insert((b.to_owned(), a.to_owned()));
        self.apply(&cuts)
    }

    /// Drops what `from` sends to `to`; the other direction stays.
    pub fn cut_one_way(&self, from: &str, to: &str) -> Result<()> {
        let mut cuts = self.lock();
        cuts.insert((from.to_owned(), to.to_owned()));
        self.apply(&cuts)
    }

    /// Cuts every line between nodes of different groups.
    pub fn partition(&self, groups: &[&[&str]]) -> Result<()> {
        let mut cuts = self.lock();
        for (number, group) in groups.iter().enumerate() {
            for other in groups[number + 1..].iter().flat_map(|group| group.iter()) {
                for node in *group {
                    cuts.insert(((*node).to_owned(), (*other).to_owned()));
                    cuts.insert(((*other).to_owned(), (*node).to_owned()));
                }
            }
        }
        self.apply(&cuts)
    }

    /// Cuts a node off from all others.
    pub fn isolate(&self, node: &str) -> Result<()> {
        let others: Vec<&str> = self
            .nodes
            .iter()
            .map(String::as_str)
            .filter(|other| *other != node)
            .collect();
        self.partition(&[&[node], &others])
    }

    /// What a node sends to a port of its own is dropped or rejected, as nftables has it ("drop",
    /// "reject with tcp reset"); by `None` it arrives again.
    pub fn block_port(&self, node: &str, port: u16, how: Option<&str>) -> Result<()> {
        let rule = how.map_or_else(String::new, |how| format!("  tcp dport {port} {how}\n"));
        let rules = format!(
            "table inet ports\ndelete table inet ports\ntable inet ports {{\n chain input {{\n  \
             type filter hook input priority 0; policy accept;\n{rule} }}\n}}\n"
        );
        nft(&self.namespace(node), &rules)
    }

    /// Undoes every cut.
    pub fn heal(&self) -> Result<()> {
        let mut cuts = self.lock();
        cuts.clear();
        self.apply(&cuts)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<(String, String)>> {
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the bridge's table by the current cuts in one transaction of nftables.
    fn apply(&self, cuts: &BTreeSet<(String, String)>) -> Result<()> {
        let mut rules = String::from(
            "table bridge cuts\ndelete table bridge cuts\ntable bridge cuts {\n chain forward {\n  \
             type filter hook forward priority 0; policy accept;\n",
        );
        for (from, to) in cuts {
            let (from, to) = (cable(from), cable(to));
            rules.push_str(&format!("  iifname \"{from}\" oifname \"{to}\" drop\n"));
        }
        rules.push_str(" }\n}\n");
        nft(&self.switch(), &rules)
    }
}

/// Has a namespace take these rules, in one transaction.
fn nft(namespace: &str, rules: &str) -> Result<()> {
    let mut child = clean("ip")
        .args(["netns", "exec", namespace, "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("nft can't be started")?;
    child
        .stdin
        .take()
        .context("nft has no standard input")?
        .write_all(rules.as_bytes())?;
    ensure!(child.wait()?.success(), "nft refused:\n{rules}");
    Ok(())
}

/// The name of the bridge's end of a node's cable. Interface names have 15 characters at most,
/// and the names of nodes in tests are short.
fn cable(node: &str) -> String {
    format!("to-{node}")
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in self
            .nodes
            .iter()
            .map(|node| self.namespace(node))
            .chain([self.switch()])
        {
            if let Err(error) = remove_namespace(&namespace) {
                eprintln!("namespace {namespace} stays: {error:#}");
            }
        }
    }
}
