//! Tables for people.

use std::io::{self, Write};

use owo_colors::OwoColorize;
use unicode_width::UnicodeWidthStr;

/// Blanks between two columns.
const GAP: &str = "  ";

/// A table without lines: a heading, then rows. Cells may be coloured; what a terminal does not show takes no room.
#[derive(Debug)]
pub struct Table {
    /// Which columns are set to the right.
    right: Vec<bool>,
    /// The heading, then the rows.
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column headings. Columns whose heading starts with `>` are set to the right.
    pub fn new(columns: &[&str]) -> Self {
        let heading = columns.iter().map(|name| name.trim_start_matches('>').to_owned()).collect();
        Self { right: columns.iter().map(|name| name.starts_with('>')).collect(), rows: vec![heading] }
    }

    /// Adds a row. A cell is on one line: line breaks become blanks.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into_iter().map(|cell| cell.replace('\n', " ")).collect());
    }

    /// Writes it, without blanks at the ends of lines.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let widest = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).max();
        let widths: Vec<usize> = (0..self.right.len()).map(|column| widest(column).unwrap_or_default()).collect();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, wide), right) in row.iter().zip(&widths).zip(&self.right) {
                let fill = " ".repeat(wide.saturating_sub(width(cell)));
                let [before, after] = if *right { [fill.as_str(), ""] } else { ["", fill.as_str()] };
                line.extend([before, cell.as_str(), after, GAP]);
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Columns that a terminal needs to show this.
fn width(cell: &str) -> usize {
    anstream::adapter::strip_str(cell).map(UnicodeWidthStr::width).sum()
}

/// A state in green when it is good, in red when it is not.
pub fn good_or_bad(text: &str, good: bool) -> String {
    if good { text.green().to_string() } else { text.red().to_string() }
}
