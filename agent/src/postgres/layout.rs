//! How the files of a cluster are laid out.
//!
//! Where they lie is configuration's business (`config`): this only names the two kinds.

use std::path::Path;

/// Where Debian keeps the configuration of its clusters: `<version>/<name>`.
const DEBIAN_CONFIG: &str = "/etc/postgresql";

/// The kinds of layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `/etc/postgresql/<version>/<name>`, made and run by Debian's `pg_createcluster` and
    /// `pg_ctlcluster`.
    Debian {
        /// The major version.
        version: String,
        /// The cluster's name.
        name: String,
    },
    /// Made by `initdb` and run by `pg_ctl`; configuration in the data directory, or in one of
    /// its own.
    Bare,
}

impl Kind {
    /// The kind of the cluster whose configuration lies in `config_dir`.
    #[must_use]
    pub fn of(config_dir: &Path) -> Kind {
        let Ok(inside) = config_dir.strip_prefix(DEBIAN_CONFIG) else {
            return Kind::Bare;
        };
        let mut parts = inside
            .iter()
            .map(|part| part.to_string_lossy().into_owned());
        match (parts.next(), parts.next(), parts.next()) {
            (Some(version), Some(name), None) => Kind::Debian { version, name },
            _ => Kind::Bare,
        }
    }

    /// What systemd's template `postgresql@.service` calls it: "15-main".
    #[must_use]
    pub fn instance(&self) -> Option<String> {
        match self {
            Kind::Debian { version, name } => Some(format!("{version}-{name}")),
            Kind::Bare => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_debian_s_own_tree_is_debian_s() {
        let debian = Kind::Debian {
            version: "15".to_owned(),
            name: "main".to_owned(),
        };
        assert_eq!(Kind::of(Path::new("/etc/postgresql/15/main")), debian);
        for bare in [
            "/etc/postgresql/15",
            "/etc/postgresql/15/main/x",
            "/srv/data",
        ] {
            assert_eq!(Kind::of(Path::new(bare)), Kind::Bare);
        }
    }
}
