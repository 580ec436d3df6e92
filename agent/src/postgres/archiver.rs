//! What the server's archiver does, and what waits for it; and the end of a command that it waits for.

use super::Postgres;
use super::purpose::Purpose;
use super::session::{SqlError, column, sql};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgaa_core::backup::archiving::ArchiverFacts;
use pgaa_core::time::Wall;
use std::fs;

impl Postgres {
    /// Looks at the archiver.
    pub async fn archiver(&self) -> Result<ArchiverFacts, SqlError> {
        let session = self.take(Purpose::Look).await?;
        let sql = sql!("archiver");
        let row = session.row(&sql, &[]).await?;
        let number = |at: usize| column::<Option<i64>>(sql.name, &row, at);
        let facts = ArchiverFacts {
            enabled: column(sql.name, &row, 0)?,
            command: column(sql.name, &row, 1)?,
            library: column(sql.name, &row, 2)?,
            place: column(sql.name, &row, 3)?,
            segment_bytes: number(4)?.unwrap_or_default().unsigned_abs(),
            waiting: number(5)?.unwrap_or_default().unsigned_abs(),
            waiting_since: number(6)?.map(Wall),
            archived_at: number(7)?.map(Wall),
            archived: column(sql.name, &row, 8)?,
            failed_at: number(9)?.map(Wall),
            failed: column(sql.name, &row, 10)?,
        };
        self.give_back(session);
        Ok(facts)
    }

    /// Ends the archive command that runs, if its command line has `word` in it: the server waits for
    /// it, however long it hangs, before it reads another one from its settings. Says how many
    /// processes were told.
    pub async fn end_archive_command(&self, word: &str, how: Signal) -> Result<usize, SqlError> {
        let session = self.take(Purpose::Look).await?;
        let sql = sql!("archiver_process");
        let rows = session.rows(&sql, &[]).await?;
        let archiver = rows.first().map(|row| column::<i32>(sql.name, row, 0));
        let archiver = archiver.transpose()?;
        self.give_back(session);
        // Only what the archiver has started, and what a shell between them has.
        let mut told = 0;
        let children = archiver.map(children_of).unwrap_or_default();
        let below: Vec<i32> = children.iter().copied().flat_map(children_of).collect();
        for pid in below.into_iter().chain(children) {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            // One that has ended by itself meanwhile is what is wanted.
            if line.contains(word) && kill(Pid::from_raw(pid), how).is_ok() {
                told += 1;
            }
        }
        Ok(told)
    }
}

/// The processes that this one has started, and that run.
fn children_of(parent: i32) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let of = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // "pid (name) state parent ...", and a name may have anything in it.
        let (_, rest) = stat.rsplit_once(") ")?;
        rest.split(' ').nth(1)?.parse::<i32>().ok()
    };
    pids.filter(|pid| of(pid) == Some(parent)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn children_are_found() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(children_of(own).contains(&pid));
        assert!(children_of(pid).is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!children_of(own).contains(&pid));
    }
}
