//! A marked block of ours at the top of a file that belongs to the operator.
//!
//! Pure. Every byte outside the block stays as it is; where it can't be told which lines are
//! ours, nothing is guessed.

use std::ops::Range;
use thiserror::Error;

/// The line before our lines. Recognised by [`BEGIN_SIGN`], so that its wording may change.
const BEGIN: &str = "# >>> pgaa-agent: what is changed between these two marks is lost >>>";
/// The line after our lines.
const END: &str = "# <<< pgaa-agent <<<";
const BEGIN_SIGN: &[u8] = b"# >>> pgaa-agent";
const END_SIGN: &[u8] = b"# <<< pgaa-agent";

/// The marks in the file don't say which lines are ours. Line numbers count from 1.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum BlockError {
    /// A block begins and doesn't end before the file does, or before another begins.
    #[error(
        "line {line} begins a block of pgaa-agent that has no end: put the line {END:?} after \
         its last line, or delete the block with its first line"
    )]
    NoEnd {
        /// Where it begins.
        line: usize,
    },
    /// A block ends that has not begun.
    #[error(
        "line {line} ends a block of pgaa-agent that has no beginning: delete that line, and the \
         lines before it that the agent wrote"
    )]
    NoBeginning {
        /// Where it ends.
        line: usize,
    },
}

/// Where one block is, in bytes.
struct Found {
    /// With its marks.
    whole: Range<usize>,
    /// Between its marks.
    inner: Range<usize>,
}

fn blocks(file: &[u8]) -> Result<Vec<Found>, BlockError> {
    let mut found = Vec::new();
    let mut open: Option<(usize, usize, usize)> = None;
    let mut at = 0;
    for (index, line) in file.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let number = index + 1;
        let next = at + line.len();
        if line.starts_with(BEGIN_SIGN) {
            if let Some((_, _, line)) = open {
                return Err(BlockError::NoEnd { line });
            }
            open = Some((at, next, number));
        } else if line.starts_with(END_SIGN) {
            let Some((start, inner, _)) = open.take() else {
                return Err(BlockError::NoBeginning { line: number });
            };
            found.push(Found {
                whole: start..next,
                inner: inner..at,
            });
        }
        at = next;
    }
    match open {
        Some((_, _, line)) => Err(BlockError::NoEnd { line }),
        None => Ok(found),
    }
}

/// The file without our block (or blocks: a copied one is ours as well).
pub fn remove(existing: &[u8]) -> Result<Vec<u8>, BlockError> {
    let mut rest = Vec::with_capacity(existing.len());
    let mut at = 0;
    for Found { whole, .. } in blocks(existing)? {
        rest.extend_from_slice(existing.get(at..whole.start).unwrap_or_default());
        at = whole.end;
    }
    rest.extend_from_slice(existing.get(at..).unwrap_or_default());
    Ok(rest)
}

/// The file with `lines` as our only block, at its top: PostgreSQL takes the first line that
/// matches, so ours have to come before all others.
pub fn splice(existing: &[u8], lines: &str) -> Result<Vec<u8>, BlockError> {
    let rest = remove(existing)?;
    let newline = if lines.is_empty() || lines.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    let mut file = format!("{BEGIN}\n{lines}{newline}{END}\n").into_bytes();
    file.extend_from_slice(&rest);
    Ok(file)
}

/// The lines of our block; `None` when there is no block. Of several the first counts, as it
/// does for PostgreSQL.
pub fn lines(existing: &[u8]) -> Result<Option<String>, BlockError> {
    let found = blocks(existing)?;
    let inner = found
        .first()
        .and_then(|block| existing.get(block.inner.clone()));
    Ok(inner.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    #[test]
    fn the_rest_is_untouched_whatever_it_is() {
        let huge = b"host all all 10.0.0.0/8 md5\r\n".repeat(200_000);
        for rest in [
            &b""[..],
            b"a",
            b"a\n",
            b"a\r\nb\r\n",
            b"\n\n",
            b"\xff\xfe\0",
            &huge,
        ] {
            let once = splice(rest, "x\ny").unwrap();
            assert!(once.starts_with(BEGIN.as_bytes()) && once.ends_with(rest));
            assert_eq!(remove(&once).unwrap(), rest);
            assert_eq!(splice(&once, "x\ny\n").unwrap(), once, "not idempotent");
            assert_eq!(lines(&once).unwrap().as_deref(), Some("x\ny\n"));
            assert_eq!(remove(&splice(&once, "other").unwrap()).unwrap(), rest);
        }
    }

    #[test]
    fn lines_before_the_block_and_copies_of_it_are_healed() {
        let ours = String::from_utf8(splice(b"", "x").unwrap()).unwrap();
        let file = format!("a\n{ours}b\n{}c", ours.replace('\n', "\r\n"));
        assert_eq!(
            splice(file.as_bytes(), "y").unwrap(),
            splice(b"a\nb\nc", "y").unwrap()
        );
    }

    #[test]
    fn half_a_block_is_refused() {
        let cases = [
            (format!("{BEGIN}\nx\n"), BlockError::NoEnd { line: 1 }),
            (
                format!("a\n{BEGIN}\nx\n{BEGIN}\n{END}\n"),
                BlockError::NoEnd { line: 2 },
            ),
            (format!("x\n{END}\n"), BlockError::NoBeginning { line: 2 }),
            (
                format!("{BEGIN}\n{END}\n{END}"),
                BlockError::NoBeginning { line: 3 },
            ),
        ];
        for (file, error) in cases {
            assert_eq!(splice(file.as_bytes(), "y"), Err(error.clone()), "{file}");
            assert_eq!(lines(file.as_bytes()), Err(error));
        }
    }

    #[test]
    fn any_pile_of_lines_is_spliced_reversibly_or_refused() {
        let pieces: [&[u8]; 9] = [
            BEGIN.as_bytes(),
            END.as_bytes(),
            b"\n",
            b"\r\n",
            b"host all all all md5",
            b"# comment \\",
            b"\"",
            b"\0\xff",
            b" ",
        ];
        let mut rng = SmallRng::seed_from_u64(2);
        let (mut spliced, mut refused) = (0, 0);
        for _ in 0..20_000 {
            let count = rng.random_range(0..12);
            let file: Vec<u8> = (0..count)
                .flat_map(|_| pieces[rng.random_range(0..pieces.len())])
                .copied()
                .collect();
            let Ok(once) = splice(&file, "x\n") else {
                refused += 1;
                continue;
            };
            spliced += 1;
            assert_eq!(splice(&once, "x\n").unwrap(), once);
            let rest = remove(&file).unwrap();
            assert_eq!(remove(&once).unwrap(), rest);
            assert!(once.ends_with(&rest));
        }
        assert!(
            spliced > 1_000 && refused > 1_000,
            "{spliced} spliced, {refused} refused"
        );
    }
}
