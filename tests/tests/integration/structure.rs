//! `pgaa-agent verify` names what the nodes' databases are made of differently, and nothing else.

use crate::verify::verify;
use crate::{ASSEMBLY_MAX, seconds};
use anyhow::{Context, Result, ensure};
use pgaa_core::verify::{DifferentPiece, Finding, Report, StructureReport};
use pgaa_tests::load::create_tables;
use pgaa_tests::node::Node;
use pgaa_tests::scenario::play;
use std::collections::BTreeSet;

/// Of every kind something.
const MADE: &str = "
    create extension hstore;
    create role app;
    create role clerk login password 'kept by nobody';
    create role boss;
    grant boss to clerk;
    alter role clerk set work_mem = '8MB';
    create schema stock authorization app;
    create type stock.state as enum ('new', 'old');
    create domain stock.percent as int constraint bound check (value <= 100);
    create table stock.items (
        id bigint generated always as identity primary key,
        name text not null default 'none', price numeric, state stock.state, tags public.hstore,
        twice numeric generated always as (price * 2) stored, off stock.percent,
        constraint items_named check (name <> ''));
    create index items_by_name on stock.items (name);
    create table stock.parts (
        item bigint, day date, note text, primary key (item, day)) partition by range (day);
    create table stock.parts_old partition of stock.parts
        for values from ('2020-01-01') to ('2025-01-01');
    create index parts_by_note on stock.parts (note);
    create sequence stock.numbers as int increment by 5;
    create function stock.price_of(bigint) returns numeric language sql stable
        as 'select price from stock.items where id = $1';
    create function stock.touch() returns trigger language plpgsql
        as 'begin return new; end';
    create function stock.watch() returns event_trigger language plpgsql as 'begin end';
    create trigger touch before update on stock.items
        for each row execute function stock.touch();
    create view stock.cheap as select id, name from stock.items where price < 10;
    create rule quiet as on delete to stock.cheap do instead nothing;
    alter table stock.items enable row level security;
    create policy own on stock.items for select to app using (price < 100);
    grant select, update on stock.items to app;
    grant insert (name) on stock.items to app;
    grant usage on sequence stock.numbers to app;
    alter default privileges for role boss in schema stock grant select on tables to app;
    create statistics stock.related on name, price from stock.items;
    create collation stock.plain (locale = 'C');
    create text search configuration stock.search (copy = simple);
    create operator stock.=== (leftarg = int, rightarg = int, function = int4eq);
    create cast (stock.state as bigint) with inout;";

/// One difference of each kind on one node or two, and how it is named: with a letter for each of
/// a, b, c.
const ON_A: &str = "
    alter role clerk set work_mem = '16MB';
    drop cast (stock.state as bigint);
    alter default privileges for role boss in schema stock grant insert on tables to app;
    create function stock.only_here() returns int language sql as 'select 1';";
const ON_B: &str = "
    create role guest; grant boss to guest;
    revoke boss from clerk;
    drop statistics stock.related;
    drop operator stock.=== (int, int);
    drop index stock.items_by_name;
    alter table stock.items alter name set default 'nothing';
    alter table stock.items drop constraint items_named;
    alter table stock.items force row level security;
    revoke update on stock.items from app;
    revoke insert (name) on stock.items from app;
    alter type stock.state add value 'broken';
    alter domain stock.percent drop constraint bound;
    drop view stock.cheap;
    create extension citext;
    create event trigger watch on ddl_command_end execute function stock.watch();
    create table stock.parts_new partition of stock.parts
        for values from ('2025-01-01') to ('2030-01-01');";
const ON_C: &str = "
    alter role clerk createdb;
    alter database shop connection limit 90;
    alter text search configuration stock.search drop mapping for email;
    drop collation stock.plain; create collation stock.plain (locale = 'POSIX');
    alter table stock.items add extra int;
    alter table stock.items disable trigger touch;
    drop policy own on stock.items;
    drop rule quiet on stock.cheap;
    create or replace function stock.price_of(bigint) returns numeric language sql stable
        as 'select price * 2 from stock.items where id = $1';
    alter sequence stock.numbers increment by 7;
    alter table stock.parts owner to app;
    create schema extra create table things (id int primary key, name text);";
const NAMED: [&str; 31] = [
    "cast stock.state as bigint -AA",
    "collation stock.plain AAB",
    "database shop AAB",
    "default privileges of boss in stock on tables to app ABB",
    "membership clerk in boss A-A",
    "operator stock.=== (integer, integer) A-A",
    "role clerk AAB",
    "role guest -A-",
    "setting work_mem of role clerk ABB",
    "statistics stock.related A-A",
    "text search stock.search AAB",
    "column stock.items.extra --A",
    "column stock.items.name ABA",
    "constraint stock.items.items_named A-A",
    "event trigger watch -A-",
    "extension citext -A-",
    "function stock.only_here() A--",
    "function stock.price_of(bigint) AAB",
    "index stock.items_by_name A-A",
    "owner table stock.parts AAB",
    "policy stock.items.own AA-",
    "privileges column stock.items.name to app A-A",
    "privileges table stock.items to app ABA",
    "rule stock.cheap.quiet A--",
    "schema extra --A",
    "sequence stock.numbers AAB",
    "table stock.items ABA",
    "table stock.parts_new -A-",
    "trigger stock.items.touch AAB",
    "type stock.percent ABA",
    "type stock.state ABA",
];
const AND_VIEW: &str = "view stock.cheap A-A";

/// What makes them alike again.
const AGAIN_A: &str = "
    alter role clerk set work_mem = '8MB';
    create cast (stock.state as bigint) with inout;
    alter default privileges for role boss in schema stock revoke insert on tables from app;
    drop function stock.only_here();
    alter type stock.state add value 'broken';";
const AGAIN_B: &str = "
    drop role guest;
    grant boss to clerk;
    create statistics stock.related on name, price from stock.items;
    create operator stock.=== (leftarg = int, rightarg = int, function = int4eq);
    drop event trigger watch;
    create index items_by_name on stock.items (name);
    alter table stock.items alter name set default 'none';
    alter table stock.items add constraint items_named check (name <> '');
    alter table stock.items no force row level security;
    grant update on stock.items to app;
    grant insert (name) on stock.items to app;
    alter domain stock.percent add constraint bound check (value <= 100);
    create view stock.cheap as select id, name from stock.items where price < 10;
    create rule quiet as on delete to stock.cheap do instead nothing;
    drop extension citext;
    drop table stock.parts_new;";
const AGAIN_C: &str = "
    alter role clerk nocreatedb;
    alter database shop connection limit -1;
    alter text search configuration stock.search add mapping for email with simple;
    drop collation stock.plain; create collation stock.plain (locale = 'C');
    alter table stock.items drop extra;
    alter table stock.items enable trigger touch;
    create policy own on stock.items for select to app using (price < 100);
    create rule quiet as on delete to stock.cheap do instead nothing;
    create or replace function stock.price_of(bigint) returns numeric language sql stable
        as 'select price from stock.items where id = $1';
    alter sequence stock.numbers increment by 5;
    alter table stock.parts owner to postgres;
    alter type stock.state add value 'broken';
    drop schema extra cascade;";

fn structure(report: &Report) -> Result<&StructureReport> {
    let structure = report.structure.as_ref().context("not compared")?;
    ensure!(structure.left_out.is_empty(), "{structure:?}");
    ensure!(structure.nodes == report.nodes, "{structure:?}");
    Ok(structure)
}

fn alike(nodes: &[&Node]) -> Result<()> {
    for node in nodes {
        let report = verify(node, &[])?;
        let different = &structure(&report)?.different;
        ensure!(different.is_empty(), "{different:?}");
        ensure!(report.finding() == Finding::Equal, "{report:?}");
    }
    Ok(())
}

fn named(report: &Report) -> Result<BTreeSet<String>> {
    let one = |piece: &DifferentPiece| {
        let letters: String = piece.held.iter().map(|held| held.unwrap_or('-')).collect();
        format!("{} {} {letters}", piece.kind, piece.name)
    };
    Ok(structure(report)?.different.iter().map(one).collect())
}

fn expected(wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let all = NAMED.into_iter().chain([AND_VIEW]);
    all.filter(|name| wanted(name)).map(str::to_owned).collect()
}

#[test]
fn what_nodes_are_made_of_differently_is_named_and_nothing_else() -> Result<()> {
    play(3, |cluster| {
        let nodes: [&Node; 3] = cluster.each()?;
        let [a, b, c] = nodes;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        cluster.everywhere(MADE)?;
        create_tables(cluster, &nodes)?;
        cluster.eventually(
            seconds(30),
            "these tables are replicated as well",
            |cluster| cluster.replicates(&["stock.items", "stock.parts_old"]),
        )?;
        alike(&nodes)?;
        for (node, statements) in [(a, ON_A), (b, ON_B), (c, ON_C)] {
            node.sql(statements)?;
        }
        let report = verify(a, &[])?;
        let (found, wanted) = (named(&report)?, expected(|_| true));
        ensure!(found == wanted, "{found:#?} instead of {wanted:#?}");
        ensure!(report.finding() == Finding::Open, "no row differs");
        let found = named(&verify(a, &["parts", "stock.items"])?)?;
        let of_tables = |name: &str| {
            name.contains(" stock.items.")
                || name.contains(" stock.items_")
                || name.contains("table stock.items")
                || name.contains("table stock.parts ")
                || name.contains("stock.related")
        };
        let wanted = expected(of_tables);
        ensure!(found == wanted, "{found:#?} instead of {wanted:#?}");
        told_to_people(a)?;
        for (node, statements) in [(a, AGAIN_A), (b, AGAIN_B), (c, AGAIN_C)] {
            node.sql(statements)?;
        }
        cluster.eventually(seconds(60), "the nodes are made alike again", |_| {
            alike(&nodes)
        })?;
        Ok(())
    })
}

fn told_to_people(a: &Node) -> Result<()> {
    let output = a.ask(&["verify"])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.code() == Some(1), "{text}");
    for expected in [
        "STRUCTURE",
        "index stock.items_by_name",
        "CREATE INDEX items_by_name ON stock.items",
        "DDL is not replicated",
        "-> pgaa-agent verify",
    ] {
        ensure!(text.contains(expected), "no {expected:?} in\n{text}");
    }
    let events = a.order(&["events"])?;
    ensure!(events.contains("structure_differs"), "{events}");
    Ok(())
}
