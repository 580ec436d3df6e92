//! `backup restore`, `backup diff`, `backup discard`: the ways back, in this process and as the
//! owner of PostgreSQL's files, so that they work when no agent runs.

mod anew;
mod args;
mod prove;
mod time;

pub use args::RestoreCommand;

use super::args::{Global, Output};
use super::exit::{Exit, Failure};
use super::render::lost as render;
use super::terminal::{page, print};
use super::{drive, session};
use crate::config::Settings;
use crate::postgres::Postgres;
use crate::postgres::owner::Owner;
use crate::restore::diff::{Compared, Sides};
use crate::restore::{Purpose, Scratch, Side, Wish, bring, discard_left, scratch_root};
use anyhow::{Context, anyhow};
use args::{DiffArgs, PastArgs};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use nix::unistd::geteuid;
use pgaa_core::restore::Target;
use pgaa_core::restore::found::Role;
use pgaa_core::restore::lost::LostReport;
use pgaa_core::restore::order::parents_first;
use pgaa_core::status::SCHEMA_VERSION;
use serde_json::json;
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

/// Runs one of them.
pub fn restore(global: &Global, command: RestoreCommand) -> Result<Exit, Failure> {
    let settings = session::load(global)?.settings;
    match command {
        RestoreCommand::Restore { to, past, output } => {
            become_owner(&settings, Some(&to))?;
            drive(side(&settings, to, &past, output.output))
        }
        RestoreCommand::Discard { directory } => {
            become_owner(&settings, None)?;
            discard(&settings, &directory)
        }
        RestoreCommand::Verify {
            scratch, output, ..
        } => {
            become_owner(&settings, scratch.as_deref())?;
            drive(prove::prove(&settings, scratch, output.output))
        }
        RestoreCommand::Found { past, yes } => {
            become_owner(&settings, None)?;
            let past = (target(&past)?, past.stanza);
            drive(anew::anew(&settings, Role::Founder, past, yes))
        }
        RestoreCommand::JoinAnew { yes } => {
            become_owner(&settings, None)?;
            let past = (Target::Latest, None);
            drive(anew::anew(&settings, Role::Joiner, past, yes))
        }
        RestoreCommand::Diff(arguments) => {
            become_owner(&settings, arguments.scratch.as_deref())?;
            drive(diff(&settings, &arguments))
        }
    }
}

/// Goes on as the owner of PostgreSQL's files: neither PostgreSQL nor pgBackRest runs as root. A
/// directory that only root can make is made before, for that owner.
fn become_owner(settings: &Settings, directory: Option<&Path>) -> Result<(), Failure> {
    let owner = Owner::of(&settings.postgres.data_dir)
        .map_err(|error| Failure::new(Exit::Permission, error.to_string()))?;
    if !geteuid().is_root() {
        return Ok(());
    }
    if let Some(directory) = directory {
        make_for(&owner, directory)?;
    }
    let program = std::env::current_exe().context("this program can't be found again")?;
    let mut command = owner.command(&program);
    command.args(std::env::args_os().skip(1));
    command.current_dir(std::env::current_dir().unwrap_or("/".into()));
    // `Owner::command` takes away what begins with PG.
    let ours = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PGAA_"));
    command.envs(ours);
    Err(anyhow!(command.exec())
        .context(format!("can't go on as {}", owner.name))
        .into())
}

/// mkdir follows no link and takes nothing that is there.
fn make_for(owner: &Owner, directory: &Path) -> anyhow::Result<()> {
    if std::fs::symlink_metadata(directory).is_ok() {
        return Ok(());
    }
    // Whom it belongs to can make it itself, and will.
    let able = owner.act(|| {
        std::fs::create_dir(directory)
            .and_then(|()| std::fs::remove_dir(directory))
            .is_ok()
    })?;
    if !able && directory.parent().is_some_and(Path::exists) {
        std::fs::create_dir(directory)
            .and_then(|()| owner.take_over(directory))
            .with_context(|| format!("{} can't be made", directory.display()))?;
    }
    Ok(())
}

fn target(past: &PastArgs) -> Result<Target, Failure> {
    let Some(text) = &past.target_time else {
        return Ok(Target::Latest);
    };
    let now = crate::clock::Clocks::start().wall().0;
    let now = Timestamp::from_millisecond(now).context("this machine's clock")?;
    let read = time::read(text, now, &TimeZone::system());
    let us = read.map_err(|why| Failure::new(Exit::Usage, format!("--target-time: {why}")))?;
    Ok(Target::Time(us))
}

fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{}", super::render::clean(text));
}

/// `backup restore`
async fn side(
    settings: &Settings,
    to: PathBuf,
    past: &PastArgs,
    output: Output,
) -> Result<Exit, Failure> {
    let wish = Wish {
        directory: to,
        purpose: Purpose::Side,
        target: target(past)?,
        stanza: past.stanza.clone(),
    };
    let side = bring(settings, &wish, &mut tell).await?;
    let manifest = side.scratch().manifest();
    let directory = side.scratch().directory().display().to_string();
    let place = side.place();
    let socket = place.socket_dir.display().to_string();
    let psql = format!(
        "psql -h {socket} -p {} -U {} -d {}",
        place.port, place.role, settings.policy.database
    );
    if output == Output::Json {
        let document = json!({
            "schema_version": SCHEMA_VERSION,
            "directory": directory,
            "socket_directory": socket,
            "port": place.port,
            "database": settings.policy.database,
            "stanza": manifest.stanza,
            "backup": manifest.backup,
            "recovered_to": manifest.recovered_to,
        });
        print(&format!("{document}\n"))?;
        return Ok(Exit::Ok);
    }
    let until = manifest
        .recovered_to
        .as_deref()
        .unwrap_or("the backup itself");
    print(&format!(
        "a copy of the database runs apart from the mesh; its last commit is of {until}\n\
         to look into it, as root or {owner}:\n  {psql}\n\
         what was lost since:\n  pgaa-agent backup diff --from {directory}\n\
         when it isn't needed any more:\n  pgaa-agent backup discard {directory}\n",
        owner = Owner::of(&settings.postgres.data_dir).map_or("its owner".to_owned(), |o| o.name),
    ))?;
    Ok(Exit::Ok)
}

/// `backup discard`
fn discard(settings: &Settings, directory: &Path) -> Result<Exit, Failure> {
    let scratch = Scratch::open(directory).map_err(anyhow::Error::from)?;
    let scratch = scratch.with_context(|| {
        format!(
            "{} was not made by pgaa-agent backup restore; nothing was removed",
            directory.display()
        )
    })?;
    match Side::new(scratch, settings).discard()? {
        None => print("it is stopped and removed\n")?,
        Some(left) => print(&format!("it is stopped and removed; {left}\n"))?,
    }
    Ok(Exit::Ok)
}

/// `backup diff`
async fn diff(settings: &Settings, arguments: &DiffArgs) -> Result<Exit, Failure> {
    if let Some(from) = &arguments.from {
        let scratch = Scratch::open(from).map_err(anyhow::Error::from)?;
        let scratch = scratch.with_context(|| {
            format!(
                "{} holds no copy; make one: pgaa-agent backup restore --to {}",
                from.display(),
                from.display()
            )
        })?;
        let mut side = Side::new(scratch, settings);
        side.start().await?;
        return compare(settings, &side, arguments).await;
    }
    let above = match &arguments.scratch {
        Some(directory) => directory.clone(),
        None => scratch_root(settings),
    };
    discard_left(settings, &above).await;
    let wish = Wish {
        directory: above.join(format!("diff-{}", std::process::id())),
        purpose: Purpose::Passing,
        target: target(&arguments.past)?,
        stanza: arguments.past.stanza.clone(),
    };
    let work = async {
        let side = bring(settings, &wish, &mut tell).await?;
        compare(settings, &side, arguments).await
    };
    let done = tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Exit::Degraded, "interrupted")),
    };
    // The work has let go of it.
    discard_left(settings, &above).await;
    done
}

async fn compare(settings: &Settings, side: &Side, arguments: &DiffArgs) -> Result<Exit, Failure> {
    let (past, live) = (side.postgres(), Postgres::new(settings));
    let sides = Sides {
        past: &past,
        live: &live,
    };
    let tables = tables(&live, &arguments.tables).await?;
    let mut compared = Vec::with_capacity(tables.len());
    for table in &tables {
        tell(&format!("comparing {table}"));
        compared.push(sides.compare(table, arguments.rows).await);
    }
    let mut report = report(side, &compared);
    let lost = report.totals();
    if arguments.write_back && lost.0 + if arguments.changed { lost.1 } else { 0 } > 0 {
        if !arguments.yes {
            confirm(&report, arguments.changed)?;
        }
        for table in &mut compared {
            sides.write_back(table, arguments.changed).await;
        }
        report.tables = compared.iter().map(|of| of.table.clone()).collect();
    }
    show(&report, arguments)?;
    Ok(ending(&report, arguments))
}

/// The tables by the names that were given, parents first.
async fn tables(live: &Postgres, wanted: &[String]) -> Result<Vec<String>, Failure> {
    let known = live.user_tables().await.map_err(anyhow::Error::from)?;
    let references = live.references().await.map_err(anyhow::Error::from)?;
    let mut chosen = Vec::new();
    for name in wanted {
        let bare = |table: &&String| table.rsplit_once('.').is_some_and(|(_, bare)| bare == name);
        let fits: Vec<&String> = known
            .iter()
            .filter(|table| *table == name || bare(table))
            .collect();
        match fits.as_slice() {
            [one] => chosen.push((*one).clone()),
            [] => {
                let text = format!("{name} is not replicated; which tables are: pgaa-agent status");
                return Err(Failure::new(Exit::Usage, text));
            }
            [..] => {
                let text = format!("several schemas have a table {name}: name it with its schema");
                return Err(Failure::new(Exit::Usage, text));
            }
        }
    }
    if wanted.is_empty() {
        chosen = known;
    }
    Ok(parents_first(&chosen, &references))
}

fn report(side: &Side, compared: &[Compared]) -> LostReport {
    let manifest = side.scratch().manifest();
    LostReport {
        schema_version: SCHEMA_VERSION,
        target: manifest.target,
        recovered_to: manifest.recovered_to.clone(),
        stanza: manifest.stanza.to_string(),
        backup: manifest.backup.clone(),
        tables: compared.iter().map(|of| of.table.clone()).collect(),
    }
}

fn confirm(report: &LostReport, changed: bool) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        let text = "nobody can be asked here: say --yes to write rows back";
        return Err(Failure::new(Exit::Usage, text));
    }
    let mut page = page();
    render::write(&mut page, report);
    let (deleted, differing) = report.totals();
    let also = match changed {
        true => format!(", and sets {differing} to what they were"),
        false => String::new(),
    };
    print(&format!(
        "{}\nThis inserts {deleted} rows again{also}. Triggers fire, and all nodes get them.\n\
         Type yes to go on: ",
        page.into_text()
    ))?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    match line.trim() {
        "yes" => Ok(()),
        _ => Err(Failure::new(Exit::Degraded, "nothing was written")),
    }
}

fn show(report: &LostReport, arguments: &DiffArgs) -> Result<(), Failure> {
    if arguments.output.output == Output::Json {
        let json = serde_json::to_string(report).context("the report")?;
        print(&format!("{json}\n"))?;
        return Ok(());
    }
    let mut page = page();
    render::write(&mut page, report);
    if !arguments.write_back && report.totals() != (0, 0) {
        render::advise(&mut page);
    }
    print(&page.into_text())?;
    Ok(())
}

/// As diff(1): 0 when nothing was lost, or all of it was written back.
fn ending(report: &LostReport, arguments: &DiffArgs) -> Exit {
    let whole = report.tables.iter().all(|table| {
        let back = table.written.unwrap_or_default();
        let open = |lost: u64, back: u64| lost > back;
        table.problem.is_none()
            && !open(table.deleted, back.inserted)
            && !(open(table.changed, back.updated) && (arguments.changed || !arguments.write_back))
    });
    if whole { Exit::Ok } else { Exit::Degraded }
}
