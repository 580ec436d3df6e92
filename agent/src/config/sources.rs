//! Where configuration lies, and stage two: all of it merged, each value with its origin.
//!
//! Later layers win, key by key; a list replaces a list.

use super::fragment::{self, Fragment, Value};
use super::keys::{self, Default};
use super::problem::{ConfigError, Origin, Problem};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where configuration is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// Files that must be there, and drop-in directories that may be, the weakest first.
    layers: Vec<Layer>,
    /// Variables of the environment; those that aren't ours are passed over.
    variables: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Layer {
    /// Every `*.toml` in it, by name.
    Directory(PathBuf),
    /// One file that may be missing.
    Optional(PathBuf),
    /// One file that was asked for by name.
    Required(PathBuf),
}

impl Sources {
    /// The layers of a machine whose file system starts at `root` ("/").
    #[must_use]
    pub fn of_machine(root: &Path) -> Sources {
        Sources::layered(root, &root.join("etc/pgaa"))
    }

    /// The same, with another directory in the place of `/etc/pgaa`.
    #[must_use]
    pub fn layered(root: &Path, directory: &Path) -> Sources {
        let layers = vec![
            Layer::Directory(root.join("usr/lib/pgaa/agent.d")),
            Layer::Optional(directory.join("agent.toml")),
            Layer::Directory(directory.join("agent.d")),
        ];
        Sources {
            layers,
            variables: Vec::new(),
        }
    }

    /// This file and nothing else.
    #[must_use]
    pub fn single(file: &Path) -> Sources {
        Sources {
            layers: vec![Layer::Required(file.to_owned())],
            variables: Vec::new(),
        }
    }

    /// With these variables on top. Names and values that aren't UTF-8 are no settings of ours.
    #[must_use]
    pub fn with_variables(
        mut self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Sources {
        let text = |(name, value): (OsString, OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        self.variables = variables.into_iter().filter_map(text).collect();
        self.variables.sort();
        self
    }

    /// The value of one variable.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// Is there any configuration at all? What can't be read counts as some.
    #[must_use]
    pub fn exist(&self) -> bool {
        let ours = |name: &String| name.starts_with("PGAA_") && name.contains("__");
        self.files().map_or(true, |files| !files.is_empty())
            || self.variables.iter().any(|(name, _)| ours(name))
    }

    /// The files that there are, the weakest first.
    fn files(&self) -> Result<Vec<PathBuf>, Vec<Problem>> {
        let mut files = Vec::new();
        let mut problems = Vec::new();
        for layer in &self.layers {
            match layer {
                Layer::Required(path) => files.push(path.clone()),
                Layer::Optional(path) if path.exists() => files.push(path.clone()),
                Layer::Optional(_) => {}
                Layer::Directory(path) => match drop_ins(path) {
                    Ok(found) => files.extend(found),
                    Err(error) => problems.push(unreadable(path, &error)),
                },
            }
        }
        if problems.is_empty() {
            Ok(files)
        } else {
            Err(problems)
        }
    }

    /// Where a person would put the first file.
    fn main_file(&self) -> &Path {
        let main = self.layers.iter().find_map(|layer| match layer {
            Layer::Optional(path) | Layer::Required(path) => Some(path.as_path()),
            Layer::Directory(_) => None,
        });
        main.unwrap_or(Path::new("/etc/pgaa/agent.toml"))
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    let origin = Origin::File {
        path: path.to_owned(),
        line: 0,
    };
    Problem::new(origin, "", format!("cannot be read: {error}"))
}

fn drop_ins(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
            && !hidden
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Every key with the value that counts and its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    values: BTreeMap<&'static str, (Value, Origin)>,
    main_file: PathBuf,
}

impl Merged {
    /// Reads all layers. On failure there is everything that is wrong with any of them.
    pub fn read(sources: &Sources) -> Result<Merged, ConfigError> {
        let (merged, problems) = Merged::read_all(sources);
        if problems.is_empty() {
            Ok(merged)
        } else {
            Err(ConfigError { problems })
        }
    }

    /// Reads all layers as far as they can be read.
    #[must_use]
    pub fn read_all(sources: &Sources) -> (Merged, Vec<Problem>) {
        let main_file = sources.main_file().to_owned();
        let mut merged = Merged {
            values: BTreeMap::new(),
            main_file,
        };
        let mut problems = Vec::new();
        let files = sources.files().unwrap_or_else(|found| {
            problems.extend(found);
            Vec::new()
        });
        for path in files {
            match fs::read_to_string(&path) {
                Ok(text) => merged.overlay(fragment::from_toml(&path, &text), &mut problems),
                Err(error) => problems.push(unreadable(&path, &error)),
            }
        }
        merged.overlay(
            fragment::from_environment(&sources.variables),
            &mut problems,
        );
        (merged, problems)
    }

    /// One text alone, as if it were the file at `path`.
    #[must_use]
    pub fn of_text(path: &Path, text: &str) -> (Merged, Vec<Problem>) {
        let mut merged = Merged {
            values: BTreeMap::new(),
            main_file: path.to_owned(),
        };
        let mut problems = Vec::new();
        merged.overlay(fragment::from_toml(path, text), &mut problems);
        (merged, problems)
    }

    fn overlay(&mut self, fragment: Fragment, problems: &mut Vec<Problem>) {
        for entry in fragment.entries {
            self.values.insert(entry.key, (entry.value, entry.origin));
        }
        problems.extend(fragment.problems);
    }

    /// The value somebody set.
    #[must_use]
    pub fn set(&self, key: &str) -> Option<&Value> {
        self.values.get(key).map(|(value, _)| value)
    }

    /// The value that counts: the one somebody set, else the default of the table.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<Value> {
        self.set(key)
            .cloned()
            .or_else(|| match keys::find(key)?.default {
                Default::Required | Default::Unset(_) => None,
                Default::Text(text) => Some(Value::Text(text.to_owned())),
                Default::Integer(number) => Some(Value::Integer(number)),
                Default::EmptyList => Some(Value::List(Vec::new())),
            })
    }

    /// The value that counts, of a key that is a path.
    #[must_use]
    pub fn path(&self, key: &str) -> Option<PathBuf> {
        match self.value(key)? {
            Value::Text(text) => Some(PathBuf::from(text)),
            Value::Integer(_) | Value::List(_) => None,
        }
    }

    /// Where the value comes from.
    #[must_use]
    pub fn origin(&self, key: &str) -> Origin {
        self.values
            .get(key)
            .map_or(Origin::Default, |(_, origin)| origin.clone())
    }

    /// Where a person would add a key: the main file.
    #[must_use]
    pub fn main_file(&self) -> &Path {
        &self.main_file
    }
}
