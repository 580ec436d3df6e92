//! The commands that need no running agent: config, completion, man, provision.

use super::args::{Cli, ConfigCommand, Global, ImageCommand};
use super::exit::{Exit, Failure};
use super::session;
use super::terminal::print;
use crate::clock;
use crate::config::{self, Loaded};
use crate::image::Image;
use crate::postgres;
use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;
use std::fs;
use std::path::Path;

/// `config`
pub fn config(global: &Global, command: ConfigCommand) -> Result<Exit, Failure> {
    match command {
        ConfigCommand::Check => check(global),
        ConfigCommand::Show { origin } => show(global, origin),
        ConfigCommand::Sample => {
            print(&config::sample())?;
            Ok(Exit::Ok)
        }
    }
}

fn check(global: &Global) -> Result<Exit, Failure> {
    let Loaded {
        settings,
        mut warnings,
        ..
    } = session::load(global)?;
    warnings.extend(config::token_warning(&settings));
    for warning in &warnings {
        print(&format!("warning: {warning}\n"))?;
    }
    let cluster = &settings.policy.cluster_name;
    print(&format!(
        "the configuration is right: node {} of cluster {cluster}, database {}\n",
        settings.node.name, settings.policy.database
    ))?;
    Ok(Exit::Ok)
}

/// Shows what counts even where it is wrong, and says on standard error what is wrong.
fn show(global: &Global, origin: bool) -> Result<Exit, Failure> {
    let (merged, _) = config::Merged::read_all(&session::sources(global));
    print(&config::show(&merged, origin))?;
    session::load(global).map(|_| Exit::Ok)
}

/// `completion`
pub fn completion(shell: Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "pgaa-agent", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}

/// `man`: pgaa-agent(1) with the whole configuration, or with a directory one page a command.
pub fn man(directory: Option<&Path>) -> Result<Exit, Failure> {
    let page = main_page()?;
    let Some(directory) = directory else {
        print(&String::from_utf8_lossy(&page))?;
        return Ok(Exit::Ok);
    };
    clap_mangen::generate_to(Cli::command(), directory)
        .and_then(|()| fs::write(directory.join("pgaa-agent.1"), page))
        .with_context(|| format!("manual pages can't be written to {}", directory.display()))?;
    Ok(Exit::Ok)
}

fn main_page() -> Result<Vec<u8>, Failure> {
    let man = Man::new(Cli::command());
    let mut page = Vec::new();
    man.render(&mut page)?;
    page.extend_from_slice(config::man_section().as_bytes());
    Ok(page)
}

/// `image`. The configuration may be wrong or missing: it isn't what makes a machine.
pub fn image(global: &Global, command: ImageCommand) -> Result<Exit, Failure> {
    let (merged, _) = config::Merged::read_all(&session::sources(global));
    let path = |key| merged.path(key).unwrap_or_default();
    let image = Image {
        root: "/".into(),
        state_dir: path("paths.state_dir"),
        run_dir: path("paths.run_dir"),
    };
    if let ImageCommand::Seal = command {
        for removed in image.seal()? {
            print(&format!("{removed}\n"))?;
        }
    }
    let left = image.check()?;
    if left.is_empty() {
        print("nothing in this image belongs to one machine\n")?;
        return Ok(Exit::Ok);
    }
    let lines: Vec<String> = left.iter().map(ToString::to_string).collect();
    Err(Failure::new(Exit::Degraded, lines.join("\npgaa-agent: ")))
}

/// `provision`: what has to be there before PostgreSQL's first start.
pub fn provision(global: &Global) -> Result<Exit, Failure> {
    let Loaded { settings, .. } = session::load(global)?;
    let report = postgres::provision(&settings).context("PostgreSQL can't be made ready")?;
    for done in &report.done {
        print(&format!("{done}\n"))?;
    }
    for note in &report.notes {
        print(&format!(
            "off: {}: {}; {}\n",
            note.feature, note.why, note.remedy
        ))?;
    }
    if let Some(unkept) = clock::unkept(Path::new("/")) {
        print(&format!("warning: {unkept}\n"))?;
    }
    if report.done.is_empty() {
        print("everything was ready\n")?;
    }
    if report.created && postgres::start_by_systemd(&settings).context("PostgreSQL")? {
        print("asked systemd to start it\n")?;
    }
    Ok(Exit::Ok)
}

/// `provision --before-start`: from PostgreSQL's unit, on every machine that has the package. So
/// it is silent where there is no mesh, and never the first to write anything.
pub fn before_start(global: &Global, instance: &str) -> Result<Exit, Failure> {
    if !session::sources(global).exist() {
        return Ok(Exit::Ok);
    }
    let Loaded { settings, .. } = session::load(global)?;
    let done = postgres::provision::refresh(&settings, instance);
    for line in done.context("the settings can't be kept right")? {
        print(&format!("{line}\n"))?;
    }
    Ok(Exit::Ok)
}
