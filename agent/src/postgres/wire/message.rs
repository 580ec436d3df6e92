//! The messages of the protocol: how those are written that are sent, and how those are read that
//! come ("Message Formats" in PostgreSQL's manual).
//!
//! Pure: bytes come in, and go out.

use bytes::{Buf, Bytes, BytesMut};
use std::fmt;

/// The version of the protocol, 3.0.
const PROTOCOL: i32 = 0x0003_0000;

/// Asks for TLS, before anything else is said.
pub(super) const WANT_TLS: [u8; 8] = [0, 0, 0, 8, 0x04, 0xD2, 0x16, 0x2F];

/// The largest message that is taken, but for rows of a copy, which are passed on in pieces. Ours
/// are rows of names.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// A message's kind and length.
const HEAD: usize = 5;

/// What a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Let in, or asked for something.
    Authentication,
    /// Ready for the next query.
    Ready,
    /// An error.
    Refusal,
    /// One row of a query.
    Row,
    /// The rows of a copy follow.
    CopyOut,
    /// A statement is done.
    Complete,
    /// What nobody here asks about: settings, notices, descriptions.
    Other,
}

/// What a server says when it refuses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refusal {
    /// SQLSTATE.
    pub sqlstate: String,
    /// Its words.
    pub message: String,
    /// More of them.
    pub detail: Option<String>,
    /// What may help.
    pub hint: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.sqlstate)?;
        for (word, part) in [("detail", &self.detail), ("hint", &self.hint)] {
            if let Some(part) = part {
                write!(f, "; {word}: {part}")?;
            }
        }
        Ok(())
    }
}

fn with_length(text: &[u8]) -> Vec<u8> {
    let length = i32::try_from(text.len() + 4).unwrap_or(i32::MAX);
    [&length.to_be_bytes(), text].concat()
}

/// The first message: who asks for what.
pub(super) fn start_up(words: &[(&str, &str)]) -> Vec<u8> {
    let mut text = PROTOCOL.to_be_bytes().to_vec();
    for (word, value) in words {
        for part in [word, value] {
            text.extend(part.bytes().filter(|byte| *byte != 0));
            text.push(0);
        }
    }
    text.push(0);
    with_length(&text)
}

/// Statements; `None` when they can't be sent.
pub(super) fn query(text: &str) -> Option<Vec<u8>> {
    if text.contains('\0') {
        return None;
    }
    let body = [text.as_bytes(), b"\0"].concat();
    Some([b"Q".as_slice(), &with_length(&body)].concat())
}

/// Takes one message off what has come; `None` while it is not all there.
pub(super) fn take(have: &mut BytesMut) -> Result<Option<(Kind, Bytes)>, &'static str> {
    let Some((tag, length)) = head(have) else {
        return Ok(None);
    };
    if length > BYTES_MAX {
        return Err("with something that is not PostgreSQL's protocol");
    }
    if have.len() < HEAD + length {
        return Ok(None);
    }
    have.advance(HEAD);
    let body = have.split_to(length).freeze();
    let kind = match tag {
        b'R' => Kind::Authentication,
        b'Z' => Kind::Ready,
        b'E' => Kind::Refusal,
        b'D' => Kind::Row,
        b'H' => Kind::CopyOut,
        b'C' => Kind::Complete,
        _ => Kind::Other,
    };
    Ok(Some((kind, body)))
}

/// Kind and length of the body of what comes first.
fn head(have: &[u8]) -> Option<(u8, usize)> {
    let [tag, a, b, c, d, ..] = have else {
        return None;
    };
    let length = u32::from_be_bytes([*a, *b, *c, *d]);
    Some((*tag, usize::try_from(length).ok()?.saturating_sub(4)))
}

/// Is this the answer that lets one in?
pub(super) fn is_let_in(body: &[u8]) -> bool {
    body == [0; 4]
}

/// The values of a row, as texts.
pub(super) fn row(mut body: &[u8]) -> Option<Vec<String>> {
    let count = body.try_get_i16().ok()?;
    let mut values = Vec::new();
    for _ in 0..count {
        // NULL has the length -1.
        let length = usize::try_from(body.try_get_i32().ok()?).unwrap_or(0);
        let value = body.get(..length)?;
        values.push(String::from_utf8_lossy(value).into_owned());
        body.advance(length);
    }
    Some(values)
}

/// What a refusal says: fields of one letter each, with a zero byte behind each.
pub(super) fn refusal(body: &[u8]) -> Refusal {
    let mut refusal = Refusal::default();
    for field in body.split(|byte| *byte == 0) {
        let Some((letter, text)) = field.split_first() else {
            continue;
        };
        let text = String::from_utf8_lossy(text).into_owned();
        match letter {
            b'C' => refusal.sqlstate = text,
            b'M' => refusal.message = text,
            b'D' => refusal.detail = Some(text),
            b'H' => refusal.hint = Some(text),
            _ => {}
        }
    }
    refusal
}

/// Where the rows of a copy stand.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// What is still to come of the row that has begun.
    left: usize,
}

impl Rows {
    /// Passes on what has come of rows, without their messages' heads, until `out` holds `most`
    /// bytes. True when more has to come first; false when `out` is full, or a message follows that
    /// is no row.
    pub(super) fn pass_on(&mut self, have: &mut BytesMut, out: &mut BytesMut, most: usize) -> bool {
        let mut at = 0;
        let wants_more = loop {
            let rest = have.get(at..).unwrap_or_default();
            if self.left == 0 {
                match head(rest) {
                    Some((b'd', length)) => (self.left, at) = (length, at + HEAD),
                    Some(_) => break false,
                    None => break true,
                }
                continue;
            }
            let room = most.saturating_sub(out.len());
            let piece = rest.get(..self.left.min(room)).unwrap_or(rest);
            if piece.is_empty() {
                break room > 0;
            }
            out.extend_from_slice(piece);
            self.left -= piece.len();
            at += piece.len();
        };
        have.advance(at);
        wants_more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        [&[tag], with_length(body).as_slice()].concat()
    }

    fn copied(pieces: &[&[u8]], most: usize) -> (Vec<u8>, BytesMut) {
        let (mut rows, mut have) = (Rows::default(), BytesMut::new());
        let mut all = Vec::new();
        for piece in pieces {
            have.extend_from_slice(piece);
            loop {
                let mut out = BytesMut::new();
                let wants_more = rows.pass_on(&mut have, &mut out, most);
                assert!(out.len() <= most);
                all.extend_from_slice(&out);
                if wants_more || out.is_empty() {
                    break;
                }
            }
        }
        (all, have)
    }

    #[test]
    fn rows_are_passed_on_however_they_are_cut() {
        let stream = [
            message(b'd', b"first"),
            message(b'd', b""),
            message(b'd', b"the second"),
            message(b'c', b""),
        ]
        .concat();
        for size in 1..=stream.len() {
            for most in [1, 3, 64] {
                let pieces: Vec<&[u8]> = stream.chunks(size).collect();
                let (rows, rest) = copied(&pieces, most);
                assert_eq!(rows, b"firstthe second", "{size} {most}");
                assert_eq!(rest.as_ref(), message(b'c', b""), "{size} {most}");
            }
        }
    }

    #[test]
    fn a_message_is_taken_when_all_of_it_is_there() {
        let whole = message(b'Z', b"I");
        let mut have = BytesMut::new();
        for byte in &whole {
            assert_eq!(take(&mut have), Ok(None));
            have.extend_from_slice(&[*byte]);
        }
        let ready = (Kind::Ready, Bytes::from_static(b"I"));
        assert_eq!(take(&mut have), Ok(Some(ready)));
        assert!(have.is_empty());
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let mut have = BytesMut::from(b"HTTP/1.1 400 Bad Request".as_slice());
        assert!(take(&mut have).is_err());
    }

    #[test]
    fn a_row_has_its_values_and_one_that_is_cut_short_is_none() {
        let whole = [
            0, 3, 0, 0, 0, 2, b'a', b'b', 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0,
        ];
        let values = vec!["ab".to_owned(), String::new(), String::new()];
        assert_eq!(row(&whole), Some(values));
        for length in 0..whole.len() {
            assert_eq!(row(whole.get(..length).unwrap()), None, "{length}");
        }
    }

    #[test]
    fn a_refusal_tells_everything() {
        let body = b"SERROR\0C42501\0Mno\0Hask somebody\0\0";
        let refusal = refusal(body);
        assert_eq!(refusal.to_string(), "no (42501); hint: ask somebody");
    }
}
