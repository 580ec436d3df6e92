//! A cluster to be provisioned, with certificates for it and ways to connect to it.

use crate::seconds;
use anyhow::{Context, Result, ensure};
use nix::unistd::geteuid;
use pgaa_agent::config::{Settings, Sources, Surroundings, load};
use pgaa_agent::postgres::audit::{Audit, FileRow, SettingRow, audit};
use pgaa_agent::postgres::provision::needed_now;
use pgaa_agent::postgres::server::{Server, Status, StopMode};
use pgaa_agent::trust::credentials::TlsFiles;
use pgaa_core::ids::NodeId;
use pgaa_tests::command::{as_server, clean, run, server_directory, server_file};
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;
use uuid::Uuid;

/// Where the server's programs lie.
pub const BIN: &str = "/usr/lib/postgresql/15/bin";
/// A database whose name needs quoting wherever it goes.
const DATABASE: &str = "shop, \"all\"";

/// One machine's worth of files, and the settings that lead to them.
pub struct Place {
    pub directory: TempDir,
    pub settings: Settings,
    pub member: NodeId,
    debian: Option<String>,
}

impl Place {
    /// A place with `data` as a bare data directory.
    pub fn bare() -> Result<Place> {
        let directory = Place::directory()?;
        let data = directory.path().join("data");
        let layout = format!("data_dir = {data:?}\nconfig_dir = {data:?}\n");
        Place::with(directory, &layout, None)
    }

    /// A cluster in Debian's layout, with a name of its own.
    pub fn debian() -> Result<Place> {
        let directory = Place::directory()?;
        let name = format!("pgaatest{}", std::process::id());
        let data = directory.path().join("data");
        let layout = format!("data_dir = {data:?}\nconfig_dir = \"/etc/postgresql/15/{name}\"\n");
        Place::with(directory, &layout, Some(name))
    }

    fn directory() -> Result<TempDir> {
        ensure!(
            geteuid().is_root(),
            "these tests act as root and as postgres: run them as root"
        );
        let directory = tempfile::Builder::new()
            .prefix("pgaa-provision")
            .tempdir_in("/var/tmp")?;
        server_directory(directory.path(), 0o755)?;
        Ok(directory)
    }

    fn with(directory: TempDir, layout: &str, debian: Option<String>) -> Result<Place> {
        let at = |name: &str| directory.path().join(name);
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let text = format!(
            "[cluster]\nname = \"shop\"\nexpect = 1\nseeds = [\"127.0.0.1\"]\n\
             [network]\nlisten = \"127.0.0.1\"\n\
             [paths]\nstate_dir = {:?}\nrun_dir = {:?}\n\
             [postgres]\ndatabase = {DATABASE:?}\nbin_dir = {BIN:?}\nsocket_dir = {:?}\n\
             port = {port}\n{layout}",
            at("state"),
            at("run"),
            at("sock"),
        );
        fs::write(at("agent.toml"), text)?;
        server_directory(&at("sock"), 0o755)?;
        server_directory(&at("state"), 0o700)?;
        let sources = Sources::single(&at("agent.toml"));
        let settings = load(&sources, &Surroundings::of_machine(&sources))?.settings;
        let place = Place {
            directory,
            settings,
            member: NodeId(Uuid::from_u128(7)),
            debian,
        };
        place.make_certificates()?;
        Ok(place)
    }

    /// A certificate for the server, and one for `member`; both are their own CA.
    fn make_certificates(&self) -> Result<()> {
        let tls = TlsFiles::below(&self.settings.paths.state_dir);
        server_directory(tls.key.parent().context("no directory")?, 0o700)?;
        let (client, client_key) = self.client_files();
        let mut trusted = String::new();
        let pairs = [
            ("server", &tls.certificate, &tls.key),
            (&self.member.to_string(), &client, &client_key),
        ];
        for (name, certificate, key) in pairs {
            let mut openssl = clean("openssl");
            openssl.args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ]);
            openssl.args(["-nodes", "-days", "2", "-subj", &format!("/CN={name}")]);
            run(openssl.arg("-keyout").arg(key).arg("-out").arg(certificate))?;
            for file in [certificate, key] {
                server_file(file, &fs::read_to_string(file)?, 0o600)?;
            }
            trusted += &fs::read_to_string(certificate)?;
        }
        server_file(&tls.ca, &trusted, 0o600)
    }

    fn client_files(&self) -> (PathBuf, PathBuf) {
        (
            self.directory.path().join("client.crt"),
            self.directory.path().join("client.key"),
        )
    }

    pub fn server(&self) -> Result<Server> {
        Ok(Server::new(&self.settings.postgres)?)
    }

    pub fn hba(&self) -> PathBuf {
        self.settings.postgres.config_dir.join("pg_hba.conf")
    }

    pub fn start(&self) -> Result<()> {
        Ok(self.server()?.start(seconds(60))?)
    }

    pub fn restart(&self) -> Result<()> {
        Ok(self.server()?.restart(seconds(60))?)
    }

    fn psql(&self, account: Command, conninfo: &str, sql: &str) -> Command {
        let mut command = account;
        let postgres = &self.settings.postgres;
        command.env("PGPORT", postgres.port.to_string());
        command.args([
            "--no-psqlrc",
            "--no-align",
            "--tuples-only",
            "--set=ON_ERROR_STOP=1",
        ]);
        command.args(["--no-password", "--command", sql, conninfo]);
        command
    }

    /// What the superuser sees on the socket.
    pub fn sql(&self, sql: &str) -> Result<String> {
        run(&mut self.local(as_server("psql"), sql))
    }

    /// An account of the machine as the superuser on the socket.
    pub fn local(&self, account: Command, sql: &str) -> Command {
        let socket = self.settings.postgres.socket_dir.display();
        let conninfo = format!("host={socket} user=postgres dbname=postgres");
        self.psql(account, &conninfo, sql)
    }

    /// Over TCP with a password, like an application.
    pub fn application(&self) -> Command {
        let conninfo = format!("host=127.0.0.1 user=app password=app dbname='{DATABASE}'");
        self.psql(clean("psql"), &conninfo, "select 'in'")
    }

    /// Like another node's server: with a certificate, `options` added.
    pub fn mesh(&self, options: &str) -> Command {
        let (certificate, key) = self.client_files();
        let conninfo = format!(
            "host=127.0.0.1 user=pgaa_mesh dbname='{DATABASE}' sslmode=require \
             sslcert={} sslkey={} {options}",
            certificate.display(),
            key.display()
        );
        let sql = if options.is_empty() {
            "select 'in'"
        } else {
            "IDENTIFY_SYSTEM"
        };
        self.psql(as_server("psql"), &conninfo, sql)
    }

    /// The roles and the database that connections are tried with.
    pub fn make_roles(&self) -> Result<()> {
        ensure!(
            self.settings.postgres.mesh_role == "pgaa_mesh",
            "another default"
        );
        self.sql("create role app login password 'app'")?;
        self.sql("create role pgaa_mesh login superuser replication password 'app'")?;
        self.sql(&format!(
            "create database \"{}\"",
            DATABASE.replace('"', "\"\"")
        ))?;
        Ok(())
    }

    /// Reloads, and sees that PostgreSQL understands our lines.
    pub fn reload(&self) -> Result<()> {
        self.sql("select pg_reload_conf()")?;
        // The postmaster reads the files when the signal comes, a moment after the answer.
        std::thread::sleep(seconds(1));
        let errors = self.sql(
            "select 'pg_hba ' || line_number || error from pg_hba_file_rules where error <> '' \
             union all \
             select 'pg_ident ' || line_number || error from pg_ident_file_mappings where error <> ''",
        )?;
        ensure!(errors.is_empty(), "{errors}");
        Ok(())
    }

    pub fn audit_after_reload(&self) -> Result<Audit> {
        self.reload()?;
        self.audit()
    }

    /// What the audit of the running server finds.
    pub fn audit(&self) -> Result<Audit> {
        let needed = needed_now(&self.settings)?;
        let rows = self.sql(
            "select coalesce(json_agg(json_build_array(name, setting, unit, context, source, \
             sourcefile, sourceline, pending_restart)), '[]') from pg_settings",
        )?;
        let settings = serde_json::from_str::<Vec<SettingTuple>>(&rows)?
            .into_iter()
            .map(
                |(
                    name,
                    setting,
                    unit,
                    context,
                    source,
                    sourcefile,
                    sourceline,
                    pending_restart,
                )| {
                    SettingRow {
                        name,
                        setting,
                        unit,
                        context,
                        source,
                        sourcefile,
                        sourceline,
                        pending_restart,
                    }
                },
            );
        let rows = self.sql(
            "select coalesce(json_agg(json_build_array(sourcefile, sourceline, name, setting, \
             error)), '[]') from pg_file_settings",
        )?;
        let files = serde_json::from_str::<Vec<FileTuple>>(&rows)?
            .into_iter()
            .map(|(sourcefile, sourceline, name, setting, error)| FileRow {
                sourcefile,
                sourceline,
                name,
                setting,
                error,
            });
        let (settings, files): (Vec<_>, Vec<_>) = (settings.collect(), files.collect());
        Ok(audit(&settings, &files, &needed))
    }
}

/// One row as JSON.
type SettingTuple = (
    String,
    String,
    Option<String>,
    String,
    String,
    Option<String>,
    Option<i32>,
    bool,
);
type FileTuple = (String, i32, Option<String>, Option<String>, Option<String>);

impl Drop for Place {
    fn drop(&mut self) {
        // A test that fails half way leaves a server; what can't be stopped shows in the output.
        match self.server() {
            Ok(server) if matches!(server.status(), Ok(Status::Running)) => {
                if let Err(error) = server.stop(StopMode::Immediate, seconds(30)) {
                    eprintln!("the server is still there: {error}");
                }
            }
            Ok(_) => {}
            Err(error) => eprintln!("the server can't be stopped: {error}"),
        }
        if let Some(name) = &self.debian {
            let dropped = run(clean("pg_dropcluster").args(["15", name]));
            if let Err(error) = dropped {
                eprintln!("the cluster is still there: {error}");
            }
            // It leaves behind what it doesn't know of.
            let config_dir = &self.settings.postgres.config_dir;
            if let Err(error) = fs::remove_dir_all(config_dir)
                && config_dir.exists()
            {
                eprintln!("{} is still there: {error}", config_dir.display());
            }
            let logs = fs::read_dir("/var/log/postgresql")
                .into_iter()
                .flatten()
                .flatten();
            for log in logs.filter(|log| log.file_name().to_string_lossy().contains(name.as_str()))
            {
                let path = log.path();
                let removed = match path.is_dir() {
                    true => fs::remove_dir_all(&path),
                    false => fs::remove_file(&path),
                };
                if let Err(error) = removed {
                    eprintln!("{} is still there: {error}", log.path().display());
                }
            }
        }
    }
}
