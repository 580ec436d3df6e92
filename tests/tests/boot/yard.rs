//! Machines side by side on one network, and waiting for what they should come to.
//!
//! Must not know any scenario.

use crate::group;
use crate::image::{Image, in_checkout, package};
use crate::machine::Machine;
use anyhow::{Context, Result, ensure};
use pgaa_agent::clock::Clocks;
use pgaa_tests::cluster::{full_mesh, waiting};
use pgaa_tests::command::call;
use pgaa_tests::net::Network;
use pgaa_tests::stale::{RunLock, lock, run_directory, run_name, sweep_after};
use pgaa_tests::workload::token;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// How often a condition is looked at. Each look starts processes on a machine with two cores.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What machines are called, in this order.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// The version of the package that machines begin with.
pub const VERSION: &str = "0.1.0";

/// Machines in a network of their own. Everything is removed when this is dropped: machines
/// first, then the network, then the disks, then others may run.
#[derive(Debug)]
pub struct Yard {
    machines: Vec<Machine>,
    /// The lines between the machines.
    net: Network,
    /// Without our package.
    bare: Image,
    image: Image,
    directory: Directory,
    clocks: Clocks,
    user_data: String,
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

/// The user-data that we ship, with this network's addresses and a token: one and the same for
/// every machine.
pub fn user_data() -> Result<String> {
    filled("user-data")
}

/// User-data for a mesh of one.
pub fn alone(user_data: &str) -> String {
    user_data
        .replace("expect = 3", "expect = 1")
        .replace(", \"10.77.0.12\", \"10.77.0.13\"", "")
}

/// One of the templates that we ship, filled in.
pub fn filled(template: &str) -> Result<String> {
    let path = in_checkout("cloud-init").join(template);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let filled = text
        .replace("10.0.0.", "10.77.0.")
        .replace("pgaa1.REPLACE-ID.REPLACE-SECRET", &token(1));
    ensure!(
        !filled.replace("REPLACE-SHA256", "").contains("REPLACE"),
        "{} has other placeholders",
        path.display()
    );
    Ok(filled)
}

impl Yard {
    /// Makes `count` machines that have this user-data, and switches none on.
    pub fn prepare(count: usize, user_data: String) -> Result<Yard> {
        let run_lock = lock()?;
        // Machines first: what they have open can't be removed.
        sweep_after(group::sweep)?;
        let run = run_name(0);
        let directory = Directory(run_directory(&run));
        fs::create_dir_all(&directory.0)?;
        fs::set_permissions(&directory.0, fs::Permissions::from_mode(0o755))?;
        let package = package(&directory.0, VERSION)?;
        let bare = Image::bare()?;
        let image = bare.with_package(&package, &directory.0)?;
        let mut yard = Yard {
            machines: Vec::new(),
            net: Network::create(&run)?,
            bare,
            image,
            directory,
            clocks: Clocks::start(),
            user_data,
            _lock: run_lock,
        };
        for _ in 0..count {
            yard.add()?;
        }
        Ok(yard)
    }

    /// Makes one more machine.
    pub fn add(&mut self) -> Result<()> {
        let user_data = self.user_data.clone();
        self.make((self.image.clone(), None), &user_data).map(drop)
    }

    /// Makes one more machine, from the image that has no package of ours.
    pub fn add_bare(&mut self, user_data: &str) -> Result<&Machine> {
        self.make((self.bare.clone(), None), user_data)
    }

    /// Makes one more machine, with all that another has on its disk now.
    pub fn clone_machine(&mut self, name: &str) -> Result<()> {
        let found = self.machines.iter().find(|machine| machine.name() == name);
        let copied = found.context("no such machine")?.snapshot()?;
        let (image, disk) = copied;
        let user_data = self.user_data.clone();
        self.make((image, Some(disk)), &user_data).map(drop)
    }

    /// Gives a machine a way out of its network, though nobody is there.
    pub fn add_default_route(&self, name: &str) -> Result<()> {
        let namespace = self.net.namespace(name);
        let route = ["-n", &namespace, "route", "add", "default", "dev", "eth0"];
        call("ip", &route).map(drop)
    }

    fn make(&mut self, made_of: (Image, Option<PathBuf>), user_data: &str) -> Result<&Machine> {
        let number = self.machines.len();
        let name = NAMES.get(number).context("no name for another machine")?;
        let address = Ipv4Addr::new(10, 77, 0, u8::try_from(number + 11)?);
        self.net.plug(name, address)?;
        self.machines.push(Machine::create(
            name,
            (self.net.namespace(name), address),
            made_of,
            &self.directory.0,
            user_data,
        )?);
        self.machines.last().context("it is gone")
    }

    /// All machines.
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// The machines by position, for `let [a, b, c] = yard.each()?`.
    pub fn each<const N: usize>(&self) -> Result<[&Machine; N]> {
        let machines: Vec<&Machine> = self.machines.iter().collect();
        let count = machines.len();
        machines
            .try_into()
            .map_err(|_| anyhow::anyhow!("there are {count} machines, not {N}"))
    }

    /// Where the run's files are.
    pub fn directory(&self) -> &Path {
        &self.directory.0
    }

    /// Switches all machines on in the same moment.
    pub fn switch_on(&self) -> Result<()> {
        self.machines.iter().try_for_each(Machine::switch_on)
    }

    /// Waits until a condition holds; fails with its last complaint. Returns how long it took.
    pub fn eventually(
        &self,
        within: Duration,
        what: &str,
        condition: impl Fn() -> Result<()>,
    ) -> Result<Duration> {
        let start = self.clocks.mono();
        while let Err(complaint) = condition() {
            if self.clocks.mono().since(start) > within {
                return Err(complaint.context(format!("not within {within:?}: {what}")));
            }
            sleep(LOOK_EVERY);
        }
        let took = self.clocks.mono().since(start);
        eprintln!("{:>7.2} s  {what}", took.as_secs_f64());
        Ok(took)
    }

    /// Waits until these machines are ready, see one another, and every edge replicates.
    pub fn await_mesh(&self, within: Duration, among: &[&Machine]) -> Result<Duration> {
        let what = format!("{} machines are ready and fully meshed", among.len());
        self.eventually(within, &what, || {
            among.iter().try_for_each(|machine| {
                let report = machine.status()?;
                full_mesh(&report, among.len())
                    .with_context(|| format!("{}, {:?}", machine.name(), waiting(&report)))
            })
        })
    }

    /// Waits until a query gives the same answer on these machines.
    pub fn await_answer(&self, among: &[&Machine], query: &str, answer: &str) -> Result<Duration> {
        let what = format!("{answer:?} on {} machines: {query}", among.len());
        self.eventually(crate::seconds(30), &what, || {
            among.iter().try_for_each(|machine| {
                let said = machine.sql(query)?;
                ensure!(said == answer, "{} says {said:?}", machine.name());
                Ok(())
            })
        })
    }

    /// What a person wants to see when a scenario fails.
    fn portrait(&self) -> String {
        self.machines.iter().map(Machine::portrait).collect()
    }
}

/// Plays a scenario on `count` machines that are off, with the user-data that we ship.
pub fn play(count: usize, scenario: impl FnOnce(&mut Yard) -> Result<()>) -> Result<()> {
    play_with(count, user_data()?, scenario)
}

/// The same with another user-data. A failure shows every machine.
pub fn play_with(
    count: usize,
    user_data: String,
    scenario: impl FnOnce(&mut Yard) -> Result<()>,
) -> Result<()> {
    let mut yard = Yard::prepare(count, user_data)?;
    let outcome = scenario(&mut yard);
    if let Err(error) = &outcome {
        eprintln!("{}\nfailed: {error:#}", yard.portrait());
        if std::env::var_os("PGAA_TEST_HOLD").is_some() {
            eprintln!("held; press Enter to go on");
            std::io::stdin().read_line(&mut String::new())?;
        }
    }
    outcome
}
