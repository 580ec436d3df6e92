//! Configuration files with anything in them: settings, or problems that say where and what.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgaa_agent::config::{Sources, Surroundings, load, show};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::LazyLock;

/// A file without a name: libFuzzer ends a process without cleaning up.
static FILE: LazyLock<File> = LazyLock::new(|| {
    let path = std::env::temp_dir().join(format!("pgaa-fuzz-{}.toml", std::process::id()));
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path);
    fs::remove_file(&path).expect("the file can be removed");
    file.expect("the file can be made")
});

/// Puts the content into the file. The path leads to it as long as this process lives.
fn file_with(content: &[u8]) -> PathBuf {
    FILE.set_len(0).expect("the file can be emptied");
    FILE.write_all_at(content, 0)
        .expect("the file can be written");
    PathBuf::from(format!("/proc/self/fd/{}", FILE.as_raw_fd()))
}

fuzz_target!(|content: &[u8]| {
    let file = file_with(content);
    let surroundings = Surroundings {
        root: PathBuf::from("/nonexistent"),
        host_name: "node-1".to_owned(),
        credentials_dir: None,
    };
    match load(&Sources::single(&file), &surroundings) {
        Ok(loaded) => {
            let shown = show(&loaded.merged, true);
            assert!(
                shown.contains("cluster"),
                "settings without a cluster: {shown}"
            );
            // What is shown is configuration again, and means the same.
            let file = file_with(show(&loaded.merged, false).as_bytes());
            let again = load(&Sources::single(&file), &surroundings).expect("own words are read");
            assert_eq!(again.settings, loaded.settings);
        }
        Err(error) => {
            assert!(!error.problems.is_empty(), "refused without a problem");
            for problem in &error.problems {
                assert!(!problem.text.is_empty(), "a problem without words");
            }
            assert!(!error.to_string().is_empty());
        }
    }
});
