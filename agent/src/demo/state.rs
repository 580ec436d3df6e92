//! What the demo knows of itself, kept in `DIR/demo.json`, and what it prints of it for programs.
//!
//! Plain data; must not look at the machine.

use super::place::Place;
use super::ports::Ports;
use super::processes::Mark;
use crate::durable;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::PathBuf;

/// The database that the demo replicates.
pub const DATABASE: &str = "demo";
/// The role of the psql lines.
pub const ROLE: &str = "demo";
/// The cluster's name.
pub const CLUSTER: &str = "demo";
/// Version of both documents.
const SCHEMA_VERSION: u32 = 1;

/// The password of the demo's role. Has no `Debug`: it is printed where it was asked for only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Password(String);

impl Password {
    /// 128 random bits in hexadecimal digits, which need no quoting anywhere.
    #[must_use]
    pub fn random() -> Password {
        Password(format!("{:032x}", rand::random::<u128>()))
    }

    /// The text.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemoNode {
    /// "n1", "n2", ...
    pub name: String,
    /// Its ports.
    pub ports: Ports,
    /// Its agent, once started.
    pub agent: Option<Mark>,
    /// Its server's postmaster, once started.
    pub server: Option<Mark>,
}

/// Everything the demo knows of itself.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemoState {
    schema_version: u32,
    /// Where PostgreSQL's programs lie.
    pub bin_dir: PathBuf,
    /// The agent's program, as it was started.
    pub program: PathBuf,
    /// Of the role in the psql lines.
    pub password: Password,
    /// How many of the nodes, from the first, found the cluster.
    pub founders: usize,
    /// The number in the newest name: no name is used twice while the demo lives.
    last_number: u16,
    /// The nodes.
    pub nodes: Vec<DemoNode>,
}

impl DemoState {
    /// A demo that hasn't started yet.
    #[must_use]
    pub fn new(bin_dir: PathBuf, program: PathBuf, ports: &[Ports]) -> DemoState {
        let mut state = DemoState {
            schema_version: SCHEMA_VERSION,
            bin_dir,
            program,
            password: Password::random(),
            founders: ports.len(),
            last_number: 0,
            nodes: Vec::new(),
        };
        for ports in ports {
            state.append(*ports);
        }
        state
    }

    /// Adds a node, which isn't started yet, and returns its index.
    pub fn append(&mut self, ports: Ports) -> usize {
        self.last_number = self.last_number.saturating_add(1);
        let name = format!("n{}", self.last_number);
        self.nodes.push(DemoNode {
            name,
            ports,
            agent: None,
            server: None,
        });
        self.nodes.len() - 1
    }

    /// Reads it; `None` where the demo broke off before it was written.
    pub fn read(place: &Place) -> Result<Option<DemoState>> {
        Ok(durable::read_json(&place.state_file())?)
    }

    /// Reads it where there has to be one.
    pub fn of(place: &Place) -> Result<DemoState> {
        DemoState::read(place)?.with_context(|| {
            let shown = place.directory().display();
            format!(
                "the demo in {shown} never started; pgaa-agent demo down --dir {shown} removes it"
            )
        })
    }

    /// Writes it.
    pub fn write(&self, place: &Place) -> Result<()> {
        Ok(durable::write_json(&place.state_file(), self)?)
    }

    /// The gRPC addresses of the founders: the seeds of every node, the later ones' as well.
    #[must_use]
    pub fn seeds(&self) -> Vec<String> {
        let founders = self.nodes.iter().take(self.founders);
        founders
            .map(|node| Ports::local(node.ports.grpc).to_string())
            .collect()
    }

    /// What psql and other programs connect with.
    #[must_use]
    pub fn dsn(&self, node: &DemoNode) -> String {
        let server = Ports::local(node.ports.postgres);
        format!(
            "postgresql://{ROLE}:{}@{server}/{DATABASE}",
            self.password.reveal()
        )
    }

    /// The document for programs.
    #[must_use]
    pub fn document(&self, place: &Place) -> serde_json::Value {
        let node = |node: &DemoNode| {
            let at = place.node(&node.name);
            json!({
                "name": node.name,
                "dsn": self.dsn(node),
                "socket": at.agent_socket(),
                "agent_pid": node.agent.map(|mark| mark.pid),
                "data_dir": at.data(),
                "grpc": Ports::local(node.ports.grpc).to_string(),
                "http": Ports::local(node.ports.http).to_string(),
            })
        };
        json!({
            "schema_version": SCHEMA_VERSION,
            "dir": place.directory(),
            "nodes": self.nodes.iter().map(node).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::owner::Owner;
    use std::os::unix::fs::PermissionsExt;

    fn ports(first: u16) -> Ports {
        Ports {
            postgres: first,
            grpc: first + 1,
            http: first + 2,
        }
    }

    fn state() -> DemoState {
        DemoState::new(
            "/bin".into(),
            "/x/pgaa-agent".into(),
            &[ports(10), ports(20)],
        )
    }

    #[test]
    fn nodes_are_numbered_on_and_seeds_stay_the_founders() {
        let mut state = state();
        assert_eq!(state.append(ports(30)), 2);
        let names: Vec<&str> = state.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["n1", "n2", "n3"]);
        assert_eq!(state.seeds(), ["127.0.0.1:11", "127.0.0.1:21"]);
    }

    #[test]
    fn the_document_has_the_promised_fields() {
        let parent = tempfile::tempdir().unwrap();
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(parent.path(), mode).unwrap();
        let directory = parent.path().join("d");
        let place = Place::create(Some(&directory), &Owner::of(&directory).unwrap()).unwrap();
        let mut state = state();
        state.nodes[0].agent = Some(Mark {
            pid: 7,
            start_ticks: 9,
        });
        let document = state.document(&place);
        let keys = |value: &serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        assert_eq!(keys(&document), ["schema_version", "dir", "nodes"]);
        let node = &document["nodes"][0];
        assert_eq!(
            keys(node),
            [
                "name",
                "dsn",
                "socket",
                "agent_pid",
                "data_dir",
                "grpc",
                "http"
            ]
        );
        let password = state.password.reveal();
        assert_eq!(
            node["dsn"],
            format!("postgresql://demo:{password}@127.0.0.1:10/demo")
        );
        assert_eq!(
            node["socket"],
            directory.join("n1/run/agent.sock").to_str().unwrap()
        );
        assert_eq!(node["agent_pid"], 7);
        assert_eq!(
            (&node["grpc"], &node["http"]),
            (&json!("127.0.0.1:11"), &json!("127.0.0.1:12"))
        );
        state.write(&place).unwrap();
        let mode = std::fs::metadata(place.state_file())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(DemoState::of(&place).unwrap() == state);
    }

    #[test]
    fn passwords_are_long_and_differ() {
        let (one, other) = (Password::random(), Password::random());
        assert!(one != other);
        assert!(one.reveal().len() == 32 && one.reveal().chars().all(|c| c.is_ascii_hexdigit()));
    }
}
