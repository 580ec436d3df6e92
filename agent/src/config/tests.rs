//! Golden texts of every kind of mistake, and of what a good configuration becomes.

use super::*;
use pgaa_core::policy::FoundingSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

const SMALLEST: &str = r#"
[cluster]
name = "shop"
expect = 3
seeds = ["10.0.0.11", "10.0.0.12", "10.0.0.13"]

[postgres]
database = "shop"
"#;

/// A machine with these files and variables.
struct Machine {
    root: tempfile::TempDir,
    variables: Vec<(OsString, OsString)>,
}

impl Machine {
    fn new(files: &[(&str, &str)]) -> Machine {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Machine {
            root,
            variables: Vec::new(),
        }
    }

    fn with(mut self, variable: &str, value: &str) -> Machine {
        self.variables.push((variable.into(), value.into()));
        self
    }

    fn load_from(&self, sources: Sources) -> Result<Loaded, ConfigError> {
        let surroundings = Surroundings {
            root: self.root.path().to_owned(),
            host_name: "Node_1.example.com".to_owned(),
            credentials_dir: Some("/run/credentials/pgaa".into()),
        };
        load(
            &sources.with_variables(self.variables.clone()),
            &surroundings,
        )
    }

    fn load(&self) -> Result<Loaded, ConfigError> {
        self.load_from(Sources::of_machine(self.root.path()))
    }

    /// What is said, with the machine's root cut off.
    fn error(&self) -> String {
        let text = self.load().unwrap_err().to_string();
        text.replace(&self.root.path().display().to_string(), "")
    }
}

fn main_file(text: &str) -> Machine {
    Machine::new(&[("etc/pgaa/agent.toml", text)])
}

/// The smallest configuration, changed.
fn changed(from: &str, to: &str) -> Machine {
    assert!(SMALLEST.contains(from), "{from}");
    main_file(&SMALLEST.replace(from, to))
}

#[test]
fn the_smallest_configuration_is_enough() {
    let loaded = main_file(SMALLEST).load().unwrap();
    let settings = loaded.settings;
    assert_eq!(settings.policy.cluster_name.as_str(), "shop");
    assert_eq!((settings.policy.expect, settings.policy.max_nodes), (3, 16));
    let founders = ["10.0.0.11:7432", "10.0.0.12:7432", "10.0.0.13:7432"];
    let founders = founders.iter().map(|text| text.parse().unwrap()).collect();
    assert_eq!(
        settings.policy.founding_set,
        FoundingSet::Addresses(founders)
    );
    assert_eq!(settings.policy.founding_wait, Duration::from_secs(60));
    assert_eq!(settings.node.name.as_str(), "node-1");
    let tokens: [&Path; 2] = [
        Path::new("/run/credentials/pgaa/pgaa.token"),
        Path::new("/etc/pgaa/token"),
    ];
    assert_eq!(settings.token_files, tokens);
    assert_eq!(
        settings.network.http,
        Some("127.0.0.1:7433".parse().unwrap())
    );
    assert_eq!(
        settings.paths.agent_socket(),
        Path::new("/run/pgaa/agent.sock")
    );
    assert_eq!(loaded.warnings, []);
}

#[test]
fn later_layers_win_key_by_key() {
    let machine = Machine::new(&[
        (
            "usr/lib/pgaa/agent.d/10-vendor.toml",
            "[log]\nlevel = \"debug\"\n[node]\nsite = \"v\"\n",
        ),
        ("etc/pgaa/agent.toml", SMALLEST),
        ("etc/pgaa/agent.d/50-site.toml", "[node]\nsite = \"a\"\n"),
        ("etc/pgaa/agent.d/60-site.toml", "node.site = \"b\"\n"),
        ("etc/pgaa/agent.d/.hidden.toml", "nonsense"),
        ("etc/pgaa/agent.d/60-site.toml.bak", "nonsense"),
    ])
    .with("PGAA_CLUSTER__SEEDS", "db.example, exec:/bin/list")
    .with("PGAA_CLUSTER__EXPECT", "5")
    .with("PGAA_SOCKET", "/somewhere");
    let Loaded {
        settings, merged, ..
    } = machine.load().unwrap();
    assert_eq!(settings.node.site, "b");
    assert_eq!(settings.log.level, log::LevelFilter::Debug);
    assert_eq!(settings.policy.expect, 5);
    assert_eq!(settings.policy.founding_set, FoundingSet::Any);
    assert_eq!(settings.seeds.len(), 2);
    let shown = show(&merged, true).replace(&machine.root.path().display().to_string(), "");
    for line in [
        "expect = 5                                   # environment PGAA_CLUSTER__EXPECT",
        "site = \"b\"                                   # /etc/pgaa/agent.d/60-site.toml:1",
        "level = \"debug\"                              # /usr/lib/pgaa/agent.d/10-vendor.toml:2",
        "grpc_port = 7432                             # default",
    ] {
        assert!(
            shown.lines().any(|shown| shown == line),
            "no line {line:?} in\n{shown}"
        );
    }
}

#[test]
fn all_problems_are_told_at_once_with_file_line_key_and_near_miss() {
    let machine = Machine::new(&[
        (
            "etc/pgaa/agent.toml",
            "[cluster]\nname = \"Shop_1\"\nexpct = 3\nmax_nodes = \"many\"\n\
             [postgress]\ndatabase = \"x\"\n[network]\nprofile = \"wlan\"\ngrpc_port = 0\n\
             seeds = []\n",
        ),
        (
            "etc/pgaa/agent.d/1.toml",
            "[paths]\nstate_dir = \"pgaa\"\n[log]\nlevel = 3\n",
        ),
    ])
    .with("PGAA_NODE__NAM", "x")
    .with("PGAA_NETWORK__HTTP", "localhost")
    .with("PGAA_POSTGRES__PORT", "many");
    let expected = r#"13 problems in the configuration:
  /etc/pgaa/agent.toml:3: cluster.expct: unknown key; did you mean cluster.expect?
  /etc/pgaa/agent.toml:4: cluster.max_nodes: must be a whole number from 1 to 48, not the string "many"
  /etc/pgaa/agent.toml:5: [postgress]: unknown section; did you mean [postgres]?
  /etc/pgaa/agent.toml:8: network.profile: must be one of "lan", "wan", not "wlan"; did you mean "wan"?
  /etc/pgaa/agent.toml:9: network.grpc_port: must be a whole number from 1 to 65535, not 0
  /etc/pgaa/agent.toml:10: network.seeds: unknown key; did you mean cluster.seeds?
  /etc/pgaa/agent.d/1.toml:2: paths.state_dir: must be an absolute path, not "pgaa": a daemon has no directory to start from
  /etc/pgaa/agent.d/1.toml:4: log.level: must be one of "off", "error", "warn", "info", "debug", "trace", not 3
  environment PGAA_NODE__NAM: node.nam: unknown key; did you mean PGAA_NODE__NAME?
  environment PGAA_POSTGRES__PORT: postgres.port: must be a whole number from 1 to 65535, not "many"
  /etc/pgaa/agent.toml: postgres.database: must be set; add database = "shop" below [postgres]
  environment PGAA_NETWORK__HTTP: network.http: "localhost" is not an address with a port like "127.0.0.1:7433", nor "off"
  /etc/pgaa/agent.toml:2: cluster.name: "Shop_1" is not a valid name: use 1 to 32 characters of a-z, 0-9 and '-'; did you mean "shop-1"?"#;
    assert_eq!(machine.error(), expected);
}

#[test]
fn impossible_values_are_refused() {
    for (from, to, expected) in [
        (
            "expect = 3",
            "expect = 0",
            "/etc/pgaa/agent.toml:4: cluster.expect: must be a whole number from 1 to 48, not 0",
        ),
        (
            "expect = 3",
            "expect = 5\nmax_nodes = 4",
            "/etc/pgaa/agent.toml:4: cluster.expect: 5 nodes can't found a cluster of at most 4 \
             (cluster.max_nodes)",
        ),
        (
            "expect = 3",
            "expect = 2",
            "/etc/pgaa/agent.toml:5: cluster.seeds: 3 addresses, but only 2 nodes found the \
             cluster: two of them could found one each; name 2, or set cluster.expect = 3",
        ),
        (
            "\"10.0.0.13\"",
            "\"10.0.0.11:7432\"",
            "/etc/pgaa/agent.toml:5: cluster.seeds: \"10.0.0.11:7432\" is listed twice",
        ),
        (
            "seeds = [\"10.0.0.11\", \"10.0.0.12\", \"10.0.0.13\"]",
            "",
            "/etc/pgaa/agent.toml: cluster.seeds: must name where the other 2 nodes are found",
        ),
        (
            "database = \"shop\"",
            "database = \"template1\"",
            "/etc/pgaa/agent.toml:8: postgres.database: \"template1\" is a template; name another",
        ),
        (
            "database = \"shop\"",
            "database = \"shop\"\nport = 7432",
            "/etc/pgaa/agent.toml: network.grpc_port: 7432 is PostgreSQL's port",
        ),
        (
            "database = \"shop\"",
            "database = \"shop\"\nmesh_role = \"postgres\"",
            "/etc/pgaa/agent.toml:9: postgres.mesh_role: must not be postgres.superuser: \
             forgetting a node closes the mesh role's sessions",
        ),
        (
            "[postgres]",
            "[network]\nadvertise = \"0.0.0.0\"\n[postgres]",
            "/etc/pgaa/agent.toml:8: network.advertise: no other node can reach this address",
        ),
        (
            "[postgres]",
            "network = 3\n[postgres]",
            "/etc/pgaa/agent.toml:7: cluster.network: unknown key; \"pgaa-agent config show\" \
             lists all there are",
        ),
    ] {
        assert_eq!(changed(from, to).error(), expected, "with {to}");
    }
}

#[test]
fn a_file_that_is_no_toml_or_not_there_is_named() {
    let error = changed("expect = 3", "expect = 3 3").error();
    assert!(
        error.starts_with("/etc/pgaa/agent.toml:4: not valid TOML: "),
        "{error}"
    );
    let machine = main_file(SMALLEST);
    let error = machine
        .load_from(Sources::single(Path::new("/no/such")))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("/no/such: cannot be read: No such file"),
        "{error}"
    );
}

#[test]
fn a_repository_needs_what_belongs_to_it() {
    let with = |backup: &str| main_file(&format!("{SMALLEST}[backup]\n{backup}\n"));
    let settings = with("repository = \"posix\"\npath = \"/r\"")
        .load()
        .unwrap()
        .settings;
    assert!(settings.policy.backup.enabled);
    assert!(settings.backup.schedules.full.is_some());
    assert!(settings.backup.schedules.incremental.is_none());
    assert!(
        !main_file(SMALLEST)
            .load()
            .unwrap()
            .settings
            .policy
            .backup
            .enabled
    );
    for (backup, expected) in [
        (
            "repository = \"posix\"",
            "/etc/pgaa/agent.toml: backup.path: must be set for posix: a directory that all nodes share",
        ),
        (
            "repository = \"s3\"\nendpoint = \"e\"\nkey_id = \"i\"",
            "/etc/pgaa/agent.toml: backup.bucket: must be set for s3: the bucket",
        ),
        (
            "repository = \"gcs\"\nbucket = \"b\"\nkey_type = \"sas\"",
            "/etc/pgaa/agent.toml:12: backup.key_type: must be one of service, auto, token for gcs",
        ),
        (
            "options = [\"repo1-s3-key-secret=hunter2\"]",
            "/etc/pgaa/agent.toml:10: backup.options: repo1-s3-key-secret is a secret: put it into a \
             file, and name that in backup.key_file or backup.cipher_file",
        ),
        (
            "options = [\"log-path=/x\"]",
            "/etc/pgaa/agent.toml:10: backup.options: log-path is set by the agent and can't be changed",
        ),
    ] {
        assert_eq!(with(backup).error(), expected, "with {backup}");
    }
    let error = with("full = \"61 1 * * 0\"").error();
    assert!(
        error.contains("backup.full: \"61 1 * * 0\" is no schedule: "),
        "{error}"
    );
}

#[test]
fn http_for_everybody_is_a_warning() {
    let loaded = main_file(SMALLEST)
        .with("PGAA_NETWORK__HTTP", "0.0.0.0:7433")
        .load()
        .unwrap();
    let [warning] = loaded.warnings.as_slice() else {
        panic!("{:?}", loaded.warnings)
    };
    assert_eq!(warning.key, "network.http");
}

#[test]
fn the_local_cluster_is_found_and_two_are_not_guessed_between() {
    let one = (
        "etc/postgresql/15/main/postgresql.conf",
        "port = 5440\ndata_directory = '/srv/pg'\n",
    );
    let config = ("etc/pgaa/agent.toml", SMALLEST);
    let machine = Machine::new(&[one, config]);
    let postgres = machine.load().unwrap().settings.postgres;
    assert_eq!(postgres.data_dir, Path::new("/srv/pg"));
    assert_eq!(
        postgres.config_dir,
        machine.root.path().join("etc/postgresql/15/main")
    );
    assert_eq!(postgres.port, 5440);
    let two = (
        "etc/postgresql/16/x/postgresql.conf",
        "data_directory = '/srv/x'\n",
    );
    let machine = Machine::new(&[one, two, config]);
    let expected = "/etc/pgaa/agent.toml: postgres.data_dir: must be set: this machine has /srv/pg \
                    and /srv/x";
    assert_eq!(machine.error(), expected);
    let postgres = machine
        .with("PGAA_POSTGRES__DATA_DIR", "/srv/x")
        .load()
        .unwrap()
        .settings
        .postgres;
    assert_eq!(postgres.config_dir.file_name().unwrap(), "x");
    assert!(
        postgres.bin_dir.ends_with("postgresql/16/bin"),
        "{postgres:?}"
    );
}

#[test]
fn a_bare_data_directory_holds_its_own_configuration() {
    let machine = main_file(SMALLEST).with("PGAA_POSTGRES__DATA_DIR", "/srv/bare");
    let postgres = machine.load().unwrap().settings.postgres;
    assert_eq!(postgres.config_dir, Path::new("/srv/bare"));
}

#[test]
fn the_sample_file_is_a_valid_configuration() {
    main_file(&sample()).load().unwrap();
    let uncommented: String = sample()
        .lines()
        .map(|line| {
            line.strip_prefix("# ")
                .filter(|rest| is_setting(rest))
                .unwrap_or(line)
        })
        .map(|line| format!("{line}\n"))
        .collect();
    main_file(&uncommented).load().unwrap();
}

fn is_setting(line: &str) -> bool {
    keys::KEYS
        .iter()
        .any(|key| line == format!("{} = {}", key.parts().1, key.example))
}

#[test]
fn nothing_that_is_read_makes_it_panic() {
    let hostile = [
        "\u{0}",
        "[",
        "[[cluster]]",
        "cluster = 3",
        "cluster.name.x = 1",
        "a.b.c = 2",
        "[cluster]\nseeds = [1]",
        "[cluster]\nname = 1e400",
        "\"\" = 1",
        "[\"\"]\n\"\" = {}",
    ];
    for text in hostile {
        assert!(main_file(text).load().is_err(), "{text:?} was taken");
    }
}
