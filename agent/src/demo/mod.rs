//! `pgaa-agent demo`: a whole mesh on this machine, to look at and to play with.
//!
//! Real servers, real agents, real certificates, on the loopback address and in a directory of
//! its own. It does by hand what systemd and cloud-init do on a machine, and nothing else: how
//! nodes become a mesh is the agents' affair.

mod failure;
mod interrupt;
mod launch;
mod node;
mod place;
mod ports;
mod processes;
mod progress;
mod render;
mod rows;
mod server_programs;
mod state;
mod teardown;
mod watch;

pub use interrupt::Interrupted;

use crate::clock::Clocks;
use crate::postgres::owner::Owner;
use crate::trust::token::JoinToken;
use crate::trust::tokens::OUTLIVES_FOUNDING;
use anyhow::{Context, Error, Result, anyhow, ensure};
use interrupt::Interrupt;
use launch::{Around, launch};
use place::Place;
use ports::{reserve, reserve_for};
use progress::{Progress, Stream};
use state::DemoState;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use watch::{Goal, Seen, table_is_replicated, until};

/// How many nodes a demo starts with when nobody says.
pub const NODES_DEFAULT: u16 = 3;
/// How many it can start with.
pub const NODES: RangeInclusive<u16> = 1..=9;
/// How long a table may take into the replication set, on all nodes.
const TABLE_MAX: Duration = Duration::from_secs(60);

/// One demo under way.
struct Demo {
    place: Place,
    state: DemoState,
    owner: Owner,
    interrupt: Interrupt,
    progress: Progress,
}

/// `demo`: starts nodes, shows that they replicate, stays until somebody interrupts it (or ends
/// by itself when nobody watches), and removes everything.
pub async fn demo(nodes: u16) -> Result<()> {
    let mut demo = Demo::start(nodes, None, Stream::Out).await?;
    if let Err(error) = demo.show().await {
        return Err(demo.failed(error).await);
    }
    if io::stdout().is_terminal() {
        demo.progress
            .say("\nCtrl-C ends the demo and removes everything.");
        demo.interrupt.wait().await;
        demo.progress.say("");
    }
    let Demo {
        place,
        mut progress,
        ..
    } = demo;
    let summary = format!(
        "everything removed, {} included",
        place.directory().display()
    );
    progress
        .phase(
            "removing everything",
            String::new,
            teardown::remove(&place),
            |()| summary,
        )
        .await
}

/// `demo up`: starts nodes and leaves them running.
pub async fn up(nodes: u16, directory: Option<&Path>, json: bool) -> Result<()> {
    Demo::start(nodes, directory, stream(json))
        .await?
        .tell(json)
}

/// `demo add`: starts one more node, which joins the others.
pub async fn add(directory: &Path, json: bool) -> Result<()> {
    let place = Place::open(directory)?;
    let _lock = place.lock()?;
    let state = DemoState::of(&place)?;
    let mut demo = Demo {
        owner: servers_owner()?,
        interrupt: Interrupt::listen()?,
        progress: Progress::new(stream(json)),
        place,
        state,
    };
    demo.renew_token().await?;
    let held = reserve()?;
    let index = demo.state.append(held.ports);
    demo.state.write(&demo.place)?;
    let name = demo.state.nodes[index].name.clone();
    demo.progress.say(&format!(
        "{name} joins the nodes in {}",
        demo.place.directory().display()
    ));
    if let Err(error) = demo.launch(index, vec![held]).await {
        return Err(demo.joined_not(index, error).await);
    }
    demo.tell(json)
}

/// `demo down`: ends and removes everything.
pub async fn down(directory: &Path) -> Result<()> {
    let place = Place::open(directory)?;
    let _lock = place.lock()?;
    teardown::remove(&place).await?;
    Progress::new(Stream::Out).say(&format!("{} is removed", place.directory().display()));
    Ok(())
}

fn stream(json: bool) -> Stream {
    if json { Stream::Err } else { Stream::Out }
}

/// Who runs the servers: `postgres` where we are root, else ourselves.
fn servers_owner() -> Result<Owner> {
    // The owner of a data directory that isn't there yet is whoever is going to make it.
    Ok(Owner::of(Path::new("/nonexistent/pgaa-demo"))?)
}

impl Demo {
    async fn start(nodes: u16, directory: Option<&Path>, stream: Stream) -> Result<Demo> {
        let (least, most) = NODES.into_inner();
        ensure!(
            NODES.contains(&nodes),
            "a demo has {least} to {most} nodes, not {nodes}"
        );
        let interrupt = Interrupt::listen()?;
        let bin_dir = server_programs::find()?;
        let owner = servers_owner()?;
        let held = reserve_for(nodes)?;
        let place = Place::create(directory, &owner)?;
        let _lock = place.lock()?;
        let program = node::program_for(&owner, &place)?;
        let ports: Vec<_> = held.iter().map(|held| held.ports).collect();
        let state = DemoState::new(bin_dir, program, &ports);
        let progress = Progress::new(stream);
        let mut demo = Demo {
            place,
            state,
            owner,
            interrupt,
            progress,
        };
        let several = if nodes == 1 {
            "1 node".to_owned()
        } else {
            format!("{nodes} nodes")
        };
        demo.progress.say(&format!(
            "{several} in {}",
            demo.place.directory().display()
        ));
        let started = match demo.prepare() {
            Ok(()) => demo.launch(0, held).await,
            Err(error) => Err(error),
        };
        match started {
            Ok(()) => Ok(demo),
            Err(error) => Err(demo.failed(error).await),
        }
    }

    /// Writes what all nodes share.
    fn prepare(&self) -> Result<()> {
        self.state.write(&self.place)?;
        let token = JoinToken::mint()?.reveal();
        self.place
            .write_secret(&self.place.token_file(), &token, &self.owner)
    }

    /// Replaces the token of the founding when it has expired, or is about to: a demo may run for
    /// days before somebody adds a node.
    async fn renew_token(&self) -> Result<()> {
        let file = self.place.token_file();
        let now = Clocks::start().wall().0 / 1000;
        let age_s = u64::try_from(now - fs::metadata(&file)?.mtime()).unwrap_or(0);
        // A tenth is kept for the join itself.
        if age_s < OUTLIVES_FOUNDING.as_secs() / 10 * 9 {
            return Ok(());
        }
        let token = watch::new_token(&self.state, &self.place).await?;
        fs::remove_file(&file)?;
        self.place.write_secret(&file, &token, &self.owner)
    }

    async fn launch(&mut self, first: usize, held: Vec<ports::Reserved>) -> Result<()> {
        let Demo {
            place,
            state,
            owner,
            interrupt,
            progress,
        } = self;
        launch(
            state,
            first,
            held,
            Around {
                place,
                owner,
                interrupt,
            },
            progress,
        )
        .await
    }

    /// The demonstration itself.
    async fn show(&mut self) -> Result<()> {
        let Demo {
            place,
            state,
            interrupt,
            progress,
            ..
        } = self;
        let clients = rows::connect(state).await?;
        let goal = Goal {
            what: "the table demo_rows is replicated",
            reached: table_is_replicated,
            patience: TABLE_MAX,
        };
        let seen = Seen::default();
        let table = async {
            rows::create_table(&clients).await?;
            until(&goal, state, place, &seen, interrupt).await
        };
        let made = |_: &()| "table demo_rows made and replicated on every node".to_owned();
        progress
            .phase("making the table demo_rows", String::new, table, made)
            .await?;
        let count = clients.len();
        let rows = rows::write_and_wait(clients);
        let arrived = |arrivals: &rows::Arrivals| match count {
            1 => "a row written".to_owned(),
            _ => format!(
                "a row written on each node; every node has all {count}, the last after {} ms",
                arrivals.last_ms()
            ),
        };
        let arrivals = progress
            .phase("writing a row on each node", String::new, rows, arrived)
            .await?;
        print(&format!("\n{}\n\n", arrivals.table()))?;
        self.status()?;
        print(&self.lines())
    }

    /// What the first node's agent says, as its own command line shows it.
    fn status(&self) -> Result<()> {
        let Some(node) = self.state.nodes.first() else {
            return Ok(());
        };
        let socket = self.place.node(&node.name).agent_socket();
        let mut command = Command::new(&self.state.program);
        // Its exit code says how well it goes; a clock without a source is enough for a 1.
        command
            .arg("--socket")
            .arg(socket)
            .arg("status")
            .status()
            .context("status can't be shown")?;
        Ok(())
    }

    /// How to go on from here.
    fn lines(&self) -> String {
        let mut text = String::from("\n");
        for node in &self.state.nodes {
            text.push_str(&format!("{}  psql '{}'\n", node.name, self.state.dsn(node)));
        }
        if let Some(node) = self.state.nodes.first() {
            let socket = self.place.node(&node.name).agent_socket();
            text.push_str(&format!(
                "status of {}:  pgaa-agent --socket {} status\n",
                node.name,
                socket.display()
            ));
        }
        text
    }

    /// Tells what runs now.
    fn tell(&self, json: bool) -> Result<()> {
        if json {
            let text = serde_json::to_string_pretty(&self.state.document(&self.place))?;
            return print(&format!("{text}\n"));
        }
        let directory = self.place.directory().display();
        let text = format!(
            "{}one more node:  pgaa-agent demo add --dir {directory}\n\
             remove it all:  pgaa-agent demo down --dir {directory}\n",
            self.lines()
        );
        print(&text)
    }

    /// Clears up after a failure, and says what is left to look at.
    async fn failed(&self, error: Error) -> Error {
        let directory = self.place.directory().display();
        if error.is::<Interrupted>() || nobody_reads(&error) {
            return match teardown::remove(&self.place).await {
                Ok(()) => error,
                Err(left) => left.context(format!("{error}, and not everything could be removed")),
            };
        }
        self.print_logs(&error);
        let stopped = match teardown::stop(&self.state, &self.state.nodes, &self.place).await {
            Ok(()) => "its processes were stopped".to_owned(),
            Err(left) => format!("{left:#}"),
        };
        anyhow!(
            "{error:#}\nthe demo failed: {stopped}; everything else is kept in {directory}\n\
             remove it:  pgaa-agent demo down --dir {directory}"
        )
    }

    /// The same for a node that was to be added: the others go on.
    async fn joined_not(&mut self, index: usize, error: Error) -> Error {
        let name = self.state.nodes[index].name.clone();
        if !error.is::<Interrupted>() {
            self.print_logs(&error);
        }
        let stopped = match teardown::drop_node(&mut self.state, index, &self.place).await {
            Ok(()) => "its processes were stopped".to_owned(),
            Err(left) => format!("{left:#}"),
        };
        let forgotten = watch::forget(&self.state, &self.place, &name).await;
        let directory = self.place.directory().display();
        anyhow!(
            "{error:#}\n{name} was not added: {stopped}{forgotten}; its files are kept in \
             {directory}/{name}"
        )
    }

    fn print_logs(&self, error: &Error) {
        let logs = failure::logs(error, &self.state, &self.place, &self.owner);
        // Standard error may be closed; the error itself is returned all the same.
        let _ = io::stderr().write_all(logs.as_bytes());
    }
}

/// Has the one who read standard output gone (`demo | head`)? Nothing is wrong with the nodes.
fn nobody_reads(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

fn print(text: &str) -> Result<()> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("standard output is closed")
}
