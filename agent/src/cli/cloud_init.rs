//! User-data for the machines of a new mesh, made from the template that we ship.
//!
//! Works without an agent, a configuration and root: on the laptop of whoever makes the machines.

use super::args::RenderArgs;
use super::exit::{Exit, Failure};
use super::terminal::print;
use crate::config;
use crate::trust::JoinToken;
use anyhow::Context;
use std::io::Write;
use toml_edit::{Array, DocumentMut};

/// What we ship, and what `make boot-test` boots machines with.
const TEMPLATE: &str = include_str!("../../../cloud-init/user-data");

/// What stands in the template for the join token.
const NO_TOKEN: &str = "pgaa1.REPLACE-ID.REPLACE-SECRET";

/// How far the configuration is indented in the template, below `content: |`.
const INDENT: &str = "      ";

/// `cloud-init render`: the user-data on standard output, what is secret in it on standard error.
pub fn render(arguments: &RenderArgs) -> Result<Exit, Failure> {
    let token = JoinToken::mint().context("no join token can be made")?;
    let text = user_data(arguments, &token.reveal())?;
    print(&text)?;
    let secret = "the join token in it is secret: whoever reads this user-data can join the mesh \
                  until a day after the founding. Keep it out of logs and repositories; later \
                  machines get one of their own from `pgaa-agent token create`";
    let _ = writeln!(std::io::stderr(), "pgaa-agent: {secret}");
    Ok(Exit::Ok)
}

fn user_data(arguments: &RenderArgs, token: &str) -> Result<String, Failure> {
    let (before, sample, after) = parts().context("the template is damaged")?;
    let mut document: DocumentMut = sample.parse().context("the template is damaged")?;
    document["cluster"]["name"] = toml_edit::value(&arguments.name);
    document["cluster"]["expect"] = toml_edit::value(i64::from(arguments.expect));
    let seeds: Array = arguments.seeds.iter().collect();
    document["cluster"]["seeds"] = toml_edit::value(seeds);
    let database = arguments.database.as_ref().unwrap_or(&arguments.name);
    document["postgres"]["database"] = toml_edit::value(database);
    let configuration = document.to_string();
    config::check_text(&configuration)?;
    let indented: String = configuration
        .lines()
        .map(|line| match line {
            "" => "\n".to_owned(),
            line => format!("{INDENT}{line}\n"),
        })
        .collect();
    Ok(format!("{before}{indented}{after}").replace(NO_TOKEN, token))
}

/// The template around its configuration, and the configuration without its indentation.
fn parts() -> Option<(&'static str, String, &'static str)> {
    let start = TEMPLATE.find("content: |\n")? + "content: |\n".len();
    let (before, rest) = TEMPLATE.split_at(start);
    let belongs = |line: &&str| line.starts_with(INDENT) || line.trim().is_empty();
    let length = rest
        .split_inclusive('\n')
        .take_while(belongs)
        .map(str::len)
        .sum();
    let (inside, after) = rest.split_at(length);
    let lines = inside
        .lines()
        .map(|line| line.strip_prefix(INDENT).unwrap_or(""));
    Some((
        before,
        lines.map(|line| format!("{line}\n")).collect(),
        after,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments() -> RenderArgs {
        RenderArgs {
            name: "books".to_owned(),
            expect: 2,
            seeds: vec!["10.1.2.3".to_owned(), "db.example.org".to_owned()],
            database: None,
        }
    }

    #[test]
    fn everything_that_was_asked_for_is_in_it() {
        let token = JoinToken::mint().unwrap();
        let text = user_data(&arguments(), &token.reveal()).unwrap();
        assert!(text.starts_with("#cloud-config\n"), "{text}");
        for line in [
            "      name = \"books\"\n",
            "      expect = 2\n",
            "      seeds = [\"10.1.2.3\", \"db.example.org\"]\n",
            "      database = \"books\"\n",
            "  - path: /etc/pgaa/token\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in {text}");
        }
        assert!(text.contains(token.reveal().as_str()));
        assert!(
            !text.contains("REPLACE") && !text.contains("shop"),
            "{text}"
        );
    }

    #[test]
    fn what_the_agent_would_refuse_is_refused_here() {
        let wrong = [
            RenderArgs {
                name: "No Name".to_owned(),
                ..arguments()
            },
            RenderArgs {
                expect: 0,
                ..arguments()
            },
            RenderArgs {
                seeds: vec!["exec:relative".to_owned()],
                ..arguments()
            },
            RenderArgs {
                database: Some("a\nb".to_owned()),
                ..arguments()
            },
        ];
        for arguments in wrong {
            let refused = user_data(&arguments, "pgaa1.0.0");
            let exit = refused.map_err(|failure| failure.exit).unwrap_err();
            assert_eq!(exit, Exit::Configuration, "{arguments:?}");
        }
    }
}
