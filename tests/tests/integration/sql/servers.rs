//! Bare servers on loopback, each with a certificate of its own: no agent, no namespaces.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pgaa_agent::config::{
    ClockSettings, LogSettings, NetworkProfile, NetworkSettings, NodeSettings, PathSettings,
    PostgresSettings, Settings,
};
use pgaa_agent::postgres::Postgres;
use pgaa_agent::postgres::conninfo::Remote;
use pgaa_core::ids::{Name, NodeId};
use pgaa_core::policy::{ConflictResolution, FoundingSet, Policy, SlotPolicy};
use pgaa_tests::command::{as_server, call, run, server_directory, server_file, tail};
use pgaa_tests::node::SERVER_BIN;
use pgaa_tests::process::Daemon;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use uuid::Uuid;

pub const DATABASE: &str = "o'shop \\ x";
pub const MESH_ROLE: &str = "pgaa";

/// Several servers; stopped and removed when dropped.
pub struct Servers {
    directory: TempDir,
    pub all: Vec<Server>,
}

pub struct Server {
    pub node: NodeId,
    pub postgres: Postgres,
    directory: PathBuf,
    port: u16,
    process: Option<Daemon>,
}

impl Servers {
    /// Makes and starts `count` servers whose pg_ident.conf lets every one of them in.
    pub fn start(count: usize) -> Result<Servers> {
        let directory = tempfile::Builder::new().prefix("pgaa-sql-").tempdir()?;
        server_directory(directory.path(), 0o755)?;
        let root = directory.path();
        openssl(
            root,
            &format!(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
            -days 2 -subj /CN=ca -keyout {0}/ca.key -out {0}/ca.crt",
                root.display()
            ),
        )?;
        let nodes: Vec<NodeId> = (0..count).map(|_| NodeId(Uuid::new_v4())).collect();
        let all = nodes.iter().map(|node| Server::create(root, *node, &nodes));
        let mut servers = Servers {
            all: all.collect::<Result<_>>()?,
            directory,
        };
        for server in &mut servers.all {
            server.start()?;
        }
        Ok(servers)
    }

    /// How `provider` is reached by `subscriber`.
    pub fn conninfo(&self, subscriber: usize, provider: usize) -> Result<String> {
        let (from, to) = (&self.all[subscriber], &self.all[provider]);
        let remote = Remote {
            node: to.node,
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), to.port),
            database: DATABASE,
            role: MESH_ROLE,
            cert: &from.directory.join("node.crt"),
            key: &from.directory.join("node.key"),
            ca: &from.directory.join("ca.crt"),
        };
        Ok(remote.conninfo()?)
    }

    /// What the servers wrote last, for a failed test.
    pub fn logs(&self) -> String {
        let log = |server: &Server| tail(&server.directory.join("log"), 25);
        self.all.iter().map(log).collect::<Vec<_>>().join("\n---\n")
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for server in &mut self.all {
            // The directory goes next; there is nothing to save.
            let _ = server.stop(Signal::SIGQUIT);
        }
        log_removed(self.directory.path());
    }
}

fn log_removed(path: &Path) {
    println!("removing {}", path.display());
}

impl Server {
    fn create(root: &Path, node: NodeId, members: &[NodeId]) -> Result<Server> {
        let directory = root.join(node.short());
        server_directory(&directory, 0o755)?;
        certificate(root, &directory, node)?;
        let data = directory.join("data");
        let mut initdb = as_server(format!("{SERVER_BIN}/initdb"));
        initdb
            .args(["--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", "-D"])
            .arg(&data);
        run(&mut initdb)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let postgres = Postgres::new(&settings(&directory, port)?);
        configure(&directory, port, members)?;
        Ok(Server {
            node,
            postgres,
            directory,
            port,
            process: None,
        })
    }

    pub fn start(&mut self) -> Result<()> {
        let mut command = as_server(format!("{SERVER_BIN}/postgres"));
        command.arg("-D").arg(self.directory.join("data"));
        let log = self.directory.join("log");
        self.process = Some(Daemon::spawn("postgres", &mut command, &log)?);
        for _ in 0..400 {
            if self.sql("postgres", "select 1").is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        self.sql("postgres", "select 1")
            .with_context(|| tail(&log, 20))
            .map(drop)
    }

    pub fn stop(&mut self, signal: Signal) -> Result<()> {
        self.process
            .take()
            .map_or(Ok(()), |process| process.stop(signal))
    }

    pub fn kill9(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), Daemon::kill9)
    }

    /// The postmaster's process id.
    pub fn pid(&self) -> Result<u32> {
        Ok(self
            .process
            .as_ref()
            .context("the server does not run")?
            .pid())
    }

    /// Runs a statement with psql, over the Unix socket.
    pub fn sql(&self, database: &str, statement: &str) -> Result<String> {
        let mut psql = as_server("psql");
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"]);
        psql.arg(&self.directory)
            .args(["-p", &self.port.to_string()]);
        psql.env("PGDATABASE", database).args(["-c", statement]);
        run(&mut psql)
    }

    /// Runs a statement in the mesh's database.
    pub fn shop(&self, statement: &str) -> Result<String> {
        self.sql(DATABASE, statement)
    }
}

fn openssl(root: &Path, arguments: &str) -> Result<String> {
    ensure!(
        !root.to_string_lossy().contains(' '),
        "a directory with spaces"
    );
    call("openssl", &arguments.split_whitespace().collect::<Vec<_>>())
}

/// A certificate for both ends of a connection: CN for the server that lets it in, the
/// alternative name for the client that verifies it.
fn certificate(root: &Path, directory: &Path, node: NodeId) -> Result<()> {
    let (ca, own) = (root.display(), directory.display());
    openssl(
        root,
        &format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
        -subj /CN={node} -keyout {own}/new.key -out {own}/node.csr"
        ),
    )?;
    let extension = directory.join("san");
    fs::write(&extension, format!("subjectAltName=DNS:{node}.pgaa\n"))?;
    openssl(
        root,
        &format!(
            "x509 -req -in {own}/node.csr -CA {ca}/ca.crt -CAkey {ca}/ca.key \
        -days 2 -extfile {own}/san -out {own}/new.crt"
        ),
    )?;
    let copy = |from: &Path, to: &str, mode| {
        server_file(&directory.join(to), &fs::read_to_string(from)?, mode)
    };
    copy(&directory.join("new.key"), "node.key", 0o600)?;
    copy(&directory.join("new.crt"), "node.crt", 0o644)?;
    copy(&root.join("ca.crt"), "ca.crt", 0o644)
}

fn configure(directory: &Path, port: u16, members: &[NodeId]) -> Result<()> {
    let data = directory.join("data");
    let own = directory.display();
    let mut probe = as_server(format!("{SERVER_BIN}/postgres"));
    probe
        .args(["-C", "output_plugin_libraries", "-D"])
        .arg(&data);
    let plugins = match run(&mut probe) {
        Ok(_) => "output_plugin_libraries = 'pgoutput, test_decoding, pglogical_output'\n",
        Err(_) => "",
    };
    let conf = format!(
        "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{own}'\n\
         fsync = off\nshared_buffers = 16MB\nwal_level = logical\ntrack_commit_timestamp = on\n\
         shared_preload_libraries = 'pglogical'\nmax_worker_processes = 24\n\
         max_wal_senders = 16\nmax_replication_slots = 32\nlog_line_prefix = '%m [%p] %b '\n\
         pglogical.conflict_resolution = 'last_update_wins'\n\
         ssl = on\nssl_cert_file = '{own}/node.crt'\nssl_key_file = '{own}/node.key'\n\
         ssl_ca_file = '{own}/ca.crt'\n{plugins}"
    );
    let path = data.join("postgresql.conf");
    let text = fs::read_to_string(&path)?;
    server_file(&path, &format!("{text}\n{conf}"), 0o600)?;
    let hba = format!(
        "local all postgres trust\nlocal all app trust\n\
         hostssl all {MESH_ROLE} 127.0.0.1/32 cert map=pgaa\n"
    );
    server_file(&data.join("pg_hba.conf"), &hba, 0o600)?;
    let line = |member: &NodeId| format!("pgaa \"{member}\" {MESH_ROLE}\n");
    server_file(
        &data.join("pg_ident.conf"),
        &members.iter().map(line).collect::<String>(),
        0o600,
    )
}

fn settings(directory: &Path, port: u16) -> Result<Settings> {
    let policy = Policy {
        cluster_name: Name::new("shop")?,
        database: DATABASE.to_owned(),
        expect: 3,
        max_nodes: 8,
        founding_set: FoundingSet::Any,
        founding_wait: Duration::from_secs(60),
        conflict_resolution: ConflictResolution::LastUpdateWins,
        excluded_schemas: vec!["scratch".to_owned()],
        slots: SlotPolicy::default(),
        clock: Default::default(),
        backup: Default::default(),
    };
    let postgres = PostgresSettings {
        data_dir: directory.join("data"),
        config_dir: directory.join("data"),
        bin_dir: PathBuf::from(SERVER_BIN),
        socket_dir: directory.to_owned(),
        port,
        superuser: "postgres".to_owned(),
        mesh_role: MESH_ROLE.to_owned(),
        owner: Some("app".to_owned()),
        restart_command: Vec::new(),
    };
    let network = NetworkSettings {
        listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
        advertise: None,
        grpc_port: 7432,
        gossip_port: 7432,
        http: None,
        profile: NetworkProfile::Lan,
    };
    Ok(Settings {
        policy,
        node: NodeSettings {
            name: Name::new("n")?,
            site: String::new(),
            replaces: None,
        },
        seeds: Vec::new(),
        token_files: Vec::new(),
        postgres,
        network,
        clock: ClockSettings {
            chronyc: PathBuf::from("/usr/bin/chronyc"),
        },
        compare_every: Duration::ZERO,
        backup: Default::default(),
        paths: PathSettings {
            state_dir: directory.to_owned(),
            run_dir: directory.to_owned(),
        },
        log: LogSettings {
            level: "info".parse()?,
        },
    })
}
