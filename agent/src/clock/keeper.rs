//! Will a program on this machine keep its clock right? Looks at files alone: at the first boot
//! nothing runs yet.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// A time daemon, as Debian packages it.
struct Daemon {
    unit: &'static str,
    /// Files, and directories of files, that name its servers.
    conf: &'static [&'static str],
    /// How a line begins that names one. None: it brings servers of its own.
    names: &'static [&'static str],
}

const DAEMONS: [Daemon; 5] = [
    Daemon {
        unit: "chrony.service",
        conf: &[
            "etc/chrony/chrony.conf",
            "etc/chrony/conf.d",
            "etc/chrony/sources.d",
            "run/chrony-dhcp",
        ],
        names: &["server", "pool", "peer", "refclock"],
    },
    Daemon {
        unit: "systemd-timesyncd.service",
        conf: &[],
        names: &[],
    },
    Daemon {
        unit: "ntpd-rs.service",
        conf: &["etc/ntpd-rs/ntp.toml"],
        names: &["[[source]]"],
    },
    Daemon {
        unit: "ntpsec.service",
        conf: &["etc/ntpsec/ntp.conf", "etc/ntpsec/ntp.d"],
        names: &["server", "pool", "peer", "refclock"],
    },
    Daemon {
        unit: "openntpd.service",
        conf: &["etc/openntpd/ntpd.conf"],
        names: &["server", "servers", "sensor"],
    },
];

/// Where units lie; the first has an operator's.
const UNITS: [&str; 3] = [
    "etc/systemd/system",
    "lib/systemd/system",
    "usr/lib/systemd/system",
];

/// What is missing for the clock to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unkept {
    /// There is no time daemon.
    NotInstalled,
    /// There is one, by this unit, and systemd doesn't start it.
    NotEnabled(&'static str),
    /// It is started, and its configuration, in this file, names nobody to follow.
    NoServers(&'static str, &'static str),
}

impl fmt::Display for Unkept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = "last-update-wins rests on clocks that agree";
        match self {
            Unkept::NotInstalled => write!(
                f,
                "no NTP client is installed, and {why}: apt-get install chrony"
            ),
            Unkept::NotEnabled(unit) => write!(
                f,
                "the NTP client {unit} is not enabled, and {why}: systemctl enable --now {unit}"
            ),
            Unkept::NoServers(unit, file) => write!(
                f,
                "/{file} names no server to follow, and {why}: add one, then systemctl restart \
                 {unit}"
            ),
        }
    }
}

/// What is missing below `root`, if anything is.
#[must_use]
pub fn unkept(root: &Path) -> Option<Unkept> {
    let installed = || DAEMONS.iter().filter(|daemon| daemon.is_installed(root));
    let enabled = || installed().filter(|daemon| daemon.is_enabled(root));
    if enabled().any(|daemon| daemon.has_servers(root)) {
        return None;
    }
    let Some(first) = installed().next() else {
        return Some(Unkept::NotInstalled);
    };
    Some(match enabled().next() {
        None => Unkept::NotEnabled(first.unit),
        Some(daemon) => Unkept::NoServers(daemon.unit, daemon.conf.first().unwrap_or(&"etc")),
    })
}

impl Daemon {
    /// Is there such a unit? One that was masked is a link to nothing that could be started.
    fn is_installed(&self, root: &Path) -> bool {
        let mut places = UNITS.iter().map(|place| root.join(place).join(self.unit));
        let masked = |path: &PathBuf| fs::read_link(path).is_ok_and(|to| to == *"/dev/null");
        !places.clone().any(|path| masked(&path)) && places.any(|path| is_there(&path))
    }

    fn is_enabled(&self, root: &Path) -> bool {
        let places = UNITS
            .iter()
            .filter_map(|place| fs::read_dir(root.join(place)).ok());
        let directories = places
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()));
        directories
            .filter(|path| path.extension().is_some_and(|end| end == "wants"))
            .any(|wants| is_there(&wants.join(self.unit)))
    }

    fn has_servers(&self, root: &Path) -> bool {
        let files = self.conf.iter().flat_map(|path| files(&root.join(path)));
        let names = |line: &str| {
            let first = line.split_whitespace().next().unwrap_or_default();
            self.names.contains(&first)
        };
        let mut texts = files.filter_map(|file| fs::read_to_string(file).ok());
        self.names.is_empty() || texts.any(|text| text.lines().any(names))
    }
}

/// A link counts whatever it leads to: below another root it leads elsewhere.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// The file itself, or those of a directory.
fn files(path: &Path) -> Vec<PathBuf> {
    match fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(_) => vec![path.to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn enable(root: &Path, unit: &str) {
        let wants = root.join("etc/systemd/system/multi-user.target.wants");
        fs::create_dir_all(&wants).unwrap();
        symlink(format!("/lib/systemd/system/{unit}"), wants.join(unit)).unwrap();
    }

    #[test]
    fn chrony_has_to_be_installed_enabled_and_told_of_servers() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        assert_eq!(unkept(root), Some(Unkept::NotInstalled));
        write(root, "lib/systemd/system/chrony.service", "");
        enable(root, "cron.service");
        assert_eq!(unkept(root), Some(Unkept::NotEnabled("chrony.service")));
        enable(root, "chrony.service");
        let file = "etc/chrony/chrony.conf";
        let nobody = Some(Unkept::NoServers("chrony.service", file));
        assert_eq!(unkept(root), nobody);
        write(root, file, "# server here\nmakestep 1 3\n");
        assert_eq!(unkept(root), nobody);
        write(
            root,
            "run/chrony-dhcp/eth0.sources",
            "server 10.0.0.1 iburst\n",
        );
        assert_eq!(unkept(root), None);
    }

    #[test]
    fn a_masked_daemon_does_not_count_and_another_does() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write(root, "lib/systemd/system/chrony.service", "");
        write(root, "etc/chrony/chrony.conf", "pool pool.ntp.org iburst\n");
        enable(root, "chrony.service");
        assert_eq!(unkept(root), None);
        symlink("/dev/null", root.join("etc/systemd/system/chrony.service")).unwrap();
        assert_eq!(unkept(root), Some(Unkept::NotInstalled));
        // timesyncd needs no configuration.
        write(root, "usr/lib/systemd/system/systemd-timesyncd.service", "");
        enable(root, "systemd-timesyncd.service");
        assert_eq!(unkept(root), None);
    }

    #[test]
    fn what_is_said_names_the_command() {
        for (unkept, command) in [
            (Unkept::NotInstalled, "apt-get install chrony"),
            (
                Unkept::NotEnabled("a.service"),
                "systemctl enable --now a.service",
            ),
            (
                Unkept::NoServers("a.service", "etc/a"),
                "systemctl restart a.service",
            ),
        ] {
            let said = unkept.to_string();
            assert!(said.ends_with(command), "{said}");
        }
    }
}
