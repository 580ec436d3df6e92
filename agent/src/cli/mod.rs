//! The command line: arguments in, text and an exit code out.
//!
//! Knows no SQL and no wire types; what an agent says and does comes through `control::client`.

mod acting;
mod args;
mod backup;
mod cloud_init;
mod conflicts;
mod exit;
mod local;
mod reading;
pub mod render;
mod restore;
mod session;
mod terminal;
mod verify;
mod wait;

pub use exit::Exit;

use crate::config::Loaded;
use crate::control::Act;
use crate::telemetry::Systemd;
use crate::{daemon, demo, telemetry};
use anyhow::Context;
use args::{
    BackupCommand, Cli, CloudInitCommand, Command, DemoArgs, DemoCommand, Global, Output, OutputArg,
};
use clap::Parser;
use exit::Failure;
use log::LevelFilter;
use pgaa_core::verify::{Mending, Wish};
use reading::View;
use std::future::Future;
use std::io::Write;
use std::process::ExitCode;
use tokio::runtime;

/// Runs one command. The caller exits with what this returns.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come as errors too; they go to standard output.
            let code = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Ok
            };
            let _ = error.print();
            return code.into();
        }
    };
    match command(cli.global, cli.command) {
        Ok(exit) => exit.into(),
        Err(Failure { exit, text }) => {
            if !text.is_empty() {
                let _ = writeln!(std::io::stderr(), "pgaa-agent: {text}");
            }
            exit.into()
        }
    }
}

/// Drives a future on this thread: one question to an agent needs no more.
fn drive<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no event loop can be made")?;
    runtime.block_on(work)
}

fn command(global: Global, command: Command) -> Result<Exit, Failure> {
    let g = &global;
    match command {
        Command::Run => run(g),
        Command::Status {
            watch: true,
            output,
        } => drive(reading::watch(g, output.output)),
        Command::Status {
            watch: false,
            output,
        } => drive(reading::show(g, View::Status, output.output)),
        Command::Nodes(OutputArg { output }) => drive(reading::show(g, View::Nodes, output)),
        Command::Topology(OutputArg { output }) => drive(reading::show(g, View::Topology, output)),
        Command::Clock(OutputArg { output }) => drive(reading::clock(g, output)),
        Command::Events {
            since,
            follow,
            output,
        } => drive(reading::events(g, since, follow, output.output)),
        Command::Wait { goal, timeout } => drive(wait::wait(g, goal, timeout)),
        Command::Verify {
            tables,
            eager,
            repair,
            dry_run,
            resume,
            output,
        } => {
            let mending = match (repair, dry_run) {
                (false, _) => Mending::None,
                (true, true) => Mending::Told,
                (true, false) => Mending::Done,
            };
            let wish = Wish {
                tables,
                eager,
                mending,
                resume,
            };
            drive(verify::verify(g, wish, output.output))
        }
        Command::Backup(BackupCommand::Restore(command)) => {
            log_to_stderr(g)?;
            restore::restore(g, command)
        }
        Command::Backup(BackupCommand::Keep(command)) => drive(backup::backup(g, command)),
        Command::Conflicts(arguments) => drive(conflicts::conflicts(g, arguments)),
        Command::Config(command) => local::config(g, command),
        Command::Token(command) => drive(acting::token(g, command)),
        Command::Sequences(command) => drive(acting::sequences(g, command)),
        Command::Leave { force } => drive(acting::act(g, Act::Leave { force }, Output::Text)),
        Command::Forget { node, force } => {
            drive(acting::act(g, Act::Forget { node, force }, Output::Text))
        }
        Command::Rejoin { node } => drive(acting::act(g, Act::Rejoin { node }, Output::Text)),
        Command::SkipTransaction {
            node,
            transaction,
            output,
        } => {
            let skip = Act::SkipTransaction { node, transaction };
            drive(acting::act(g, skip, output.output))
        }
        Command::Restart => drive(acting::act(g, Act::RestartPostgres, Output::Text)),
        Command::Found {
            promise_holder,
            yes,
            ..
        } => drive(acting::found(g, promise_holder, yes)),
        Command::Promise(command) => drive(acting::promise(g, command)),
        Command::CloudInit(CloudInitCommand::Render(arguments)) => cloud_init::render(&arguments),
        Command::Image(command) => local::image(g, command),
        Command::Completion { shell } => local::completion(shell),
        Command::Man { dir } => local::man(dir.as_deref()),
        Command::Provision { before_start } => {
            log_to_stderr(g)?;
            match before_start {
                Some(instance) => local::before_start(g, &instance),
                None => local::provision(g),
            }
        }
        Command::Demo(arguments) => {
            log_to_stderr(g)?;
            drive(demo(arguments))
        }
    }
}

/// `run`
fn run(global: &Global) -> Result<Exit, Failure> {
    let Loaded {
        settings, warnings, ..
    } = session::load(global)?;
    let level = match global.verbose {
        0 => settings.log.level,
        1 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    telemetry::init_log(level, settings.node.name.as_str())?;
    for warning in &warnings {
        log::warn!("{warning}");
    }
    drive(async {
        match daemon::run(settings, Systemd::new()).await {
            Ok(()) => Ok(Exit::Ok),
            // systemd does not start it again then: see RestartPreventExitStatus= in the unit.
            Err(error) if error.is::<daemon::Misconfigured>() => {
                Err(Failure::new(Exit::Configuration, format!("{error:#}")))
            }
            Err(error) => Err(error.into()),
        }
    })
}

/// `demo`
async fn demo(arguments: DemoArgs) -> Result<Exit, Failure> {
    match arguments.command {
        None => demo::demo(arguments.nodes).await?,
        Some(DemoCommand::Up { nodes, dir, output }) => {
            demo::up(nodes, dir.as_deref(), output.output == Output::Json).await?;
        }
        Some(DemoCommand::Add { dir, output }) => {
            demo::add(&dir, output.output == Output::Json).await?;
        }
        Some(DemoCommand::Down { dir }) => demo::down(&dir).await?,
    }
    Ok(Exit::Ok)
}

/// Sets the log up for a command that isn't the daemon.
fn log_to_stderr(global: &Global) -> Result<(), Failure> {
    let level = match global.verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    Ok(telemetry::init_log(level, "")?)
}
