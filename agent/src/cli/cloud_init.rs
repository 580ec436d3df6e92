//! User-data for the machines of a new mesh, made from the template that we ship.
//!
//! Works without an agent, a configuration and root: on the laptop of whoever makes the machines.

use super::args::RenderArgs;
use super::exit::{Exit, Failure};
use super::terminal::print;
use crate::config;
use crate::durable;
use crate::trust::JoinToken;
use anyhow::Context;
use std::io::Write;
use toml_edit::{Array, DocumentMut};

/// What we ship, and what `make boot-test` boots machines with: for an image that has the package,
const BAKED: &str = include_str!("../../../cloud-init/user-data");

/// for one that has not,
const INSTALL: &str = include_str!("../../../cloud-init/user-data-install");

/// and for machines that are handed the token by themselves.
const CREDENTIAL: &str = include_str!("../../../cloud-init/user-data-credential");

/// What stands in a template for the package, and for its hash.
const NO_PACKAGE: [&str; 2] = ["https://example.org/pgaa-agent.deb", "REPLACE-SHA256"];

/// What stands in the template for the join token.
const NO_TOKEN: &str = "pgaa1.REPLACE-ID.REPLACE-SECRET";

/// How far the configuration is indented in the template, below `content: |`.
const INDENT: &str = "      ";

/// `cloud-init render`: the user-data on standard output, what is secret in it on standard error.
pub fn render(arguments: &RenderArgs) -> Result<Exit, Failure> {
    let token = JoinToken::mint().context("no join token can be made")?;
    let text = user_data(arguments, &token.reveal())?;
    let holder = match &arguments.token_to {
        None => "the join token in it is secret: whoever reads this user-data".to_owned(),
        Some(file) => {
            durable::write(file, format!("{}\n", *token.reveal()).as_bytes(), 0o600)
                .with_context(|| format!("{} can't be written", file.display()))?;
            let file = file.display();
            format!(
                "nothing in it is secret; hand {file} to each machine as the credential pgaa.token: \
                 whoever reads that"
            )
        }
    };
    print(&text)?;
    let _ = writeln!(
        std::io::stderr(),
        "pgaa-agent: {holder} can join the mesh until a day after the founding. Keep it out of logs \
         and repositories; later machines get one of their own from `pgaa-agent token create`"
    );
    Ok(Exit::Ok)
}

fn user_data(arguments: &RenderArgs, token: &str) -> Result<String, Failure> {
    let template = match (&arguments.package_url, &arguments.token_to) {
        (Some(_), _) => INSTALL,
        (None, Some(_)) => CREDENTIAL,
        (None, None) => BAKED,
    };
    let (before, sample, after) = parts(template).context("the template is damaged")?;
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
    let text = format!("{before}{indented}{after}").replace(NO_TOKEN, token);
    match (&arguments.package_url, &arguments.package_sha256) {
        (Some(url), Some(sha256)) => with_package(&text, url, sha256),
        (Some(_) | None, Some(_) | None) => Ok(text),
    }
}

/// Fills in where the package is. Both stand in quotes in YAML, and neither has any.
fn with_package(text: &str, url: &str, sha256: &str) -> Result<String, Failure> {
    let wrong = |text: String| Err(Failure::new(Exit::Configuration, text));
    let remote = url.starts_with("https://") || url.starts_with("http://");
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\');
    if !remote || !url.chars().all(plain) {
        return wrong(format!("{url:?} is no http:// or https:// address"));
    }
    if sha256.len() != 64 || !sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return wrong(format!(
            "{sha256:?} is no SHA-256: sha256sum prints 64 hex digits"
        ));
    }
    let [no_url, no_sha256] = NO_PACKAGE;
    Ok(text.replace(no_url, url).replace(no_sha256, sha256))
}

/// The template around its configuration, and the configuration without its indentation.
fn parts(template: &str) -> Option<(&str, String, &str)> {
    let start = template.find("content: |\n")? + "content: |\n".len();
    let (before, rest) = template.split_at(start);
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
            package_url: None,
            package_sha256: None,
            token_to: None,
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
    fn machines_can_install_the_package_or_be_handed_the_token() {
        let sha256 = "5e".repeat(32);
        let install = RenderArgs {
            package_url: Some("https://books.example.org/p.deb".to_owned()),
            package_sha256: Some(sha256.clone()),
            ..arguments()
        };
        let text = user_data(&install, "pgaa1.1.2").unwrap();
        for part in [
            "https://books.example.org/p.deb",
            &sha256,
            "pgaa1.1.2",
            "\"books\"",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(
            !text.contains("REPLACE") && !text.contains("//example.org"),
            "{text}"
        );
        let handed = RenderArgs {
            token_to: Some("token".into()),
            ..arguments()
        };
        let text = user_data(&handed, "pgaa1.1.2").unwrap();
        assert!(
            text.contains("\"books\"") && !text.contains("pgaa1.1"),
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
            RenderArgs {
                package_url: Some("https://x/\", \"".to_owned()),
                package_sha256: Some("5e".repeat(32)),
                ..arguments()
            },
            RenderArgs {
                package_url: Some("https://x/p.deb".to_owned()),
                package_sha256: Some("5e".repeat(31)),
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
