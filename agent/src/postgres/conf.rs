//! PostgreSQL's configuration files: reads them all in PostgreSQL's own order, and renders ours.
//!
//! Must not decide what a setting should be (`needed` does), nor write anything.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// PostgreSQL's own limit for files that include one another (`CONF_FILE_MAX_DEPTH`).
const DEPTH_MAX: usize = 10;

/// What a file says about one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// The value, without quotes.
    pub value: String,
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
}

impl Assigned {
    /// "file:line".
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}:{}", self.file.display(), self.line)
    }
}

/// The configuration files can't be read.
#[derive(Debug, Error)]
pub enum ConfError {
    /// The file system refused.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Files include one another without end.
    #[error("{} is included more than {DEPTH_MAX} levels deep", path.display())]
    Depth {
        /// Which file.
        path: PathBuf,
    },
}

/// All that the files say, in PostgreSQL's order: a later line replaces an earlier one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    lines: Vec<(String, Assigned)>,
    /// Every file that was read, in order.
    read: Vec<PathBuf>,
}

impl Files {
    /// Reads `postgresql.conf` with all it includes, then `postgresql.auto.conf` of the data
    /// directory, which beats it. A missing `postgresql.conf` counts as an empty one.
    pub fn read(config_dir: &Path, data_dir: &Path) -> Result<Files, ConfError> {
        let mut files = Files::default();
        files.read_file(&config_dir.join("postgresql.conf"), false, 0)?;
        files.read_file(&data_dir.join("postgresql.auto.conf"), false, 0)?;
        Ok(files)
    }

    /// Is `path` among the files that were read?
    #[must_use]
    pub fn includes(&self, path: &Path) -> bool {
        self.read.iter().any(|read| read == path)
    }

    /// What holds in the end for each setting, as if `ours` weren't there.
    #[must_use]
    pub fn foreign(&self, ours: &Path) -> BTreeMap<String, Assigned> {
        let others = self
            .lines
            .iter()
            .filter(|(_, assigned)| assigned.file != ours);
        others.cloned().collect()
    }

    fn read_file(&mut self, path: &Path, required: bool, depth: usize) -> Result<(), ConfError> {
        if depth > DEPTH_MAX {
            return Err(ConfError::Depth {
                path: path.to_owned(),
            });
        }
        let text = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !required => return Ok(()),
            Err(source) => {
                return Err(ConfError::Read {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        self.read.push(path.to_owned());
        let directory = path.parent().unwrap_or(Path::new("/"));
        for (line, name, value) in parse(&String::from_utf8_lossy(&text)) {
            let target = directory.join(&value);
            match name.as_str() {
                "include" => self.read_file(&target, true, depth + 1)?,
                "include_if_exists" => self.read_file(&target, false, depth + 1)?,
                "include_dir" => self.read_directory(&target, depth + 1)?,
                _ => {
                    let file = path.to_owned();
                    self.lines.push((name, Assigned { value, file, line }));
                }
            }
        }
        Ok(())
    }

    fn read_directory(&mut self, directory: &Path, depth: usize) -> Result<(), ConfError> {
        let failed = |source| ConfError::Read {
            path: directory.to_owned(),
            source,
        };
        let mut paths = Vec::new();
        for entry in fs::read_dir(directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let text = name.to_string_lossy();
            if text.ends_with(".conf") && !text.starts_with('.') {
                paths.push(directory.join(&name));
            }
        }
        paths.sort();
        for path in paths.iter().filter(|path| !path.is_dir()) {
            self.read_file(path, true, depth)?;
        }
        Ok(())
    }
}

/// The assignments of one file: line, name in lower case, value. Lines that PostgreSQL would
/// refuse are passed over: PostgreSQL names them itself (`pg_file_settings`).
#[must_use]
pub fn parse(text: &str) -> Vec<(usize, String, String)> {
    let line = |(index, line): (usize, &str)| {
        let (name, value) = parse_line(line)?;
        Some((index + 1, name, value))
    };
    text.lines().enumerate().filter_map(line).collect()
}

fn parse_line(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    // Beyond ASCII every letter is one of a name's, and has no other case (guc-file.l, guc.c).
    let in_name =
        |c: char| c.is_ascii_alphanumeric() || !c.is_ascii() || matches!(c, '_' | '.' | '$');
    let end = line.find(|c| !in_name(c)).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    if name.is_empty() {
        return None;
    }
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let value = match rest.strip_prefix('\'') {
        Some(quoted) => unquote(quoted)?,
        None => {
            let end = rest
                .find(|c: char| c.is_whitespace() || c == '#')
                .unwrap_or(rest.len());
            rest.get(..end)?.to_owned()
        }
    };
    Some((name.to_ascii_lowercase(), value))
}

/// The string after its opening quote, the way `guc-file.l` reads it; `None` when it isn't closed.
fn unquote(text: &str) -> Option<String> {
    let mut value = String::new();
    let mut chars = text.chars().peekable();
    loop {
        match chars.next()? {
            '\'' if chars.peek() == Some(&'\'') => {
                chars.next();
                value.push('\'');
            }
            '\'' => return Some(value),
            '\\' => match chars.next()? {
                'n' => value.push('\n'),
                't' => value.push('\t'),
                'r' => value.push('\r'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
}

/// A value as a quoted string of a configuration file.
#[must_use]
pub fn quote(value: &str) -> String {
    let mut quoted = String::from("'");
    for c in value.chars() {
        match c {
            '\'' => quoted.push_str("''"),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            other => quoted.push(other),
        }
    }
    quoted.push('\'');
    quoted
}

/// The elements of a list setting: separated by commas, double quotes keep one together.
#[must_use]
pub fn split_list(value: &str) -> Vec<String> {
    let mut elements = vec![String::new()];
    let mut in_quotes = false;
    for c in value.chars() {
        match c {
            '"' => in_quotes = !in_quotes,
            ',' if !in_quotes => elements.push(String::new()),
            other => {
                if let Some(last) = elements.last_mut() {
                    last.push(other);
                }
            }
        }
    }
    let trimmed = elements.iter().map(|element| element.trim().to_owned());
    trimmed.filter(|element| !element.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_postgresql_reads_them() {
        let text = "# no\n Port=5433# x\r\nlisten_addresses '*'  # y\nx.y = 'it''s \\'a\\' \\\\'\n\
                    = 3\nbroken = 'x\nflag\nt = 1min\n\u{130}X = 1\n";
        let found: Vec<_> = parse(text)
            .into_iter()
            .map(|(line, name, value)| format!("{line} {name} {value}"))
            .collect();
        let expected = [
            "2 port 5433",
            "3 listen_addresses *",
            "4 x.y it's 'a' \\",
            "7 flag ",
            "8 t 1min",
            "9 \u{130}x 1",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_quoted_is_read_back() {
        for value in ["", "plain", "it's", "C:\\x", "a\nb", "\"q\", r", "\\'"] {
            let text = format!("x = {}", quote(value));
            assert_eq!(
                parse(&text),
                [(1, "x".to_owned(), value.to_owned())],
                "{text}"
            );
        }
    }

    #[test]
    fn a_quoted_list_is_one_element() {
        assert_eq!(split_list("a,\"b, c\" , d,"), ["a", "b, c", "d"]);
        assert_eq!(split_list(""), Vec::<String>::new());
    }

    #[test]
    fn later_files_win_and_ours_can_be_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("conf.d")).unwrap();
        fs::write(
            path("postgresql.conf"),
            "a=1\nb=1\nc=1\nd=1\ninclude_dir 'conf.d'\nd=2",
        )
        .unwrap();
        fs::write(path("conf.d/90-pgaa.conf"), "b=90\nc=90").unwrap();
        fs::write(path("conf.d/95-x.conf"), "c=95").unwrap();
        fs::write(path("conf.d/.hidden.conf"), "a=9").unwrap();
        fs::write(path("postgresql.auto.conf"), "a = 'auto'").unwrap();
        let files = Files::read(dir.path(), dir.path()).unwrap();
        assert!(files.includes(&path("conf.d/90-pgaa.conf")));
        let show = |(name, set): (&String, &Assigned)| format!("{name}={} {}", set.value, set.line);
        let foreign = files.foreign(&path("conf.d/90-pgaa.conf"));
        assert_eq!(
            foreign.iter().map(show).collect::<Vec<_>>(),
            ["a=auto 1", "b=1 2", "c=95 1", "d=2 6"]
        );
        assert_eq!(
            foreign["a"].place(),
            path("postgresql.auto.conf").display().to_string() + ":1"
        );
    }

    #[test]
    fn files_that_include_themselves_end() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join("postgresql.conf"),
            "include 'postgresql.conf'",
        )
        .unwrap();
        let error = Files::read(dir.path(), dir.path()).unwrap_err();
        assert!(matches!(error, ConfError::Depth { .. }), "{error}");
    }
}
