//! A cluster of real nodes, and waiting for what it should come to.
//!
//! Must not know any scenario.

use crate::command::run;
use crate::net::Network;
use crate::node::{DATABASE, Node, NodeConfig};
use crate::stale::{RunLock, lock, run_directory, run_name, sweep};
use anyhow::{Context, Result, bail, ensure};
use pgaa_agent::clock::Clocks;
use pgaa_core::record::EdgeState;
use pgaa_core::state::NodeState;
use pgaa_core::status::StatusReport;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Duration;

/// Runs of this process so far.
static RUNS: AtomicU32 = AtomicU32::new(0);

/// How often a condition is looked at. Each look starts processes on a machine with two cores.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What nodes are called, in this order.
const NAMES: [&str; 9] = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];

/// The name of the cluster.
pub const CLUSTER: &str = "shop";

/// Nodes in a network of their own. Everything is removed when this is dropped: nodes first,
/// then the network, then the directory, then others may run.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    /// The lines between the nodes.
    pub net: Network,
    directory: Directory,
    clocks: Clocks,
    _lock: RunLock,
}

/// The run's directory.
#[derive(Debug)]
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}

impl Cluster {
    /// Makes `count` nodes with configurations that make them one cluster, and starts nothing.
    pub fn prepare(count: usize) -> Result<Cluster> {
        ensure!(
            count <= NAMES.len(),
            "the tests have names for {} nodes",
            NAMES.len()
        );
        let run_lock = lock()?;
        sweep()?;
        let run = run_name(RUNS.fetch_add(1, Ordering::Relaxed));
        let directory = Directory(run_directory(&run));
        fs::create_dir_all(&directory.0)?;
        fs::set_permissions(&directory.0, fs::Permissions::from_mode(0o755))?;
        let agent = agent_binary(&directory.0)?;
        let mut net = Network::create(&run)?;
        let mut nodes = Vec::new();
        for (number, name) in NAMES.iter().take(count).enumerate() {
            let address = address_of(number)?;
            net.plug(name, address)?;
            let namespace = net.namespace(name);
            nodes.push(Node::create(
                name,
                namespace,
                address,
                &directory.0,
                agent.clone(),
            )?);
        }
        let cluster = Cluster {
            nodes,
            net,
            directory,
            clocks: Clocks::start(),
            _lock: run_lock,
        };
        wait_all(cluster.nodes.iter().map(Node::begin_initdb))?;
        for node in &cluster.nodes {
            node.configure(&cluster.config(count))?;
        }
        Ok(cluster)
    }

    /// Makes and starts `count` nodes.
    pub fn start(count: usize) -> Result<Cluster> {
        let cluster = Cluster::prepare(count)?;
        cluster.boot(&cluster.nodes.iter().collect::<Vec<_>>())?;
        Ok(cluster)
    }

    /// The configuration that makes the first `founders` nodes one cluster. Later nodes may have
    /// the same.
    #[must_use]
    pub fn config(&self, founders: usize) -> NodeConfig {
        NodeConfig {
            cluster: CLUSTER.to_owned(),
            expect: founders,
            seeds: self.nodes[..founders]
                .iter()
                .map(|node| node.address().to_string())
                .collect(),
            token: crate::workload::token(1),
            replaces: None,
        }
    }

    /// Boots nodes side by side, in the order of the units on a machine: provision, then
    /// PostgreSQL and the agent.
    pub fn boot(&self, nodes: &[&Node]) -> Result<()> {
        self.provision(nodes)?;
        for node in nodes {
            node.start_postgres()?;
            node.start_agent()?;
        }
        Ok(())
    }

    /// The first step alone.
    pub fn provision(&self, nodes: &[&Node]) -> Result<()> {
        let provisioned = nodes.iter().map(|node| {
            let mut command = node.agent_command(&["provision"]);
            command.spawn().context("provision can't be started")
        });
        wait_all(provisioned)
    }

    /// All nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The nodes by position, for `let [a, b, c] = cluster.each()?`.
    pub fn each<const N: usize>(&self) -> Result<[&Node; N]> {
        let nodes: Vec<&Node> = self.nodes.iter().collect();
        let count = nodes.len();
        nodes
            .try_into()
            .map_err(|_| anyhow::anyhow!("there are {count} nodes, not {N}"))
    }

    /// Gives a node another address, as a DHCP server may at any time.
    pub fn change_address(&self, node: &Node, address: Ipv4Addr) -> Result<()> {
        self.net.set_address(node.name(), address)?;
        node.note_address(address);
        Ok(())
    }

    /// Waits until a condition holds; fails with its last complaint. Returns how long it took.
    pub fn eventually(
        &self,
        within: Duration,
        what: &str,
        condition: impl Fn(&Cluster) -> Result<()>,
    ) -> Result<Duration> {
        let start = self.clocks.mono();
        loop {
            let complaint = match condition(self) {
                Ok(()) => break,
                Err(complaint) => complaint,
            };
            if let Some(dead) = self.nodes.iter().find(|node| node.agent_has_died()) {
                bail!(
                    "the agent of {} ended by itself while waiting for: {what}",
                    dead.name()
                );
            }
            if self.clocks.mono().since(start) > within {
                return Err(complaint.context(format!("not within {within:?}: {what}")));
            }
            sleep(LOOK_EVERY);
        }
        let took = self.clocks.mono().since(start);
        eprintln!("{:>7.2} s  {what}", took.as_secs_f64());
        Ok(took)
    }

    /// Every node is ready, sees all others, and all edges of the full mesh replicate.
    pub fn assembled(&self) -> Result<()> {
        self.assembled_among(&self.nodes.iter().collect::<Vec<_>>())
    }

    /// The same for some of the nodes, whatever the others do.
    pub fn assembled_among(&self, nodes: &[&Node]) -> Result<()> {
        for node in nodes {
            let report = node.status()?;
            full_mesh(&report, nodes.len())
                .with_context(|| format!("{}, {:?}", node.name(), waiting(&report)))?;
        }
        Ok(())
    }

    /// Waits until the cluster is assembled.
    pub fn await_assembly(&self, within: Duration) -> Result<Duration> {
        let what = format!("{} nodes are ready and fully meshed", self.nodes.len());
        self.eventually(within, &what, Cluster::assembled)
    }

    /// Runs the same statements on every node: schema changes aren't replicated.
    pub fn everywhere(&self, statements: &str) -> Result<()> {
        self.nodes
            .iter()
            .try_for_each(|node| node.sql(statements).map(drop))
    }

    /// Every node replicates these tables.
    pub fn replicates(&self, tables: &[&str]) -> Result<()> {
        for node in &self.nodes {
            let report = node.status()?.tables;
            for table in tables {
                ensure!(
                    report.replicated.iter().any(|name| name == table),
                    "{} does not replicate {table}: {:?}",
                    node.name(),
                    report.waiting
                );
            }
        }
        Ok(())
    }

    /// What a person wants to see when a scenario fails, with where to look further.
    #[must_use]
    pub fn portrait(&self) -> String {
        let mut text: String = self.nodes.iter().map(Node::portrait).collect();
        text.push_str(&format!(
            "\ndatabase {DATABASE}, files in {}, namespaces {}\n",
            self.directory.0.display(),
            self.nodes
                .iter()
                .map(|n| self.net.namespace(n.name()))
                .collect::<Vec<_>>()
                .join(" ")
        ));
        text
    }
}

/// Is the mesh complete in the eyes of one node?
pub fn full_mesh(report: &StatusReport, count: usize) -> Result<()> {
    ensure!(
        report.node.state == NodeState::Ready,
        "state is {}",
        report.node.state.word()
    );
    ensure!(report.node.gate_open, "the gate is shut");
    ensure!(
        report.members.len() == count,
        "{} members are known",
        report.members.len()
    );
    for member in &report.members {
        let ready = member.state == Some(NodeState::Ready);
        ensure!(ready, "member {} is {:?}", member.name, member.state);
    }
    let edges = count * (count - 1);
    ensure!(
        report.edges.len() == edges,
        "{} of {edges} edges",
        report.edges.len()
    );
    for edge in &report.edges {
        let name = |id| {
            report
                .members
                .iter()
                .find(|m| m.node == id)
                .map_or("?", |m| &m.name)
        };
        ensure!(
            edge.state == EdgeState::Replicating,
            "edge {} <- {} is {}: {}",
            name(edge.subscriber),
            name(edge.provider),
            edge.state.word(),
            edge.detail
        );
    }
    Ok(())
}

/// What a node waits for.
#[must_use]
pub fn waiting(report: &StatusReport) -> Vec<&str> {
    report
        .waiting_on
        .iter()
        .map(|waiting| waiting.text.as_str())
        .collect()
}

fn address_of(number: usize) -> Result<Ipv4Addr> {
    Ok(Ipv4Addr::new(10, 77, 0, u8::try_from(number + 11)?))
}

/// Starts all, then waits for all: side by side without a thread, because a child ends with the
/// thread that started it.
fn wait_all(children: impl Iterator<Item = Result<Child>>) -> Result<()> {
    let children: Vec<Child> = children.collect::<Result<_>>()?;
    for child in children {
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success(),
            "a child ended with {}",
            output.status
        );
    }
    Ok(())
}

/// The agent under test, copied to where the servers' account can reach it: a checkout below
/// root's home can't be entered by anybody else.
pub fn agent_binary(directory: &std::path::Path) -> Result<PathBuf> {
    let built = built_agent()?;
    let copy = directory.join("pgaa-agent");
    fs::copy(&built, &copy)?;
    run(crate::command::clean(&copy).arg("--version"))
        .with_context(|| format!("{} does not start", built.display()))?;
    Ok(copy)
}

/// The agent that was built last, in the profile of the tests, or the one that is named.
pub fn built_agent() -> Result<PathBuf> {
    let built = match std::env::var_os("PGAA_TEST_AGENT") {
        Some(path) => PathBuf::from(path),
        None => {
            let test = std::env::current_exe()?;
            let profile = test.ancestors().find(|path| path.join("deps").is_dir());
            profile
                .context("no target directory above this test")?
                .join("pgaa-agent")
        }
    };
    ensure!(
        built.exists(),
        "{} is missing: cargo build -p pgaa-agent",
        built.display()
    );
    Ok(built)
}
