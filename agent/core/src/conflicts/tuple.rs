//! The rows in a line: `id[int4]:5 name[text]:Ann Lee`, nothing quoted.
//!
//! A value may look like the beginning of the next column. So every reading is tried that fits
//! the table's columns in their order and the length that pglogical lets a value have; when there
//! are two, there is none.

/// A column, as pglogical names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The name of its type (`pg_type.typname`).
    pub type_name: String,
}

/// What a table's rows look like.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shape {
    /// Its columns in their order, without those that were dropped.
    pub columns: Vec<Column>,
    /// The columns of its primary key, by their place in `columns`, in the key's order.
    pub key: Vec<usize>,
}

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// NULL, or a text that looks like it.
    Null,
    /// All of it.
    Whole(String),
    /// Its beginning: longer values are cut.
    Cut(String),
    /// Not shown.
    Hidden,
}

/// Why there is no reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unclear {
    /// None fits: the table has other columns than the line.
    None,
    /// More than one fits.
    Several,
}

/// Longer values are cut (`MAX_CONFLICT_LOG_ATTR_LEN`), bytes.
const VALUE_MAX: usize = 40;

/// To this many bytes, and three dots.
const CUT_AT: usize = 35;

/// So many places at which a column may begin are followed; with more it counts as several
/// readings.
const PLACES_MAX: usize = 64;

/// Where the value of one column may begin, how many ways lead there (1 or more than 1), and from
/// where in the column before.
type Places = Vec<(usize, u8, usize)>;

/// Reads a row. The values come in the order of the columns.
pub fn read(text: &[u8], columns: &[Column]) -> Result<Vec<Value>, Unclear> {
    let Some((first, others)) = columns.split_first() else {
        return if text.is_empty() {
            Ok(Vec::new())
        } else {
            Err(Unclear::None)
        };
    };
    let head = header(first);
    if !text.starts_with(&head) {
        return Err(Unclear::None);
    }
    let mut layers: Vec<Places> = vec![vec![(head.len(), 1, 0)]];
    let mut heads = vec![head.len()];
    for column in others {
        let mut head = vec![b' '];
        head.extend(header(column));
        let before = layers.last().map(Vec::as_slice).unwrap_or_default();
        let places = follow(text, before, &head)?;
        heads.push(head.len());
        layers.push(places);
    }
    only(text, &layers, &heads)
}

fn header(column: &Column) -> Vec<u8> {
    format!("{}[{}]:", column.name, column.type_name).into_bytes()
}

/// Where the next column's value may begin.
fn follow(text: &[u8], before: &[(usize, u8, usize)], head: &[u8]) -> Result<Places, Unclear> {
    let mut places = Places::new();
    for (start, ways, _) in before {
        for at in *start..=(start + VALUE_MAX).min(text.len()) {
            if !text.get(at..).is_some_and(|rest| rest.starts_with(head)) {
                continue;
            }
            let begin = at + head.len();
            match places.iter_mut().find(|place| place.0 == begin) {
                Some(place) => place.1 = place.1.saturating_add(*ways),
                None => places.push((begin, *ways, *start)),
            }
        }
    }
    match places.len() {
        0 => Err(Unclear::None),
        count if count > PLACES_MAX => Err(Unclear::Several),
        _ => Ok(places),
    }
}

/// The one way through all columns to the end of the text.
fn only(text: &[u8], layers: &[Places], heads: &[usize]) -> Result<Vec<Value>, Unclear> {
    let last = layers.last().map(Vec::as_slice).unwrap_or_default();
    let mut ends = last
        .iter()
        .filter(|(start, _, _)| text.len() - start <= VALUE_MAX);
    let end = ends.next().ok_or(Unclear::None)?;
    if ends.next().is_some() || end.1 > 1 {
        return Err(Unclear::Several);
    }
    let (mut start, mut until) = (end.0, text.len());
    let mut values = Vec::with_capacity(layers.len());
    for (layer, head) in layers.iter().zip(heads).rev() {
        let place = layer.iter().find(|place| place.0 == start);
        let (begin, _, before) = place.copied().ok_or(Unclear::None)?;
        values.push(value(text.get(begin..until).ok_or(Unclear::None)?)?);
        until = begin - head;
        start = before;
    }
    values.reverse();
    Ok(values)
}

fn value(bytes: &[u8]) -> Result<Value, Unclear> {
    if bytes == b"(null)" {
        return Ok(Value::Null);
    }
    if bytes == b"(unchanged-toast-datum)" {
        return Ok(Value::Hidden);
    }
    if bytes.len() == CUT_AT + 3
        && let Some(cut) = bytes.strip_suffix(b"...")
    {
        // Where it was cut inside a character, that one goes as well.
        let sound = match std::str::from_utf8(cut) {
            Ok(_) => cut.len(),
            Err(error) => error.valid_up_to(),
        };
        let whole = cut.len() - sound < 4;
        let text = String::from_utf8_lossy(cut.get(..sound).unwrap_or_default());
        return match whole {
            true => Ok(Value::Cut(text.into_owned())),
            false => Ok(Value::Hidden),
        };
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Value::Whole(text.to_owned())),
        Err(_) => Ok(Value::Hidden),
    }
}

/// One column of a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPart {
    /// The column.
    pub column: String,
    /// Its value as text, or the beginning of it.
    pub text: String,
    /// Is it only the beginning?
    pub cut: bool,
}

/// The key of a row that was read. `None` where a part of it isn't shown.
#[must_use]
pub fn key(shape: &Shape, values: &[Value]) -> Option<Vec<KeyPart>> {
    let part = |place: &usize| {
        let column = shape.columns.get(*place)?.name.clone();
        match values.get(*place)? {
            Value::Whole(text) => Some(KeyPart {
                column,
                text: text.clone(),
                cut: false,
            }),
            Value::Cut(text) => Some(KeyPart {
                column,
                text: text.clone(),
                cut: true,
            }),
            Value::Null | Value::Hidden => None,
        }
    };
    if shape.key.is_empty() {
        return None;
    }
    shape.key.iter().map(part).collect()
}
