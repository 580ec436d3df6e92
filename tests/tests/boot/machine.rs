//! One machine: a disk that outlives its boots, a cable, a power switch.
//!
//! What is asked of it runs inside, as on a login there. Must not know any scenario.

use crate::group::Group;
use crate::image::Image;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::stat::{Mode, SFlag, mknod};
use pgaa_core::status::StatusReport;
use pgaa_tests::command::{clean, failure, log_file, output, run, tail};
use pgaa_tests::node::DATABASE;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How nspawn ends when its machine reboots: the service that runs it shall start it again
/// (EXIT_FORCE_RESTART in systemd's exit-status.h).
const REBOOTED: i32 = 133;

/// The longest any question to a machine may take, seconds.
const ASK_MAX: &str = "30";

/// What a machine is, whether it runs or not.
#[derive(Debug)]
pub struct Machine {
    name: String,
    address: Ipv4Addr,
    namespace: String,
    directory: PathBuf,
    image: Image,
    group: Group,
    credential: Mutex<Option<String>>,
    nspawn: Mutex<Option<Child>>,
}

/// How a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It wants to be started again.
    Reboot,
    /// It is off.
    Off,
}

impl Machine {
    /// Makes a machine that is off, with an empty disk above `image` or what a copied disk holds,
    /// and the seed of a NoCloud data source: the user-data, and what a cloud says of the single
    /// machine.
    pub fn create(
        name: &str,
        (namespace, address): (String, Ipv4Addr),
        (image, disk): (Image, Option<PathBuf>),
        run_directory: &Path,
        user_data: &str,
    ) -> Result<Machine> {
        let directory = run_directory.join(name);
        for part in ["work", "root"] {
            fs::create_dir_all(directory.join(part))?;
        }
        match disk {
            Some(disk) => fs::rename(disk, directory.join("disk"))?,
            None => fs::create_dir_all(directory.join("disk"))?,
        }
        let group = Group::create(&namespace)?;
        let machine = Machine {
            name: name.to_owned(),
            address,
            namespace,
            directory,
            image,
            group,
            credential: Mutex::new(None),
            nspawn: Mutex::new(None),
        };
        let seed = "var/lib/cloud/seed/nocloud";
        machine.write(&format!("{seed}/user-data"), user_data)?;
        let meta = format!("instance-id: i-{name}\nlocal-hostname: {name}\n");
        machine.write(&format!("{seed}/meta-data"), &meta)?;
        // The test is the DHCP server: the address is there before the machine boots.
        machine.write(
            "etc/cloud/cloud.cfg.d/90-test.cfg",
            "datasource_list: [NoCloud]\nnetwork: {config: disabled}\n",
        )?;
        Ok(machine)
    }

    /// Writes a file onto the disk of a machine that has not been booted yet.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.directory.join("disk").join(path);
        fs::create_dir_all(path.parent().context("no directory")?)?;
        fs::write(&path, text).with_context(|| format!("{} can't be written", path.display()))
    }

    /// Puts a file of the host onto the disk of a machine that has not been booted yet.
    pub fn place(&self, file: &Path, path: &str) -> Result<()> {
        let path = self.directory.join("disk").join(path);
        fs::create_dir_all(path.parent().context("no directory")?)?;
        let copied = fs::copy(file, &path).map(drop);
        copied.with_context(|| format!("{} can't be written", path.display()))
    }

    /// The image it was booted from, and a copy of its disk in this moment, as a hypervisor takes
    /// one: while it is on it stands still meanwhile.
    pub fn snapshot(&self) -> Result<(Image, PathBuf)> {
        let copy = self.directory.join("snapshot");
        let on = self.nspawn().is_some();
        if on {
            self.freeze(true)?;
        }
        // With the attributes in which overlayfs keeps what was removed.
        let copied = run(clean("cp")
            .arg("--archive")
            .arg(self.directory.join("disk"))
            .arg(&copy));
        if on {
            self.freeze(false)?;
        }
        copied?;
        Ok((self.image.clone(), copy))
    }

    /// Makes a part of the image disappear from a machine that has not been booted yet (a
    /// "whiteout" of overlayfs).
    pub fn hide(&self, path: &str) -> Result<()> {
        let path = self.directory.join("disk").join(path);
        fs::create_dir_all(path.parent().context("no directory")?)?;
        mknod(&path, SFlag::S_IFCHR, Mode::empty(), 0)
            .with_context(|| format!("{} can't be hidden", path.display()))
    }

    /// Copies a file of the host into the running machine.
    pub fn put(&self, file: &Path, path: &str) -> Result<()> {
        let inside = format!("/proc/{}/root/{path}", self.leader()?);
        let copied = fs::copy(file, &inside);
        copied
            .map(drop)
            .with_context(|| format!("{inside} can't be written"))
    }

    /// Runs a script of the shell inside; its standard output.
    pub fn shell(&self, script: &str) -> Result<String> {
        self.run("sh", &["-euc", script])
    }

    /// Hands a credential to the machine's systemd at each boot, as a hypervisor does by SMBIOS.
    pub fn hand_over(&self, name: &str, secret: &str) {
        let credential = Some(format!("--set-credential={name}:{secret}"));
        *self
            .credential
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = credential;
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn nspawn(&self) -> MutexGuard<'_, Option<Child>> {
        self.nspawn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Switches it on; returns at once. The disk is mounted in a mount namespace of its own, so
    /// that nothing stays mounted when the machine is gone, however it went.
    pub fn switch_on(&self) -> Result<()> {
        let at = |part: &str| self.directory.join(part);
        let enter: Vec<String> = self
            .group
            .entrances()
            .iter()
            .map(|path| format!("echo $$ >{}", path.display()))
            .collect();
        let script = format!(
            "{}\nexec unshare --mount --propagation private sh -euc \
             'mount -t overlay overlay -o \"$1\" \"$2\"; shift 2; exec \"$@\"' sh \"$@\"",
            enter.join("\n")
        );
        // nspawn ends with the thread that started it. Its machine does not always; what a test
        // leaves that is killed is swept by the next.
        let mut command = clean("setpriv");
        command.args(["--pdeathsig=KILL", "sh", "-euc", &script, "sh"]);
        command
            .arg(self.image.overlay(&at("disk"), &at("work")))
            .arg(at("root"));
        command
            .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
            .args(["systemd-nspawn", "--boot", "--quiet", "--directory"])
            .arg(at("root"))
            .args(["--register=no", "--keep-unit", "--link-journal=no"])
            .args(["--resolv-conf=off", "--timezone=off", "--console=pipe"])
            .arg(format!("--machine={}", self.name))
            .arg(format!(
                "--network-namespace-path=/run/netns/{}",
                self.namespace
            ));
        let credential = self.credential.lock();
        command.args(credential.unwrap_or_else(PoisonError::into_inner).iter());
        let console = at("console");
        command
            .stdout(log_file(&console)?)
            .stderr(log_file(&console)?);
        let child = command.spawn().context("a machine can't be started")?;
        *self.nspawn() = Some(child);
        Ok(())
    }

    /// Takes its power away.
    pub fn cut_power(&self) -> Result<()> {
        self.group.kill()?;
        self.await_end().map(drop)
    }

    /// Restarts it in order, as `reboot` does at a login.
    pub fn reboot(&self) -> Result<()> {
        self.run("systemctl", &["reboot"])?;
        let ending = self.await_end()?;
        ensure!(ending == Ending::Reboot, "{} is {ending:?}", self.name);
        self.switch_on()
    }

    /// Switches it off in order, as `poweroff` does at a login.
    pub fn power_off(&self) -> Result<()> {
        self.run("systemctl", &["poweroff"])?;
        let ending = self.await_end()?;
        ensure!(ending == Ending::Off, "{} is {ending:?}", self.name);
        Ok(())
    }

    /// Waits until it has ended by itself.
    fn await_end(&self) -> Result<Ending> {
        let child = self.nspawn().take();
        let status = child.context("the machine is off")?.wait()?;
        match status.code() {
            Some(REBOOTED) => Ok(Ending::Reboot),
            Some(0) => Ok(Ending::Off),
            None if status.signal() == Some(9) => Ok(Ending::Off),
            Some(_) | None => bail!("{} ended with {status}", self.name),
        }
    }

    /// Stops every process of it where it is, or lets them go on.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        self.group.freeze(frozen)
    }

    /// The host's id of its first process.
    fn leader(&self) -> Result<u32> {
        let first = |pid: &u32| {
            let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            // "NSpid:  4711    1": 1 in the namespace below ours.
            let line = text.lines().find_map(|line| line.strip_prefix("NSpid:"));
            line.is_some_and(|line| {
                let ids: Vec<&str> = line.split_whitespace().collect();
                ids.len() == 2 && ids[1] == "1"
            })
        };
        let found = self.group.processes().into_iter().find(first);
        found.with_context(|| format!("{} is not on", self.name))
    }

    /// A command inside, as root.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Result<Command> {
        let mut command = clean("nsenter");
        command
            .arg(format!("--target={}", self.leader()?))
            .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"])
            .args(["--root", "--wdns=/", "timeout", ASK_MAX, program])
            .args(arguments);
        Ok(command)
    }

    /// Runs a program inside, whatever its exit code.
    pub fn try_run(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        output(&mut self.command(program, arguments)?)
    }

    /// The same as one of the machine's users, with the user's groups.
    pub fn try_run_as(&self, user: &str, program: &str, arguments: &[&str]) -> Result<Output> {
        let (uid, gid) = (format!("--reuid={user}"), format!("--regid={user}"));
        let all = [&[&uid, &gid, "--init-groups", program], arguments].concat();
        self.try_run("setpriv", &all)
    }

    /// Runs a program inside, where only success will do; its standard output.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(program, arguments)?;
        let output = output(&mut command)?;
        ensure!(
            output.status.success(),
            "{}: {}",
            self.name,
            failure(&command, &output)
        );
        Ok(words(&output.stdout))
    }

    /// One property of a unit.
    pub fn property(&self, unit: &str, property: &str) -> Result<String> {
        let property = format!("--property={property}");
        self.run("systemctl", &["show", "--value", &property, unit])
    }

    /// What the agent reports. Exit codes 0 to 2 tell how well it goes, and come with a report.
    pub fn status(&self) -> Result<StatusReport> {
        let output = self.try_run("pgaa-agent", &["status", "-o", "json"])?;
        if !matches!(output.status.code(), Some(0..=2)) {
            bail!("{}: status: {}", self.name, words(&output.stderr));
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{}: status is not what the core calls a report", self.name))
    }

    /// Runs SQL as the superuser, in the mesh's database.
    pub fn sql(&self, statements: &str) -> Result<String> {
        let psql = [
            "-XqAt",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            DATABASE,
            "-c",
            statements,
        ];
        let output = self.try_run_as("postgres", "psql", &psql)?;
        let complaint = words(&output.stderr);
        ensure!(
            output.status.success(),
            "{}: {statements}: {complaint}",
            self.name
        );
        Ok(words(&output.stdout))
    }

    /// Entries of the journal that match, one JSON document each.
    pub fn journal(&self, matches: &[&str]) -> Result<Vec<serde_json::Value>> {
        let arguments = [&["--output=json", "--no-pager", "--quiet"], matches].concat();
        let text = self.run("journalctl", &arguments)?;
        let entries = text.lines().map(serde_json::from_str);
        entries
            .collect::<Result<_, _>>()
            .context("the journal is no JSON")
    }

    /// What a person wants to see of this machine when a scenario fails.
    pub fn portrait(&self) -> String {
        let mut text = format!("\n===== {} ({}) =====\n", self.name, self.address);
        let questions: [(&str, &[&str]); 4] = [
            ("pgaa-agent", &["status"]),
            ("systemctl", &["--no-pager", "--no-legend", "--failed"]),
            ("systemctl", &["--no-pager", "list-jobs"]),
            (
                "journalctl",
                &["--no-pager", "--quiet", "--boot", "--lines=60"],
            ),
        ];
        for (program, arguments) in questions {
            let said = match self.try_run(program, arguments) {
                Ok(output) => words(&output.stdout) + &words(&output.stderr),
                Err(error) => format!("{error:#}"),
            };
            text += &format!("----- {program} {}\n{said}\n", arguments.join(" "));
        }
        text + &format!(
            "----- console\n{}\n",
            tail(&self.directory.join("console"), 15)
        )
    }
}

/// Output as text, without the line's end.
pub fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut child) = self.nspawn().take() {
            let ended = self.group.kill().and_then(|()| Ok(child.wait().map(drop)?));
            if let Err(error) = ended {
                eprintln!("{} is still on: {error:#}", self.name);
            }
        }
        if let Err(error) = self.group.remove() {
            eprintln!("{}: {error:#}", self.name);
        }
    }
}
