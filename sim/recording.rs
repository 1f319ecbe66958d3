//! A run, kept whole: from the process that ran it to whoever draws or prints it.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
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
    pub watch: Option<(usize, i64, i64)>,
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
                watch: failure.watch,
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
        let recording = bincode::decode_from_std_read(&mut from, config()).map_err(|e| told(&e))?;
        match from.fill_buf().map_err(|e| told(&e))? {
            [] => Ok(recording),
            _ => Err(told(&"a recording of another version")),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Case;
    use crate::runner;

    #[test]
    fn a_recording_is_read_as_it_was_written() {
        let recording = runner::core(&Case { seed: 3, ..Case::default() }, true).1.unwrap();
        let name = format!("norn-sim-test-{}.recording", std::process::id());
        let file = std::env::temp_dir().join(name);
        recording.write(&file).unwrap();
        let read = Recording::read(&file).unwrap();
        assert_eq!((read.hash, &read.records), (recording.hash, &recording.records));
        let whole = std::fs::read(&file).unwrap();
        for bytes in [&whole[..whole.len() - 1], &[whole.as_slice(), &[0]].concat()] {
            std::fs::write(&file, bytes).unwrap();
            assert!(Recording::read(&file).is_err());
        }
        std::fs::remove_file(&file).unwrap();
    }
}
