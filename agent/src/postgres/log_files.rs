//! The files of PostgreSQL's logging collector: which there are, reading them on, removing old ones.
//!
//! A file is known by its name and inode, and read whenever it is longer than what was read of it:
//! no order of files and no rotation can make a line be read twice or not at all. Must not know
//! what stands in a line.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What is read at once, bytes: some hundred lines.
const BLOCK_BYTES: usize = 512 << 10;

/// A longer line is passed over: none about a conflict can be that long.
const LINE_BYTES_MAX: usize = 2 << 20;

/// A file of the log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// Its name in the log's directory.
    pub name: String,
    /// Its inode.
    pub inode: u64,
}

/// A file as it is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Which one.
    pub id: FileId,
    /// Bytes.
    pub size: u64,
    /// When something was written to it last: seconds and nanoseconds.
    pub written: (i64, i64),
}

/// What tells whether anything has happened in the directory, at the cost of two questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    directory: (i64, i64),
    size: u64,
}

/// Looks whether anything has happened. `newest` is the file that is being written.
#[must_use]
pub fn pulse(directory: &Path, newest: Option<&str>) -> Option<Pulse> {
    let of = fs::metadata(directory).ok()?;
    let newest = fs::metadata(directory.join(newest?)).ok()?;
    Some(Pulse {
        directory: (of.mtime(), of.mtime_nsec()),
        size: newest.size(),
    })
}

/// Is it one of the files in JSON?
fn is_json(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|end| end == "json")
}

/// The plain files of the directory that are logs, the one written to last at the end.
fn logs(directory: &Path) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        // It may have been removed since.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        let log = Path::new(&name).extension().is_some_and(|end| end == "log");
        if metadata.is_file() && (log || is_json(&name)) {
            found.push(Found {
                id: FileId {
                    name,
                    inode: metadata.ino(),
                },
                size: metadata.size(),
                written: (metadata.mtime(), metadata.mtime_nsec()),
            });
        }
    }
    found.sort_by(|a, b| (a.written, &a.id).cmp(&(b.written, &b.id)));
    Ok(found)
}

/// The JSON files of the directory, the one written to last at the end.
pub fn list(directory: &Path) -> io::Result<Vec<Found>> {
    let mut found = logs(directory)?;
    found.retain(|file| is_json(&file.id.name));
    Ok(found)
}

/// Whole lines of one file.
#[derive(Debug, Default)]
pub struct Block {
    bytes: Vec<u8>,
    /// Where the next read begins.
    pub until: u64,
    /// The beginning of a line that was too long to be read.
    pub passed_over: Option<Vec<u8>>,
}

impl Block {
    /// Its lines, without line breaks.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let bytes = self.bytes.strip_suffix(b"\n").unwrap_or(&self.bytes);
        bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
    }
}

/// Reads whole lines of a file from `from` on. What stands behind the last line break is read
/// next time: it is still being written.
pub fn read(directory: &Path, file: &FileId, from: u64) -> io::Result<Block> {
    let handle = File::open(directory.join(&file.name))?;
    if handle.metadata()?.ino() != file.inode {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut bytes = Vec::new();
    let mut at = from;
    loop {
        let before = bytes.len();
        bytes.resize(before + BLOCK_BYTES, 0);
        let count = fill(&handle, bytes.get_mut(before..).unwrap_or_default(), at)?;
        bytes.truncate(before + count);
        at += u64::try_from(count).unwrap_or(u64::MAX);
        let new = bytes.get(before..).unwrap_or_default();
        if let Some(end) = new.iter().rposition(|byte| *byte == b'\n') {
            bytes.truncate(before + end + 1);
            return Ok(Block {
                until: from + u64::try_from(bytes.len()).unwrap_or(u64::MAX),
                bytes,
                passed_over: None,
            });
        }
        if count < BLOCK_BYTES {
            return Ok(Block {
                bytes: Vec::new(),
                until: from,
                passed_over: None,
            });
        }
        if bytes.len() > LINE_BYTES_MAX {
            bytes.truncate(HEAD_BYTES);
            return pass_over(&handle, at, (from, bytes));
        }
    }
}

/// What is kept of a line that is too long.
const HEAD_BYTES: usize = 1024;

/// Looks for the end of a line that is too long.
fn pass_over(file: &File, mut at: u64, (from, head): (u64, Vec<u8>)) -> io::Result<Block> {
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        let count = fill(file, &mut block, at)?;
        let new = block.get(..count).unwrap_or_default();
        if let Some(end) = new.iter().position(|byte| *byte == b'\n') {
            return Ok(Block {
                bytes: Vec::new(),
                until: at + u64::try_from(end + 1).unwrap_or(u64::MAX),
                passed_over: Some(head),
            });
        }
        if count == 0 {
            return Ok(Block {
                bytes: Vec::new(),
                until: from,
                passed_over: None,
            });
        }
        at += u64::try_from(count).unwrap_or(u64::MAX);
    }
}

fn fill(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        let offset = at + u64::try_from(count).unwrap_or(u64::MAX);
        match file.read_at(buffer.get_mut(count..).unwrap_or_default(), offset) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// What the log may take on the disk, bytes.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Beyond this, files go that were read.
    pub kept: u64,
    /// Beyond this, others go as well: nobody reads them, and the disk must not fill.
    pub unread: u64,
}

/// Removes the oldest files until the rest fits; never the newest ones, which are being written.
/// `is_read` says whether all of a file was read. Returns the files that went unread.
pub fn make_room(
    directory: &Path,
    room: Room,
    is_read: impl Fn(&Found) -> bool,
) -> io::Result<Vec<PathBuf>> {
    let files = logs(directory)?;
    let newest = |json: bool| {
        files
            .iter()
            .rposition(|file| is_json(&file.id.name) == json)
    };
    let current = [newest(false), newest(true)];
    let mut total: u64 = files.iter().map(|file| file.size).sum();
    let mut lost = Vec::new();
    for (place, file) in files.iter().enumerate() {
        if total <= room.kept {
            break;
        }
        // Files for people are of no further use to anybody.
        let read = !is_json(&file.id.name) || is_read(file);
        let due = read || total > room.unread;
        if !due || current.contains(&Some(place)) {
            continue;
        }
        let path = directory.join(&file.id.name);
        fs::remove_file(&path)?;
        total = total.saturating_sub(file.size);
        if !read {
            lost.push(path);
        }
    }
    Ok(lost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn append(directory: &Path, name: &str, text: &[u8]) -> FileId {
        let path = directory.join(name);
        let mut file = File::options()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        file.write_all(text).unwrap();
        let inode = file.metadata().unwrap().ino();
        FileId {
            name: name.to_owned(),
            inode,
        }
    }

    fn lines(block: &Block) -> Vec<String> {
        let text = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
        block.lines().map(text).collect()
    }

    #[test]
    fn a_line_that_is_being_written_is_read_when_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let file = append(directory.path(), "a.json", b"one\ntwo\nthr");
        let block = read(directory.path(), &file, 0).unwrap();
        assert_eq!((lines(&block).len(), block.until), (2, 8));
        let block = read(directory.path(), &file, 8).unwrap();
        assert_eq!((lines(&block).len(), block.until), (0, 8));
        append(directory.path(), "a.json", b"ee\n");
        let block = read(directory.path(), &file, 8).unwrap();
        assert_eq!((lines(&block), block.until), (vec!["three".to_owned()], 14));
        fs::remove_file(directory.path().join("a.json")).unwrap();
        assert!(read(directory.path(), &file, 0).is_err());
    }

    #[test]
    fn long_lines_are_read_and_huge_ones_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let long = vec![b'x'; BLOCK_BYTES + 7];
        let huge = vec![b'y'; LINE_BYTES_MAX + BLOCK_BYTES + 7];
        let file = append(directory.path(), "a.json", &[&long[..], b"\n"].concat());
        let block = read(directory.path(), &file, 0).unwrap();
        assert_eq!(lines(&block)[0].len(), long.len());
        let from = block.until;
        append(directory.path(), "a.json", &huge);
        // Nothing is passed over before its end is there.
        assert_eq!(read(directory.path(), &file, from).unwrap().until, from);
        append(directory.path(), "a.json", b"\nlast\n");
        let block = read(directory.path(), &file, from).unwrap();
        assert_eq!(
            block.passed_over.as_deref().map(<[u8]>::len),
            Some(HEAD_BYTES)
        );
        let block = read(directory.path(), &file, block.until).unwrap();
        assert_eq!(lines(&block), ["last"]);
    }

    #[test]
    fn old_files_go_and_unread_ones_only_when_there_is_no_room() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for name in [
            "1.json", "1.log", "2.json", "2.log", "3.json", "3.log", "kept.txt",
        ] {
            append(path, name, &[b'x'; 100]);
            // Times of files are no finer than the kernel's tick.
            std::thread::sleep(std::time::Duration::from_millis(12));
        }
        let room = |kept, unread| Room { kept, unread };
        let first_read = |file: &Found| file.id.name == "1.json";
        let lost = make_room(path, room(250, 10_000), first_read).unwrap();
        assert_eq!(lost, Vec::<PathBuf>::new());
        let left: Vec<String> = logs(path).unwrap().into_iter().map(|f| f.id.name).collect();
        assert_eq!(left, ["2.json", "3.json", "3.log"]);
        let lost = make_room(path, room(0, 250), first_read).unwrap();
        assert_eq!(lost, [path.join("2.json")]);
        // What is being written stays, whatever it takes.
        assert_eq!(make_room(path, room(0, 0), |_| true).unwrap().len(), 0);
        assert_eq!(list(path).unwrap().len(), 1);
    }
}
