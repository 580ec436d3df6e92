//! The settings of `[postgres]`: where the local cluster lies, and names that PostgreSQL takes.

use super::Check;
use crate::config::debian::{self, DebianCluster, Located};
use crate::config::settings::PostgresSettings;

/// The longest identifier PostgreSQL doesn't cut, bytes (NAMEDATALEN - 1).
const IDENTIFIER_BYTES_MAX: usize = 63;

impl Check<'_> {
    pub(super) fn postgres(&mut self) -> PostgresSettings {
        let located = self.locate();
        for key in ["postgres.superuser", "postgres.mesh_role", "postgres.owner"] {
            if let Some(role) = self.text(key) {
                self.identifier(key, &role);
            }
        }
        let superuser = self.text("postgres.superuser").unwrap_or_default();
        let mesh_role = self.text("postgres.mesh_role").unwrap_or_default();
        if superuser == mesh_role {
            let text = "must not be postgres.superuser: forgetting a node closes the mesh role's \
                        sessions";
            self.problem("postgres.mesh_role", text);
        }
        for schema in self.list("postgres.excluded_schemas") {
            self.identifier("postgres.excluded_schemas", &schema);
        }
        let restart_command = self.list("postgres.restart_command");
        if restart_command.first().is_some_and(String::is_empty) {
            self.problem("postgres.restart_command", "the program's name is empty");
        }
        PostgresSettings {
            data_dir: located.data_dir,
            config_dir: located.config_dir,
            bin_dir: located.bin_dir,
            socket_dir: self.path("postgres.socket_dir").unwrap_or_default(),
            port: located.port,
            superuser,
            mesh_role,
            owner: self.text("postgres.owner"),
            restart_command,
        }
    }

    fn locate(&mut self) -> Located {
        let root = self.surroundings.root.as_path();
        let clusters = debian::clusters(root);
        let data_dir = self.path("postgres.data_dir");
        let config_dir = self.path("postgres.config_dir");
        let named = |cluster: &&DebianCluster| match (&data_dir, &config_dir) {
            (Some(data), _) => &cluster.data_dir == data,
            (None, Some(config)) => &cluster.config_dir == config,
            (None, None) => true,
        };
        let candidates: Vec<_> = clusters.iter().filter(named).collect();
        if candidates.len() > 1 && data_dir.is_none() {
            let dirs: Vec<_> = candidates
                .iter()
                .map(|c| c.data_dir.display().to_string())
                .collect();
            let text = format!("must be set: this machine has {}", dirs.join(" and "));
            self.problem("postgres.data_dir", text);
        }
        let located = debian::locate(root, candidates.first().copied(), data_dir, config_dir);
        let port = self
            .merged
            .set("postgres.port")
            .map(|_| self.number("postgres.port"));
        Located {
            bin_dir: self.path("postgres.bin_dir").unwrap_or(located.bin_dir),
            port: port.unwrap_or(located.port),
            ..located
        }
    }

    pub(super) fn identifier(&mut self, key: &str, text: &str) {
        let told = self.merged.set(key).is_none();
        if told {
            return; // A default, or a required key that was told of.
        }
        if text.is_empty() || text.chars().any(char::is_control) {
            self.problem(key, format!("{text:?} can't be a name in PostgreSQL"));
        } else if text.len() > IDENTIFIER_BYTES_MAX {
            self.problem(
                key,
                format!("is longer than {IDENTIFIER_BYTES_MAX} bytes: {text:?}"),
            );
        }
    }
}
