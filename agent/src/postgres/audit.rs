//! Compares what the server runs with against what the mesh needs, and names the source of each
//! difference.
//!
//! Pure: the rows come from `pg_settings` and `pg_file_settings`.

use super::conf::split_list;
use super::needed::{Item, Needed, Rule};
use super::provision::OUR_FILE;
use pgaa_core::observed::SettingDrift;

/// One row of `pg_settings`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SettingRow {
    /// `name`
    pub name: String,
    /// `setting`, in `unit`.
    pub setting: String,
    /// `unit`
    pub unit: Option<String>,
    /// `context`
    pub context: String,
    /// `source`
    pub source: String,
    /// `sourcefile`; PostgreSQL shows it to superusers only.
    pub sourcefile: Option<String>,
    /// `sourceline`
    pub sourceline: Option<i32>,
    /// `pending_restart`
    pub pending_restart: bool,
}

/// One row of `pg_file_settings`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileRow {
    /// `sourcefile`
    pub sourcefile: String,
    /// `sourceline`
    pub sourceline: i32,
    /// `name`; null where the line can't be read at all.
    pub name: Option<String>,
    /// `setting`
    pub setting: Option<String>,
    /// `error`
    pub error: Option<String>,
}

/// What the comparison shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Audit {
    /// Settings that aren't as needed, by name.
    pub drifts: Vec<SettingDrift>,
    /// Settings, ours or not, whose new value waits for a restart.
    pub restart_pending: Vec<String>,
    /// Lines of the configuration files that the server refuses.
    pub errors: Vec<String>,
}

/// Compares. `files` may be left empty: sources are less exact then.
#[must_use]
pub fn audit(settings: &[SettingRow], files: &[FileRow], needed: &Needed) -> Audit {
    let row = |name: &str| {
        settings
            .iter()
            .find(|row| row.name.eq_ignore_ascii_case(name))
    };
    let mut drifts: Vec<SettingDrift> = needed
        .items
        .iter()
        .filter_map(|item| drift(item, row(item.name), files))
        .collect();
    drifts.sort_by(|a, b| a.name.cmp(&b.name));
    let pending = |row: &&SettingRow| row.pending_restart;
    let mut restart_pending: Vec<String> = settings
        .iter()
        .filter(pending)
        .map(|row| row.name.clone())
        .collect();
    restart_pending.sort();
    let errors = files
        .iter()
        .filter_map(|line| refused(line, &restart_pending))
        .collect();
    Audit {
        drifts,
        restart_pending,
        errors,
    }
}

/// `max_slot_wal_keep_size` in bytes, where it comes from our file: only then is it ours to move.
#[must_use]
pub fn backstop_bytes(settings: &[SettingRow]) -> Option<u64> {
    let row = settings
        .iter()
        .find(|row| row.name == "max_slot_wal_keep_size")?;
    let file = row.sourcefile.as_deref()?;
    let megabytes: u64 = row.setting.parse().ok()?;
    file.ends_with(OUR_FILE).then_some(megabytes << 20)
}

fn refused(line: &FileRow, restart_pending: &[String]) -> Option<String> {
    let error = line.error.as_deref()?;
    let name = line.name.as_deref().unwrap_or_default();
    // PostgreSQL calls a value that waits for a restart an error as well.
    if restart_pending
        .iter()
        .any(|pending| pending.eq_ignore_ascii_case(name))
    {
        return None;
    }
    let name = if name.is_empty() {
        String::new()
    } else {
        format!("{name}: ")
    };
    Some(format!(
        "{}: {name}{error}",
        place(&line.sourcefile, line.sourceline)
    ))
}

fn drift(item: &Item, row: Option<&SettingRow>, files: &[FileRow]) -> Option<SettingDrift> {
    let Some(row) = row else {
        return Some(SettingDrift {
            name: item.name.to_owned(),
            value: String::new(),
            needed: words(item),
            source: "not known to the server (is pglogical loaded?)".to_owned(),
            needs_restart: item.needs_restart,
        });
    };
    if holds(&item.rule, &row.setting) {
        return None;
    }
    let unit = match row.unit.as_deref() {
        Some(unit) if unit.starts_with(|c: char| c.is_ascii_digit()) => format!(" x {unit}"),
        Some(unit) => unit.to_owned(),
        None => String::new(),
    };
    Some(SettingDrift {
        name: row.name.clone(),
        value: format!("{}{unit}", row.setting),
        needed: words(item),
        source: source(row, files),
        needs_restart: row.context == "postmaster",
    })
}

/// Is `setting` right?
fn holds(rule: &Rule, setting: &str) -> bool {
    let number = || setting.parse::<i64>().ok();
    match rule {
        Rule::OneOf(values) => values
            .iter()
            .any(|value| value.eq_ignore_ascii_case(setting)),
        Rule::AtLeast(least) => number().is_some_and(|number| number >= *least),
        Rule::AtLeastOrZero(least) => number().is_some_and(|n| n == 0 || n >= *least),
        Rule::Includes(element) => {
            let same = |entry: &String| entry.rsplit('/').next() == Some(element.as_str());
            split_list(setting).iter().any(same)
        }
    }
}

fn words(item: &Item) -> String {
    match (&item.rule, &item.value) {
        (Rule::OneOf(_), Some(value)) => value.clone(),
        (Rule::OneOf(values), None) => values.join(" or "),
        (Rule::AtLeast(least) | Rule::AtLeastOrZero(least), _) => format!("at least {least}"),
        (Rule::Includes(element), _) => format!("a list with {element}"),
    }
}

/// Where the value comes from, for people.
fn source(row: &SettingRow, files: &[FileRow]) -> String {
    if row.pending_restart {
        let last = files
            .iter()
            .rfind(|l| l.name.as_deref() == Some(row.name.as_str()));
        return match last {
            Some(line) => {
                let value = line.setting.as_deref().unwrap_or_default();
                let place = place(&line.sourcefile, line.sourceline);
                format!("before the restart that '{value}' ({place}) waits for")
            }
            None => "before the restart that the new value waits for".to_owned(),
        };
    }
    match (&row.sourcefile, row.sourceline) {
        (Some(file), Some(line)) => place(file, line),
        (Some(file), None) => file.clone(),
        (None, _) => row.source.clone(),
    }
}

fn place(file: &str, line: i32) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    if name == "postgresql.auto.conf" {
        format!("ALTER SYSTEM ({name}:{line})")
    } else {
        format!("{file}:{line}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &'static str, rule: Rule) -> Item {
        Item {
            name,
            value: None,
            rule,
            needs_restart: false,
            reason: String::new(),
        }
    }

    fn row(name: &str, setting: &str) -> SettingRow {
        SettingRow {
            name: name.to_owned(),
            setting: setting.to_owned(),
            source: "default".to_owned(),
            ..SettingRow::default()
        }
    }

    #[test]
    fn rules_hold_or_not() {
        let one = |words: &[&str]| Rule::OneOf(words.iter().map(|w| (*w).to_owned()).collect());
        let list = Rule::Includes("pglogical".to_owned());
        assert!(holds(&one(&["on", "always"]), "ON"));
        assert!(!holds(&one(&["logical"]), "replica"));
        assert!(holds(&Rule::AtLeast(5), "5") && !holds(&Rule::AtLeast(5), "4"));
        assert!(!holds(&Rule::AtLeast(5), "many"));
        assert!(holds(&Rule::AtLeastOrZero(5), "0") && !holds(&Rule::AtLeastOrZero(5), "1"));
        assert!(holds(&list, "auto_explain, $libdir/pglogical"));
        assert!(!holds(&list, "pglogical_output"));
        // What ALTER SYSTEM makes of one quoted string: a single library of that odd name.
        assert!(!holds(&list, "\"pgoutput, pglogical\""));
    }

    #[test]
    fn each_difference_names_its_source() {
        let needed = Needed {
            items: vec![
                item("wal_level", Rule::OneOf(vec!["logical".to_owned()])),
                item("max_wal_senders", Rule::AtLeast(20)),
                item(
                    "pglogical.conflict_resolution",
                    Rule::OneOf(vec!["error".to_owned()]),
                ),
                item("archive_mode", Rule::OneOf(vec!["on".to_owned()])),
            ],
            notes: Vec::new(),
        };
        let mut auto = row("max_wal_senders", "7");
        auto.context = "postmaster".to_owned();
        auto.sourcefile = Some("/d/postgresql.auto.conf".to_owned());
        auto.sourceline = Some(3);
        let mut waiting = row("wal_level", "replica");
        waiting.pending_restart = true;
        let line = |name: &str, setting: &str, error: &str| FileRow {
            sourcefile: "/c/90-pgaa.conf".to_owned(),
            sourceline: 4,
            name: Some(name.to_owned()),
            setting: Some(setting.to_owned()),
            error: Some(error.to_owned()),
        };
        let files = [
            line("wal_level", "logical", "setting could not be applied"),
            line("wurks", "1", "unrecognized configuration parameter"),
        ];
        let found = audit(
            &[waiting, auto, row("archive_mode", "off")],
            &files,
            &needed,
        );
        let shown: Vec<String> = found
            .drifts
            .iter()
            .map(|d| format!("{}={} needs {}: {}", d.name, d.value, d.needed, d.source))
            .collect();
        assert_eq!(
            shown,
            [
                "archive_mode=off needs on: default",
                "max_wal_senders=7 needs at least 20: ALTER SYSTEM (postgresql.auto.conf:3)",
                "pglogical.conflict_resolution= needs error: not known to the server (is pglogical \
                 loaded?)",
                "wal_level=replica needs logical: before the restart that 'logical' \
                 (/c/90-pgaa.conf:4) waits for",
            ]
        );
        assert!(found.drifts[1].needs_restart && !found.drifts[0].needs_restart);
        assert_eq!(found.restart_pending, ["wal_level"]);
        assert_eq!(
            found.errors,
            ["/c/90-pgaa.conf:4: wurks: unrecognized configuration parameter"]
        );
    }
}
