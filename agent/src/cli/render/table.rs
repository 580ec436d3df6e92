//! Tables without lines: columns parted by blanks, the widest cut when they don't fit.

use super::page::{Page, Tint, clean};

/// On which side of its column a cell stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table that is being filled.
#[derive(Debug, Clone)]
pub struct Table {
    headings: Vec<(String, Align)>,
    rows: Vec<Vec<(String, Tint)>>,
}

/// Blanks between two columns.
const GAP: usize = 2;

/// A column isn't cut below this: what is left would say nothing.
const WIDTH_MIN: usize = 5;

impl Table {
    /// A table with these headings.
    #[must_use]
    pub fn new(headings: &[(&str, Align)]) -> Table {
        let headings = headings
            .iter()
            .map(|(heading, align)| (clean(heading), *align))
            .collect();
        Table {
            headings,
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<(String, Tint)>) {
        self.rows.push(
            cells
                .into_iter()
                .map(|(text, tint)| (clean(&text), tint))
                .collect(),
        );
    }

    /// Has it no rows?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn widths(&self, room: usize) -> Vec<usize> {
        let mut widths: Vec<usize> = self
            .headings
            .iter()
            .enumerate()
            .map(|(column, (heading, _))| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                let widest = cells
                    .map(|(text, _)| text.chars().count())
                    .max()
                    .unwrap_or(0);
                widest.max(heading.chars().count())
            })
            .collect();
        let gaps = GAP * widths.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > room {
            let Some(widest) = widths.iter_mut().max() else {
                break;
            };
            if *widest <= WIDTH_MIN {
                break;
            }
            *widest -= 1;
        }
        widths
    }

    /// Writes the table onto the page.
    pub fn write(&self, page: &mut Page) {
        let widths = self.widths(page.columns());
        let headings: Vec<(String, Tint)> = self
            .headings
            .iter()
            .map(|(heading, _)| (heading.clone(), Tint::Faint))
            .collect();
        self.write_row(page, &widths, &headings);
        for row in &self.rows {
            self.write_row(page, &widths, row);
        }
    }

    fn write_row(&self, page: &mut Page, widths: &[usize], row: &[(String, Tint)]) {
        let mut line = String::new();
        for ((text, tint), ((_, align), width)) in row.iter().zip(self.headings.iter().zip(widths))
        {
            let text = cut(text, *width);
            let blanks = " ".repeat(width.saturating_sub(text.chars().count()));
            if !line.is_empty() {
                line.push_str(&" ".repeat(GAP));
            }
            let text = page.tinted(*tint, &text);
            match align {
                Align::Left => line.extend([text.as_str(), blanks.as_str()]),
                Align::Right => line.extend([blanks.as_str(), text.as_str()]),
            }
        }
        page.line(&line);
    }
}

/// Text of at most `width` characters; what is cut shows as '…'.
#[must_use]
pub fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}
