//! The table of keys as text: `config show`, the documented sample file, the manual page.

use super::fragment::Value;
use super::keys::{Default, KEYS, Key};
use super::sources::Merged;
use std::fmt::Write;

/// Every key with the value that counts, as TOML; with `origins`, each line says where its value
/// comes from.
#[must_use]
pub fn show(merged: &Merged, origins: bool) -> String {
    let mut text = String::new();
    let mut section = "";
    for key in KEYS {
        let (of, leaf) = key.parts();
        if of != section {
            let gap = if section.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{gap}[{of}]");
            section = of;
        }
        let line = match merged.value(key.name) {
            Some(value) => format!("{leaf} = {}", toml(&value)),
            None => format!("# {leaf}: {}", unset(key)),
        };
        if origins {
            let _ = writeln!(text, "{line:<44} # {}", merged.origin(key.name));
        } else {
            let _ = writeln!(text, "{line}");
        }
    }
    text
}

fn unset(key: &Key) -> String {
    match key.default {
        Default::Required => "must be set".to_owned(),
        Default::Unset(otherwise) => otherwise.to_owned(),
        Default::Text(_) | Default::Integer(_) | Default::EmptyList => String::new(),
    }
}

fn toml(value: &Value) -> String {
    let quoted = |text: &str| toml_edit::Value::from(text).to_string().trim().to_owned();
    match value {
        Value::Text(text) => quoted(text),
        Value::Integer(number) => number.to_string(),
        Value::List(items) => {
            format!(
                "[{}]",
                items
                    .iter()
                    .map(|item| quoted(item))
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        }
    }
}

fn default_words(key: &Key) -> String {
    match key.default {
        Default::Required => "Must be set.".to_owned(),
        Default::Unset(otherwise) => format!("Default: {otherwise}."),
        Default::Text(text) => format!("Default: {}.", toml(&Value::Text(text.to_owned()))),
        Default::Integer(number) => format!("Default: {number}."),
        Default::EmptyList => "Default: [].".to_owned(),
    }
}

/// A documented sample file: what must be set is set, everything else is commented out.
#[must_use]
pub fn sample() -> String {
    let mut text = String::from(
        "# pgaa-agent. Files in /etc/pgaa/agent.d/*.toml override this one, variables named\n\
         # PGAA_SECTION__KEY override both. \"pgaa-agent config check\" says what is wrong,\n\
         # \"pgaa-agent config show --origin\" what counts and where it comes from.\n",
    );
    let mut section = "";
    for key in KEYS {
        let (of, leaf) = key.parts();
        if of != section {
            let _ = writeln!(text, "\n[{of}]");
            section = of;
        }
        for line in wrapped(&format!("{} {}", key.doc, default_words(key)), 76) {
            let _ = writeln!(text, "# {line}");
        }
        // Without seeds nobody is found, so the sample sets them although a mesh of one needs none.
        let set = key.default == Default::Required
            || matches!(key.name, "cluster.seeds" | "cluster.token_file");
        let comment = if set { "" } else { "# " };
        let _ = writeln!(text, "{comment}{leaf} = {}", key.example);
    }
    text
}

fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) | None => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The section CONFIGURATION of the manual page, as roff.
#[must_use]
pub fn man_section() -> String {
    let mut text = String::from(
        ".SH CONFIGURATION\n\
         Read in this order, each overriding the one before, key by key: \
         /usr/lib/pgaa/agent.d/*.toml, /etc/pgaa/agent.toml, /etc/pgaa/agent.d/*.toml, and \
         environment variables PGAA_SECTION__KEY (lists separated by commas).\n",
    );
    for key in KEYS {
        let doc = format!("{} {}", key.doc, default_words(key));
        let _ = writeln!(
            text,
            ".TP\n\\fB{}\\fR ({})\n{}",
            key.name,
            key.kind.describe(),
            roff(&doc)
        );
    }
    text
}

/// A line that starts with a dot or a quote would be a request to roff.
fn roff(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    if escaped.starts_with(['.', '\'']) {
        format!("\\&{escaped}")
    } else {
        escaped
    }
}
