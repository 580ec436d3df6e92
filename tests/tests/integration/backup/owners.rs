//! From the backups of two owners, the second of which took over from one that is dead, every moment
//! comes back that status has promised: the very last one as well.

use super::{from, report};
use crate::restore::backups::sql_at;
use crate::seconds;
use anyhow::{Context, Result, ensure};
use pgaa_core::backup::repository::Window;
use pgaa_core::time::Wall;
use pgaa_tests::cluster::Cluster;
use pgaa_tests::command::{output, run};
use pgaa_tests::node::Node;

/// How many rows a node tells while it owns the backups: half of them before the moment.
const ROWS: u32 = 20;

/// The first row of a commit may be in the WAL before that of an earlier time, where several commit at
/// once; never by so much.
const AT_ONCE: &str = "1 second";

/// A moment that can be restored, as the owner has said.
pub(super) struct Moment {
    owner: String,
    /// What the load calls it.
    number: u8,
    until: Wall,
    /// The rows of then, all of them.
    rows: String,
}

/// A table that nobody else writes to.
pub(super) fn create_table(cluster: &Cluster) -> Result<()> {
    cluster.everywhere("create table public.told (number int primary key)")?;
    cluster.eventually(seconds(30), "the table is replicated", |cluster| {
        cluster.replicates(&["public.told"])
    })?;
    Ok(())
}

const NUMBERS: &str = "select string_agg(number::text, ',' order by number) from public.told";

/// Writes rows until the owner says that the last of them can be restored, then some more. Who ends
/// the owner at once finds out whether that was true: nothing later has been archived yet.
pub(super) fn tell(cluster: &Cluster, owner: &Node, others: &[&Node]) -> Result<Moment> {
    let more = |count: u32| {
        owner.sql(&format!(
            "insert into public.told
             select (select coalesce(max(number), 0) from public.told) + i
               from generate_series(1, {count}) as i"
        ))
    };
    more(ROWS / 2)?;
    let rows = owner.sql(NUMBERS)?;
    let written: i64 = owner
        .sql("select (extract(epoch from clock_timestamp()) * 1000)::bigint + 1")?
        .parse()?;
    let window = || -> Result<Window> {
        let windows = report(owner)?.windows;
        Ok(from(&windows, owner)
            .context("nothing of it can be restored")?
            .clone())
    };
    cluster.eventually(seconds(60), "the rows can be restored, as it says", |_| {
        let until = window()?.until;
        ensure!(until.0 >= written, "only until {until:?}, not {written}");
        Ok(())
    })?;
    let until = window()?.until;
    more(ROWS / 2)?;
    let all = owner.sql(NUMBERS)?;
    cluster.eventually(seconds(30), "the others have all rows", |_| {
        for node in others {
            ensure!(node.sql(NUMBERS)? == all, "{} lacks some", node.name());
        }
        Ok(())
    })?;
    Ok(Moment {
        owner: owner.name().to_owned(),
        number: owner.address().octets()[3],
        until,
        rows,
    })
}

/// Each moment comes back from the backups of whoever owned them then; what lies between doesn't.
pub(super) fn restored(on: &Node, moments: &[Moment; 2]) -> Result<()> {
    for moment in moments {
        one(on, moment).with_context(|| format!("from the backups of {}", moment.owner))?;
    }
    in_the_gap(on)
}

fn at(node: &Node, moment: Wall) -> Result<String> {
    node.sql(&format!("select to_timestamp({} / 1000.0)", moment.0))
}

fn one(on: &Node, moment: &Moment) -> Result<()> {
    let copy = on.file("copy");
    let to = copy.display().to_string();
    let time = at(on, moment.until)?;
    let restore = ["backup", "restore", "--to", &to, "--target-time", &time];
    run(&mut on.agent_command(&restore))?;
    let there = |statement: &str| sql_at(&copy.join("sock"), statement);
    let rows = there(NUMBERS)?;
    ensure!(rows == moment.rows, "{rows} instead of {}", moment.rows);
    as_of_then(on, &there, moment, &time)?;
    run(&mut on.agent_command(&["backup", "discard", &to]))?;
    Ok(())
}

/// Of what the load has written there: nothing that came later, and all that came before.
fn as_of_then(
    on: &Node,
    there: &dyn Fn(&str) -> Result<String>,
    moment: &Moment,
    time: &str,
) -> Result<()> {
    let node = moment.number;
    // Rows of this table never change: their commit is their insert, as it was where they were written.
    let live = |before: &str| {
        on.sql(&format!(
            "select count(*) from public.tickets where node = {node}
                and pg_xact_commit_timestamp(xmin) <= timestamptz '{time}' - interval '{before}'"
        ))
    };
    let count = |text: String| Ok::<u64, anyhow::Error>(text.parse()?);
    let found = count(there(&format!(
        "select count(*) from public.tickets where node = {node}"
    ))?)?;
    let (least, most) = (count(live(AT_ONCE)?)?, count(live("0")?)?);
    ensure!(
        (least..=most).contains(&found) && least > 0,
        "{found} rows of the load, of {least} to {most}"
    );
    Ok(())
}

/// Between two owners there is a moment that nothing leads to: it is refused before anything is copied.
fn in_the_gap(on: &Node) -> Result<()> {
    let gaps = report(on)?.gaps;
    let [gap] = gaps.as_slice() else {
        anyhow::bail!("the hand-over is no gap: {gaps:?}")
    };
    let time = at(on, Wall(gap.from.0 + (gap.until.0 - gap.from.0) * 3 / 4))?;
    let to = on.file("nothing");
    let path = to.display().to_string();
    let tried = output(&mut on.agent_command(&[
        "backup",
        "restore",
        "--to",
        &path,
        "--target-time",
        &time,
    ]))?;
    let said = String::from_utf8_lossy(&tried.stderr).into_owned();
    ensure!(
        !tried.status.success() && said.contains("there is a gap") && said.contains("backup list"),
        "{said}"
    );
    ensure!(!to.exists(), "something was made");
    Ok(())
}
