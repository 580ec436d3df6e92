//! Our lines of pg_hba.conf: the gate.
//!
//! Pure. Must not know what is in the rest of the file, beyond the one question whether the
//! agent would be let in by it.

use super::block::{self, BlockError};
use thiserror::Error;

/// The name of the pg_ident map from certificates to the mesh role.
pub const MESH_MAP: &str = "pgaa";
/// The name of the pg_ident map from users of this machine to the superuser.
pub const LOCAL_MAP: &str = "pgaa_local";

const OPEN_SIGN: &str = "# gate: open";
const SHUT_SIGN: &str = "# gate: shut";

/// May applications reach the mesh's database?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Only the local superuser and the mesh itself.
    Shut,
    /// Whoever the operator's own lines admit.
    Open,
}

/// Who the lines are about.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// The mesh's database.
    pub database: &'a str,
    /// The role that other nodes' servers log in with.
    pub mesh_role: &'a str,
    /// The role of the agent on the Unix socket.
    pub superuser: &'a str,
}

/// pg_hba.conf can't be written.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum HbaError {
    /// The marks are damaged.
    #[error("the block of pgaa-agent is damaged")]
    Block(#[from] BlockError),
    /// A name that has no spelling in these files.
    #[error(
        "{0:?} can't be written into pg_hba.conf or pg_ident.conf; choose a name without it: {1}"
    )]
    Name(String, &'static str),
}

/// A name as one token that stands for itself, whatever keyword it looks like.
pub(super) fn quote(name: &str) -> Result<String, HbaError> {
    let refuse = |why| Err(HbaError::Name(name.to_owned(), why));
    if name.is_empty() {
        return refuse("it is empty");
    }
    if name.chars().any(char::is_control) {
        return refuse("control characters and line breaks");
    }
    // From PostgreSQL 16 on a name with a slash in front is a pattern, quoted or not.
    if name.starts_with('/') {
        return refuse("a slash in front");
    }
    Ok(format!("\"{}\"", name.replace('"', "\"\"")))
}

/// The lines for `gate`. `local_login`: is a line needed that lets the agent in?
pub fn gate_lines(gate: Gate, who: Who<'_>, local_login: bool) -> Result<String, HbaError> {
    let database = quote(who.database)?;
    let mesh = quote(who.mesh_role)?;
    let superuser = quote(who.superuser)?;
    let sign = match gate {
        Gate::Shut => SHUT_SIGN,
        Gate::Open => OPEN_SIGN,
    };
    let mut lines = vec![sign.to_owned()];
    if local_login || gate == Gate::Shut {
        lines.push(format!("local   all {superuser} peer map={LOCAL_MAP}"));
    }
    lines.push(format!("hostssl {database} {mesh} all cert map={MESH_MAP}"));
    lines.push(format!("local   all,replication {mesh} reject"));
    lines.push(format!("host    all,replication {mesh} all reject"));
    if gate == Gate::Shut {
        lines.push(format!("local   {database} all reject"));
        lines.push(format!("host    {database} all all reject"));
    }
    Ok(lines.join("\n") + "\n")
}

/// Which gate the file holds; `None` when it holds none of ours.
pub fn gate_of(existing: &[u8]) -> Result<Option<Gate>, BlockError> {
    let Some(lines) = block::lines(existing)? else {
        return Ok(None);
    };
    // A block that lost its sign counts as open: shutting applications out is never a guess.
    let shut = lines.lines().any(|line| line.trim_end() == SHUT_SIGN);
    Ok(Some(if shut { Gate::Shut } else { Gate::Open }))
}

/// Do the operator's own lines (`rest`, without our block) let `os_user` in as the superuser on
/// the Unix socket? `false` also where it can't be told: a line of ours does no harm then.
#[must_use]
pub fn admits_locally(rest: &[u8], who: Who<'_>, os_user: &str) -> bool {
    let text = String::from_utf8_lossy(rest);
    // A continued line can hide another; such files are rare enough not to be read here.
    if text.lines().any(|line| line.trim_end().ends_with('\\')) {
        return false;
    }
    let lines: Vec<_> = text
        .lines()
        .map(fields)
        .filter(|fields| !fields.is_empty())
        .collect();
    let admits = |database: &str| {
        for line in &lines {
            match matches(line, database, who.superuser) {
                Some(false) => {}
                Some(true) => return lets_in(line, os_user == who.superuser),
                None => return false,
            }
        }
        false
    };
    admits(who.database) && admits("postgres")
}

/// Is this the line for `role` in `database` on the Unix socket? `None` when it can't be told.
fn matches(line: &[Vec<String>], database: &str, role: &str) -> Option<bool> {
    let [kind, databases, roles, ..] = line else {
        return None;
    };
    if kind.iter().any(|word| word.starts_with("include")) {
        return None;
    }
    if !kind.iter().any(|word| word == "local") {
        return Some(false);
    }
    let speaks_of = |words: &[String], name: &str| {
        let vague = |word: &String| word.starts_with(['@', '+', '/']) || word.starts_with("same");
        if words.iter().any(|word| word == "all" || word == name) {
            return Some(true);
        }
        if words.iter().any(vague) {
            None
        } else {
            Some(false)
        }
    };
    match (speaks_of(databases, database), speaks_of(roles, role)) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        (None, _) | (_, None) => None,
    }
}

/// Does the method of a line that matches let the agent in without a password?
fn lets_in(line: &[Vec<String>], same_name: bool) -> bool {
    let [_, _, _, method, options @ ..] = line else {
        return false;
    };
    let method = method.first().map_or("", String::as_str);
    method == "trust" || (method == "peer" && options.is_empty() && same_name)
}

/// Splits a line the way PostgreSQL does: fields apart by spaces, each a list apart by commas.
fn fields(line: &str) -> Vec<Vec<String>> {
    let mut fields: Vec<Vec<String>> = Vec::new();
    let mut word = String::new();
    let (mut in_quotes, mut in_word, mut after_comma) = (false, false, false);
    let mut end_word = |word: &mut String, after_comma: bool| {
        let word = std::mem::take(word);
        match fields.last_mut() {
            Some(field) if after_comma => field.push(word),
            Some(_) | None => fields.push(vec![word]),
        }
    };
    for c in line.chars() {
        let separates = !in_quotes && (c.is_whitespace() || c == ',' || c == '#');
        if separates && in_word {
            end_word(&mut word, after_comma);
            (in_word, after_comma) = (false, c == ',');
        }
        match c {
            '#' if !in_quotes => break,
            '"' => (in_quotes, in_word) = (!in_quotes, true),
            _ if separates => {}
            _ => {
                word.push(c);
                in_word = true;
            }
        }
    }
    if in_word {
        end_word(&mut word, after_comma);
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: Who<'_> = Who {
        database: "shop",
        mesh_role: "pgaa_mesh",
        superuser: "postgres",
    };

    #[test]
    fn the_shut_gate() {
        let expected = "# gate: shut\n\
            local   all \"postgres\" peer map=pgaa_local\n\
            hostssl \"shop\" \"pgaa_mesh\" all cert map=pgaa\n\
            local   all,replication \"pgaa_mesh\" reject\n\
            host    all,replication \"pgaa_mesh\" all reject\n\
            local   \"shop\" all reject\n\
            host    \"shop\" all all reject\n";
        assert_eq!(gate_lines(Gate::Shut, WHO, false).unwrap(), expected);
    }

    #[test]
    fn the_gate_is_read_back() {
        for gate in [Gate::Shut, Gate::Open] {
            let lines = gate_lines(gate, WHO, true).unwrap();
            let file = block::splice(b"local all all peer\n", &lines).unwrap();
            assert_eq!(gate_of(&file), Ok(Some(gate)));
        }
        assert_eq!(gate_of(b"# gate: shut\n"), Ok(None));
    }

    #[test]
    fn odd_names_are_quoted_or_refused() {
        assert_eq!(quote("a\"b, #\\").unwrap(), "\"a\"\"b, #\\\"");
        assert_eq!(quote("all").unwrap(), "\"all\"");
        for bad in ["", "a\nb", "a\r", "/x", "\0"] {
            assert!(quote(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn the_first_line_that_matches_decides() {
        let admits = |text: &str, user| admits_locally(text.as_bytes(), WHO, user);
        assert!(admits(
            "local all postgres peer\nlocal all all reject",
            "postgres"
        ));
        assert!(admits(
            "# x\nlocal other postgres md5\nlocal all, x all trust # y",
            "alice"
        ));
        assert!(!admits("local all postgres peer", "alice"));
        assert!(!admits(
            "local all all scram-sha-256\nlocal all all trust",
            "postgres"
        ));
        assert!(!admits(
            "local all +admins reject\nlocal all all trust",
            "postgres"
        ));
        assert!(!admits("local all \"postgres\" peer map=x", "postgres"));
        assert!(!admits("local all \\\nall trust", "postgres"));
        assert!(!admits("include x\nlocal all all trust", "postgres"));
        assert!(!admits("host all all all trust", "postgres"));
        assert!(!admits("local all", "postgres"));
        assert!(!admits(
            "local postgres all trust\nlocal all all md5",
            "postgres"
        ));
        assert!(!admits(
            "local sameuser all md5\nlocal all all trust",
            "postgres"
        ));
    }
}
