//! Stage one: one file, or the environment, taken apart into typed values with their origins.
//!
//! Checks names and types, not meaning: a value may yet be overridden by a later layer.

use super::keys::{self, Kind};
use super::problem::{Origin, Problem};
use std::path::Path;
use toml_edit::{Document, Item, Key, TableLike};

/// A typed value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A string.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// A list of strings.
    List(Vec<String>),
}

/// One key that a fragment sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// "section.key"; in the table of keys.
    pub key: &'static str,
    /// To this.
    pub value: Value,
    /// Here.
    pub origin: Origin,
}

/// What a fragment sets, and what is wrong with it.
#[derive(Debug, Default)]
pub struct Fragment {
    /// Keys that are set well.
    pub entries: Vec<Entry>,
    /// Everything else.
    pub problems: Vec<Problem>,
}

struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn origin(&self, span: Option<std::ops::Range<usize>>) -> Origin {
        let line = span.map_or(0, |span| line_of(self.text, span.start));
        Origin::File {
            path: self.path.to_owned(),
            line,
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

/// Takes a TOML file apart.
#[must_use]
pub fn from_toml(path: &Path, text: &str) -> Fragment {
    let file = File { path, text };
    let mut fragment = Fragment::default();
    match Document::parse(text) {
        Ok(document) => read_root(&file, document.as_table(), &mut fragment),
        Err(error) => {
            let first = error
                .message()
                .lines()
                .next()
                .unwrap_or("it cannot be read")
                .to_owned();
            let text = format!("not valid TOML: {first}");
            fragment
                .problems
                .push(Problem::new(file.origin(error.span()), "", text));
        }
    }
    fragment
}

fn read_root(file: &File<'_>, root: &dyn TableLike, fragment: &mut Fragment) {
    for (name, item) in root.iter() {
        let origin = file.origin(root.key(name).and_then(Key::span));
        let known = keys::sections().contains(&name);
        match item.as_table_like() {
            Some(table) if known => read_section(file, name, table, fragment),
            Some(_) => fragment.problems.push(unknown_section(origin, name)),
            None if known => {
                let text = format!("this is a section: write [{name}] and its keys below it");
                fragment.problems.push(Problem::new(origin, name, text));
            }
            None => fragment.problems.push(unknown_key(origin, name)),
        }
    }
}

fn read_section(file: &File<'_>, section: &str, table: &dyn TableLike, fragment: &mut Fragment) {
    for (leaf, item) in table.iter() {
        let name = format!("{section}.{leaf}");
        let span = table.key(leaf).and_then(Key::span).or_else(|| item.span());
        let origin = file.origin(span);
        let Some(key) = keys::find(&name) else {
            fragment.problems.push(unknown_key(origin, &name));
            continue;
        };
        match from_item(key.kind, item) {
            Ok(value) => fragment.entries.push(Entry {
                key: key.name,
                value,
                origin,
            }),
            Err(text) => fragment.problems.push(Problem::new(origin, key.name, text)),
        }
    }
}

fn unknown_section(origin: Origin, name: &str) -> Problem {
    let known = keys::sections();
    let text = match keys::similar(name, known.iter().copied()) {
        Some(near) => format!("unknown section; did you mean [{near}]?"),
        None => format!("unknown section; there are {}", known.join(", ")),
    };
    Problem::new(origin, &format!("[{name}]"), text)
}

fn unknown_key(origin: Origin, name: &str) -> Problem {
    let text = match keys::nearest(name) {
        Some(near) => format!("unknown key; did you mean {near}?"),
        None => "unknown key; \"pgaa-agent config show\" lists all there are".to_owned(),
    };
    Problem::new(origin, name, text)
}

fn from_item(kind: Kind, item: &Item) -> Result<Value, String> {
    let wrong = |found: &str| format!("must be {}, not {found}", kind.describe());
    match kind {
        Kind::Text | Kind::Path | Kind::Word(_) => {
            let text = item.as_str().ok_or_else(|| wrong(&found(item)))?;
            checked(kind, Value::Text(text.to_owned()))
        }
        Kind::Integer { .. } => {
            let number = item.as_integer().ok_or_else(|| wrong(&found(item)))?;
            checked(kind, Value::Integer(number))
        }
        Kind::List => {
            let array = item.as_array().ok_or_else(|| wrong(&found(item)))?;
            let texts: Option<Vec<String>> = array
                .iter()
                .map(|value| value.as_str().map(str::to_owned))
                .collect();
            Ok(Value::List(texts.ok_or_else(|| {
                wrong("a list with something else in it")
            })?))
        }
    }
}

fn found(item: &Item) -> String {
    match item.as_value() {
        Some(value) if value.is_str() => format!("the string {}", value.to_string().trim()),
        Some(value) if value.is_array() => "a list".to_owned(),
        Some(value) if value.is_inline_table() => "a table".to_owned(),
        Some(value) => value.to_string().trim().to_owned(),
        None => "a table".to_owned(),
    }
}

/// Checks a value of the right TOML type against the bounds of its kind.
fn checked(kind: Kind, value: Value) -> Result<Value, String> {
    match (kind, &value) {
        (Kind::Integer { min, max }, Value::Integer(number)) if !(min..=max).contains(number) => {
            Err(format!("must be {}, not {number}", kind.describe()))
        }
        (Kind::Path, Value::Text(path)) if !path.starts_with('/') => Err(format!(
            "must be an absolute path, not {path:?}: a daemon has no directory to start from"
        )),
        (Kind::Word(words), Value::Text(word)) if !words.contains(&word.as_str()) => {
            let near = keys::similar(word, words.iter().copied());
            let hint = near
                .map(|near| format!("; did you mean {near:?}?"))
                .unwrap_or_default();
            Err(format!("must be {}, not {word:?}{hint}", kind.describe()))
        }
        (Kind::Text | Kind::Word(_) | Kind::Path | Kind::Integer { .. } | Kind::List, _) => {
            Ok(value)
        }
    }
}

/// Takes the variables named `PGAA_SECTION__KEY`; others are not ours. Lists are separated by
/// commas.
#[must_use]
pub fn from_environment(variables: &[(String, String)]) -> Fragment {
    let mut fragment = Fragment::default();
    for (variable, text) in variables {
        let Some((section, leaf)) = variable
            .strip_prefix("PGAA_")
            .and_then(|rest| rest.split_once("__"))
        else {
            continue;
        };
        let origin = Origin::Environment(variable.clone());
        let name = format!("{}.{}", section.to_lowercase(), leaf.to_lowercase());
        match keys::find(&name) {
            None => fragment.problems.push(unknown_variable(origin, &name)),
            Some(key) => match from_text(key.kind, text) {
                Ok(value) => fragment.entries.push(Entry {
                    key: key.name,
                    value,
                    origin,
                }),
                Err(text) => fragment.problems.push(Problem::new(origin, key.name, text)),
            },
        }
    }
    fragment
}

fn unknown_variable(origin: Origin, name: &str) -> Problem {
    let near = keys::nearest(name).and_then(keys::find);
    let text = match near {
        Some(key) => format!("unknown key; did you mean {}?", key.variable()),
        None => "unknown key; \"pgaa-agent config show\" lists all there are".to_owned(),
    };
    Problem::new(origin, name, text)
}

fn from_text(kind: Kind, text: &str) -> Result<Value, String> {
    let value = match kind {
        Kind::Text | Kind::Path | Kind::Word(_) => Value::Text(text.to_owned()),
        Kind::Integer { .. } => {
            let wrong = |_| format!("must be {}, not {text:?}", kind.describe());
            Value::Integer(text.trim().parse().map_err(wrong)?)
        }
        Kind::List => {
            let items = text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty());
            Value::List(items.map(str::to_owned).collect())
        }
    };
    checked(kind, value)
}
