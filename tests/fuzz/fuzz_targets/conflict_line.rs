//! Lines of the server's log with anything in them, and rows as pglogical prints them: what was
//! read in one way only is what was written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgaa_core::conflicts::line::{Read, read};
use pgaa_core::conflicts::tuple::{self, Column, Shape, Value};

fn column(name: &str, type_name: &str) -> Column {
    Column {
        name: name.to_owned(),
        type_name: type_name.to_owned(),
    }
}

fn shape() -> Shape {
    Shape {
        columns: vec![
            column("id", "int4"),
            column("note", "text"),
            column("b c", "text"),
        ],
        key: vec![2, 0],
    }
}

/// What pglogical prints for these values; `None` where some of it was cut.
fn written(shape: &Shape, values: &[Value]) -> Option<Vec<u8>> {
    let parts = shape.columns.iter().zip(values).map(|(column, value)| {
        let value = match value {
            Value::Null => "(null)",
            Value::Whole(text) => text,
            Value::Cut(_) | Value::Hidden => return None,
        };
        Some(format!("{}[{}]:{value}", column.name, column.type_name))
    });
    let parts: Option<Vec<String>> = parts.collect();
    Some(parts?.join(" ").into_bytes())
}

fn check(text: &[u8]) {
    let shape = shape();
    let Ok(values) = tuple::read(text, &shape.columns) else {
        return;
    };
    assert_eq!(values.len(), shape.columns.len());
    if let Some(written) = written(&shape, &values) {
        assert_eq!(written, text);
    }
    if let Some(key) = tuple::key(&shape, &values) {
        assert!(key.iter().all(|part| part.text.len() <= 40));
    }
}

fuzz_target!(|data: &[u8]| {
    check(data);
    for line in data.split(|byte| *byte == b'\n') {
        if let Read::Conflict(conflict) = read(line, 5) {
            check(&conflict.remote);
            if let Some(local) = conflict.local {
                check(&local.tuple);
            }
        }
    }
});
