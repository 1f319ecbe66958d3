//! A run, kept whole: from the process that ran it to whoever draws or prints it.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write as _};
use std::path::Path;

use bincode::{Decode, Encode};

use crate::history::Failure;
use crate::options::Options;
use crate::record::Record;

/// No recording is longer. (A reader believes no length that would need more.)
const BYTES_MAX: usize = 1 << 30;

#[derive(Clone, Debug, Encode, Decode)]
pub struct Recording {
    pub nodes: usize,
    pub clients: usize,
    pub watchers: usize,
    pub options: String,
    pub hash: u64,
    pub failure: Option<Broken>,
    pub records: Vec<Record>,
}

/// A broken promise, as in [`Failure`].
#[derive(Clone, Debug, Encode, Decode)]
pub struct Broken {
    pub promise: String,
    pub detail: String,
    pub calls: Vec<(usize, u64)>,
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<BYTES_MAX>()
}

impl Recording {
    pub fn new(
        options: &Options,
        hash: u64,
        failure: Option<&Failure>,
        records: Vec<Record>,
    ) -> Recording {
        Recording {
            nodes: options.nodes,
            clients: options.clients,
            watchers: options.watchers,
            options: format!("{options:#?}"),
            hash,
            failure: failure.map(|failure| Broken {
                promise: failure.promise.to_owned(),
                detail: crate::report::shorten(&failure.detail),
                calls: failure.calls.clone(),
            }),
            records,
        }
    }

    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, file: &Path) -> Result<(), String> {
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        let mut out = BufWriter::new(File::create(file).map_err(|e| told(&e))?);
        bincode::encode_into_std_write(self, &mut out, config()).map_err(|e| told(&e))?;
        out.flush().map_err(|e| told(&e))
    }

    /// # Errors
    /// There is no recording in it.
    pub fn read(file: &Path) -> Result<Recording, String> {
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        let mut from = BufReader::new(File::open(file).map_err(|e| told(&e))?);
        bincode::decode_from_std_read(&mut from, config()).map_err(|e| told(&e))
    }

    /// Every record as a line.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_lines(&self, file: &str) -> Result<(), String> {
        let told = |error: std::io::Error| format!("{file}: {error}");
        let mut out = BufWriter::new(File::create(file).map_err(told)?);
        for record in &self.records {
            writeln!(out, "{}", record.to_string().trim_end()).map_err(told)?;
        }
        out.flush().map_err(told)
    }
}
