//! postgresql.conf with anything in it: what was read means the same when we write it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgaa_agent::postgres::conf::{parse, quote, split_list};

fuzz_target!(|text: &str| {
    let lines = text.lines().count();
    for (line, name, value) in parse(text) {
        assert!((1..=lines).contains(&line), "line {line} of {lines}");
        let written = format!("{name} = {}", quote(&value));
        assert_eq!(
            parse(&written),
            [(1, name, value.clone())],
            "{written:?} means something else"
        );
        for element in split_list(&value) {
            assert!(!element.is_empty() && element.trim() == element);
        }
    }
});
