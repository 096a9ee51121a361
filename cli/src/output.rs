//! Prints data to standard output, and nothing else there.
//!
//! A command describes its data as a [`Document`], or as a stream of [`Row`]s when there may be millions. Every JSON
//! document, and every row, says its `schema`.

use std::io::{self, BufWriter, Stdout, Write};

use serde::Serialize;

mod table;
pub use table::{Table, good_or_bad};

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// One JSON document
    Json,
    /// One JSON document on each line
    Jsonl,
    /// YAML
    Yaml,
}

/// What a command found out, as a whole.
pub trait Document: Serialize {
    /// Name and version of its JSON form.
    const SCHEMA: &'static str;

    /// Writes it for people. Colours are stripped later when they are not wanted.
    ///
    /// # Errors
    /// Those of `out`.
    fn write_table(&self, out: &mut dyn Write) -> io::Result<()>;
}

/// One of many lines of output, each printed as soon as it is known.
pub trait Row: Serialize {
    /// Name and version of its JSON form.
    const SCHEMA: &'static str;

    /// The line above the first row; empty for none. Ends without a line break.
    fn heading() -> String;

    /// The row for people, on one line, without a line break.
    fn line(&self) -> String;
}

#[derive(Serialize)]
struct WithSchema<'a, T> {
    schema: &'a str,
    #[serde(flatten)]
    content: &'a T,
}

/// Prints one document to standard output.
///
/// # Errors
/// Those of standard output; a closed pipe is one.
pub fn print<D: Document>(format: Format, document: &D) -> io::Result<()> {
    match format {
        Format::Table => {
            let mut out = anstream::stdout().lock();
            document.write_table(&mut out)?;
            out.flush()
        }
        _ => {
            let mut out = io::stdout().lock();
            write_document(&mut out, format, document)?;
            out.flush()
        }
    }
}

/// Writes one document in any format to any place.
///
/// # Errors
/// Those of `out`.
pub fn write_document<D: Document>(out: &mut dyn Write, format: Format, document: &D) -> io::Result<()> {
    let whole = WithSchema { schema: D::SCHEMA, content: document };
    match format {
        Format::Table => document.write_table(out),
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, &whole).map_err(from_json)?;
            writeln!(out)
        }
        Format::Jsonl => {
            serde_json::to_writer(&mut *out, &whole).map_err(from_json)?;
            writeln!(out)
        }
        Format::Yaml => {
            writeln!(out, "---")?;
            serde_norway::to_writer(&mut *out, &whole).map_err(from_yaml)
        }
    }
}

/// Prints rows one after another in bounded memory: as lines, or as one array in JSON and YAML.
#[derive(Debug)]
pub struct Rows<W: Write = BufWriter<Stdout>> {
    out: W,
    format: Format,
    count: u64,
}

impl Rows {
    /// Prints to standard output.
    pub fn to_stdout(format: Format) -> Self {
        Self::new(BufWriter::with_capacity(1 << 16, io::stdout()), format)
    }
}

impl<W: Write> Rows<W> {
    /// Prints to `out`.
    pub const fn new(out: W, format: Format) -> Self {
        Self { out, format, count: 0 }
    }

    /// Prints one row.
    ///
    /// # Errors
    /// Those of the place printed to.
    pub fn push<R: Row>(&mut self, row: &R) -> io::Result<()> {
        let whole = WithSchema { schema: R::SCHEMA, content: row };
        match self.format {
            Format::Table => {
                if self.count == 0 && !R::heading().is_empty() {
                    writeln!(self.out, "{}", R::heading())?;
                }
                writeln!(self.out, "{}", row.line())?;
            }
            Format::Json => {
                self.out.write_all(if self.count == 0 { b"[\n" } else { b",\n" })?;
                serde_json::to_writer(&mut self.out, &whole).map_err(from_json)?;
            }
            Format::Jsonl => {
                serde_json::to_writer(&mut self.out, &whole).map_err(from_json)?;
                self.out.write_all(b"\n")?;
            }
            Format::Yaml => serde_norway::to_writer(&mut self.out, &[whole]).map_err(from_yaml)?,
        }
        self.count += 1;
        Ok(())
    }

    /// Makes the rows so far visible.
    ///
    /// # Errors
    /// Those of the place printed to.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Ends the output.
    ///
    /// # Errors
    /// Those of the place printed to.
    pub fn finish(mut self) -> io::Result<()> {
        match (self.format, self.count) {
            (Format::Json, 0) => self.out.write_all(b"[]\n")?,
            (Format::Json, _) => self.out.write_all(b"\n]\n")?,
            (Format::Yaml, 0) => self.out.write_all(b"[]\n")?,
            _ => {}
        }
        self.out.flush()
    }
}

fn from_json(error: serde_json::Error) -> io::Error {
    error.into()
}

fn from_yaml(error: serde_norway::Error) -> io::Error {
    io::Error::other(error)
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
