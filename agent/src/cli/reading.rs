//! The commands that only read: status, nodes, topology, clock, events.

use super::args::{Global, Output};
use super::exit::{Exit, Failure};
use super::render::{Page, clock, members, outcome, status, topology};
use super::session::connect;
use super::terminal::{page, print, redraw};
use crate::clock::Clocks;
use crate::control::client::Client;
use pgaa_core::status::{Health, SCHEMA_VERSION, StatusReport};
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;

/// What to show of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// All of it.
    Status,
    /// The nodes.
    Nodes,
    /// The edges.
    Topology,
    /// The clocks.
    Clock,
}

/// The fields that every version of the report has.
#[derive(Deserialize)]
struct Essence {
    schema_version: u32,
    health: Health,
}

/// Reads a report, or says that this program is too old for it.
pub fn read(json: &str) -> Result<StatusReport, Failure> {
    serde_json::from_str(json).map_err(|error| {
        let version = serde_json::from_str::<Essence>(json).map(|e| e.schema_version);
        let text = match version {
            Ok(version) if version != SCHEMA_VERSION => format!(
                "the agent speaks version {version} of the report, this program version \
                 {SCHEMA_VERSION}; upgrade this program, or read it with -o json"
            ),
            Ok(_) | Err(_) => {
                format!(
                    "the agent's report can't be read ({error}); upgrade this program, or \
                         read it with -o json"
                )
            }
        };
        Failure::new(Exit::Unreachable, text)
    })
}

fn draw(view: View, report: &StatusReport) -> String {
    let mut page = page();
    match view {
        View::Status => status::write(&mut page, report),
        View::Nodes => members::write_long(&mut page, report),
        View::Clock => clock::write(&mut page, report),
        View::Topology => {
            page.heading("EDGES", &topology::summary(report));
            status::legend(&mut page);
            topology::write(&mut page, report);
            if let Some(held) = topology::retained(report) {
                let text = format!("WAL is retained: {held}");
                page.paragraph("  ", super::render::Tint::Plain, &text);
            }
            for text in topology::differing(report) {
                page.paragraph("  ", super::render::Tint::Plain, &text);
            }
        }
    }
    page.into_text()
}

/// `status`, `nodes` and `topology`.
pub async fn show(global: &Global, view: View, output: Output) -> Result<Exit, Failure> {
    let json = connect(global).await?.status().await?;
    tell(&json, view, output)
}

fn tell(json: &str, view: View, output: Output) -> Result<Exit, Failure> {
    let health = match output {
        Output::Json => {
            print(&format!("{json}\n"))?;
            serde_json::from_str::<Essence>(json).map_or(Health::Ok, |essence| essence.health)
        }
        Output::Text => {
            let report = read(json)?;
            print(&draw(view, &report))?;
            report.health
        }
    };
    // The listings are answers in themselves; only `status` says how well it goes.
    Ok(if view == View::Status {
        health.into()
    } else {
        Exit::Ok
    })
}

/// `clock`: of the report, what concerns clocks.
pub async fn clock(global: &Global, output: Output) -> Result<Exit, Failure> {
    let json = connect(global).await?.status().await?;
    if output == Output::Text {
        return tell(&json, View::Clock, output);
    }
    let report = read(&json)?;
    let members: Vec<_> = report
        .members
        .iter()
        .map(|member| json!({ "node": member.node, "name": member.name, "clock": member.clock }))
        .collect();
    let document = json!({
        "schema_version": SCHEMA_VERSION,
        "answered_by": report.answered_by,
        "members": members,
        "clock": report.clock,
        "findings": clock::findings(&report).collect::<Vec<_>>(),
    });
    print(&format!("{document}\n"))?;
    Ok(Exit::Ok)
}

/// `status --watch`: until it is interrupted. On a terminal it outlives a restart of the agent.
pub async fn watch(global: &Global, output: Output) -> Result<Exit, Failure> {
    let redrawing = output == Output::Text && std::io::IsTerminal::is_terminal(&std::io::stdout());
    if redrawing {
        print("\x1b[2J")?;
    }
    loop {
        let failure = match follow(global, output).await {
            Ok(()) => Failure::new(Exit::Unreachable, "the agent has ended"),
            Err(failure) => failure,
        };
        let passing = matches!(failure.exit, Exit::Unreachable | Exit::TimedOut);
        if !redrawing || !passing {
            return Err(failure);
        }
        redraw(&format!("{failure}\n"))?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn follow(global: &Global, output: Output) -> Result<(), Failure> {
    let mut client = connect(global).await?;
    let mut documents = client.watch_status().await?;
    while let Some(json) = client.next(&mut documents).await? {
        match output {
            Output::Json => print(&format!("{json}\n"))?,
            Output::Text => redraw(&draw(View::Status, &read(&json)?))?,
        }
    }
    Ok(())
}

/// `events`.
pub async fn events(
    global: &Global,
    since: Option<Duration>,
    follow: bool,
    output: Output,
) -> Result<Exit, Failure> {
    let mut client = connect(global).await?;
    let now_ms = Clocks::start().wall().0;
    let since_ms = since.map_or(0, |since| {
        now_ms.saturating_sub(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    });
    let mut documents = client.events(since_ms, follow).await?;
    let mut some = false;
    while let Some(json) = client.next(&mut documents).await? {
        some = true;
        match output {
            Output::Json => print(&format!("{json}\n"))?,
            Output::Text => print(&event(&client, &json)?)?,
        }
    }
    if !some && output == Output::Text {
        print("nothing has happened in that time; pgaa-agent status shows what is so\n")?;
    }
    Ok(Exit::Ok)
}

fn event(client: &Client, json: &str) -> Result<String, Failure> {
    let mut page: Page = page();
    outcome::event(&mut page, &client.read_event(json)?);
    Ok(page.into_text())
}
