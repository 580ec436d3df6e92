//! Our lines of pg_ident.conf: who a client certificate, and a user of this machine, may be.
//!
//! Pure. One line a member and no patterns: a member that is forgotten loses its line.

use super::block::{self, BlockError};
use super::hba::{HbaError, LOCAL_MAP, MESH_MAP, Who, quote};
use pgaa_core::ids::NodeId;
use std::collections::BTreeSet;

/// The lines that let `members` in by certificate, and `os_users` on the Unix socket.
pub fn ident_lines(
    members: &BTreeSet<NodeId>,
    os_users: &BTreeSet<String>,
    who: Who<'_>,
) -> Result<String, HbaError> {
    let mesh = quote(who.mesh_role)?;
    let superuser = quote(who.superuser)?;
    let mut lines = String::new();
    for user in os_users {
        lines += &format!("{LOCAL_MAP} {} {superuser}\n", quote(user)?);
    }
    for member in members {
        lines += &format!("{MESH_MAP} {member} {mesh}\n");
    }
    Ok(lines)
}

/// The members that our block lets in.
pub fn members_of(existing: &[u8]) -> Result<BTreeSet<NodeId>, BlockError> {
    let lines = block::lines(existing)?.unwrap_or_default();
    let member = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some(MESH_MAP))
            .then(|| words.next()?.parse().ok())
            .flatten()
    };
    Ok(lines.lines().filter_map(member).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_back() {
        let node = |n: u128| NodeId(uuid::Uuid::from_u128(n));
        let members = BTreeSet::from([node(1), node(7)]);
        let users = BTreeSet::from(["al ice".to_owned()]);
        let who = Who {
            database: "shop",
            mesh_role: "mesh",
            superuser: "postgres",
        };
        let lines = ident_lines(&members, &users, who).unwrap();
        assert_eq!(
            lines,
            "pgaa_local \"al ice\" \"postgres\"\n\
             pgaa 00000000-0000-0000-0000-000000000001 \"mesh\"\n\
             pgaa 00000000-0000-0000-0000-000000000007 \"mesh\"\n"
        );
        let file = block::splice(b"pgaa x y\n", &lines).unwrap();
        assert_eq!(members_of(&file).unwrap(), members);
        assert_eq!(members_of(b"").unwrap(), BTreeSet::new());
    }
}
