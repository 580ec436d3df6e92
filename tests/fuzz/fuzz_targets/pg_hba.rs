//! pg_hba.conf with anything in it: our block comes and goes, and no other byte changes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgaa_agent::postgres::block::{lines, remove, splice};
use pgaa_agent::postgres::hba::{Gate, Who, admits_locally, gate_lines, gate_of};
use pgaa_agent::postgres::ident::members_of;

const WHO: Who<'_> = Who {
    database: "shop",
    mesh_role: "pgaa_mesh",
    superuser: "postgres",
};

fuzz_target!(|file: &[u8]| {
    let _ = admits_locally(file, WHO, "postgres");
    let _ = members_of(file);

    // Damaged marks: refused by all, so that nobody guesses.
    let Ok(rest) = remove(file) else {
        assert!(splice(file, "x").is_err() && lines(file).is_err() && gate_of(file).is_err());
        return;
    };
    for gate in [Gate::Shut, Gate::Open] {
        for local_login in [false, true] {
            let block = gate_lines(gate, WHO, local_login).expect("names that can be written");
            let with = splice(file, &block).expect("the marks are sound");
            assert!(with.ends_with(&rest), "the operator's lines changed");
            assert_eq!(
                remove(&with).as_deref(),
                Ok(rest.as_slice()),
                "they don't come back"
            );
            assert_eq!(lines(&with), Ok(Some(block.clone())), "our lines changed");
            assert_eq!(gate_of(&with), Ok(Some(gate)));
            assert_eq!(
                splice(&with, &block).as_deref(),
                Ok(with.as_slice()),
                "not idempotent"
            );
        }
    }
    // Names come from the configuration: they are quoted or refused, and never end the line.
    let name = String::from_utf8_lossy(file);
    if let Ok(block) = gate_lines(
        Gate::Shut,
        Who {
            database: &name,
            ..WHO
        },
        true,
    ) {
        let usual = gate_lines(Gate::Shut, WHO, true).expect("names that can be written");
        assert_eq!(
            block.lines().count(),
            usual.lines().count(),
            "a name made a line"
        );
    }
});
