//! The files of one node: the agent's configuration, and what a small server needs.
//!
//! Pure text; must not write it.

use super::place::{NodePlace, Place};
use super::ports::Ports;
use super::state::{CLUSTER, DATABASE, DemoNode, DemoState};
use std::path::Path;
use toml_edit::{Array, DocumentMut, Item, Table, value};

/// Added to a server's postgresql.conf: several of them share one machine. Data stays as safe as
/// with the defaults.
pub const SMALL_SERVER: &str = "\n# For the demo: several servers share this machine.\n\
    shared_buffers = 16MB\nmax_wal_size = 256MB\nmin_wal_size = 32MB\n";

/// The agent's configuration.
#[must_use]
pub fn agent_config(state: &DemoState, node: &DemoNode, place: &Place) -> String {
    let at = place.node(&node.name);
    let mut file = DocumentMut::new();
    file["cluster"] = Item::Table(cluster(state, place));
    file["node"] = Item::Table(section([("name", value(&node.name))]));
    file["postgres"] = Item::Table(postgres(state, node, &at));
    file["network"] = Item::Table(network(node.ports));
    file["paths"] = Item::Table(section([
        ("state_dir", path(&at.state())),
        ("run_dir", path(&at.run())),
    ]));
    file.to_string()
}

fn section<const N: usize>(entries: [(&str, Item); N]) -> Table {
    Table::from_iter(entries)
}

fn path(path: &Path) -> Item {
    // `Place` refuses directories that aren't UTF-8.
    value(path.to_string_lossy().into_owned())
}

fn cluster(state: &DemoState, place: &Place) -> Table {
    section([
        ("name", value(CLUSTER)),
        (
            "expect",
            value(i64::try_from(state.founders).unwrap_or(i64::MAX)),
        ),
        ("seeds", value(Array::from_iter(state.seeds()))),
        ("token_file", path(&place.token_file())),
    ])
}

fn postgres(state: &DemoState, node: &DemoNode, at: &NodePlace) -> Table {
    let pg_ctl = state.bin_dir.join("pg_ctl").to_string_lossy().into_owned();
    let data = at.data().to_string_lossy().into_owned();
    let restart = [
        pg_ctl.as_str(),
        "restart",
        "--wait",
        "--mode=fast",
        "--pgdata",
        data.as_str(),
    ];
    section([
        ("database", value(DATABASE)),
        ("data_dir", path(&at.data())),
        ("config_dir", path(&at.data())),
        ("bin_dir", path(&state.bin_dir)),
        ("socket_dir", path(&at.sockets())),
        ("port", value(i64::from(node.ports.postgres))),
        ("superuser", value("postgres")),
        ("restart_command", value(Array::from_iter(restart))),
    ])
}

fn network(ports: Ports) -> Table {
    section([
        ("listen", value("127.0.0.1")),
        ("advertise", value("127.0.0.1")),
        ("grpc_port", value(i64::from(ports.grpc))),
        ("gossip_port", value(i64::from(ports.grpc))),
        ("http", value(Ports::local(ports.http).to_string())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Seed, Sources, Surroundings, load};
    use crate::postgres::owner::Owner;
    use pgaa_core::policy::FoundingSet;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// A space, because such a directory is allowed, and the longest number of nodes.
    #[test]
    fn the_agent_reads_what_is_written() {
        let parent = tempfile::tempdir().unwrap();
        fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let directory = parent.path().join("a demo");
        let place = Place::create(Some(&directory), &Owner::of(&directory).unwrap()).unwrap();
        let ports = |n: u16| Ports {
            postgres: 10 * n,
            grpc: 10 * n + 1,
            http: 10 * n + 2,
        };
        let founders: Vec<Ports> = (1..=9).map(ports).collect();
        let mut state = DemoState::new("/pg/bin".into(), "/x".into(), &founders);
        state.append(ports(10));
        let node = &state.nodes[9];
        let at = place.node(&node.name);
        fs::write(&at.config, agent_config(&state, node, &place)).unwrap();
        let sources = Sources::single(&at.config);
        let settings = load(&sources, &Surroundings::of_machine(&sources))
            .unwrap()
            .settings;
        assert_eq!(settings.node.name.as_str(), "n10");
        assert_eq!(settings.policy.expect, 9);
        assert!(matches!(&settings.policy.founding_set, FoundingSet::Addresses(a) if a.len() == 9));
        assert_eq!(settings.seeds[8], Seed::Address(Ports::local(91)));
        assert_eq!(settings.token_files, [place.token_file()]);
        assert_eq!(settings.paths.agent_socket(), at.agent_socket());
        assert_eq!(settings.postgres.data_dir, at.data());
        assert_eq!(settings.postgres.config_dir, at.data());
        assert_eq!(
            (settings.postgres.port, settings.network.grpc_port),
            (100, 101)
        );
        assert_eq!(settings.network.gossip_port, 101);
        assert_eq!(settings.network.http, Some(Ports::local(102)));
    }
}
