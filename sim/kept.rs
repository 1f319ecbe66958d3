//! A failure as a file: what ran, what it came to, and what it came from.
//!
//! ```text
//!   "norn case" | version: u32 LE | bincode 2 of [`Kept`]
//! ```

use std::io::Read as _;
use std::path::Path;

use bincode::{Decode, Encode};

use crate::case::Case;
use crate::runner::Ran;

const MAGIC: &[u8; 9] = b"norn case";
const VERSION: u32 = 1;
const BYTES_MAX: usize = 1 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Kept {
    /// The flags of the case, as on a command line.
    flags: Vec<String>,
    /// Of the source that it failed on.
    pub commit: String,
    /// Of the trace.
    pub hash: u64,
    /// The one that was broken; none if the run passed.
    pub promise: Option<String>,
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<BYTES_MAX>()
}

impl Kept {
    pub fn new(case: &Case, ran: &Ran, commit: &str) -> Kept {
        let (hash, promise) = (ran.stats.hash, ran.promise.clone());
        Kept { flags: case.flags(), commit: commit.to_owned(), hash, promise }
    }

    /// # Errors
    /// The case is none of this version's.
    pub fn case(&self) -> Result<Case, String> {
        let mut case = Case::default();
        let mut flags = self.flags.iter();
        while let Some(flag) = flags.next() {
            let value = || flags.next().cloned().ok_or(format!("{flag} without a value"));
            if !case.take(flag, value)? {
                return Err(format!("unknown flag {flag}"));
            }
        }
        Ok(case)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = [MAGIC.as_slice(), &VERSION.to_le_bytes()].concat();
        bytes.extend(bincode::encode_to_vec(self, config()).expect("memory takes it"));
        bytes
    }

    /// # Errors
    /// It is not such a file.
    pub fn decode(bytes: &[u8]) -> Result<Kept, String> {
        let rest = bytes.strip_prefix(MAGIC).ok_or("no case of norn-sim")?;
        let (version, rest) = rest.split_first_chunk().ok_or("cut short")?;
        let version = u32::from_le_bytes(*version);
        if version != VERSION {
            return Err(format!("of version {version}; this is {VERSION}"));
        }
        match bincode::decode_from_slice(rest, config()) {
            Ok((kept, length)) if length == rest.len() => Ok(kept),
            Ok((_, length)) => Err(format!("{} bytes too long", rest.len() - length)),
            Err(error) => Err(format!("damaged: {error}")),
        }
    }

    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, file: &Path) -> Result<(), String> {
        std::fs::write(file, self.encode()).map_err(|e| format!("{}: {e}", file.display()))
    }

    /// # Errors
    /// There is no case in it.
    pub fn read(file: &Path) -> Result<Kept, String> {
        let told = |error: String| format!("{}: {error}", file.display());
        let from = std::fs::File::open(file).map_err(|e| told(e.to_string()))?;
        let mut bytes = Vec::new();
        let read = from.take(BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|e| told(e.to_string()))?;
        if bytes.len() > BYTES_MAX {
            return Err(told(format!("no case of norn-sim: over {BYTES_MAX} bytes")));
        }
        Kept::decode(&bytes).map_err(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        let case = Case { seed: 7, ..Case::default() };
        let (commit, promise) = ("abc".to_owned(), Some("Water flows down.".to_owned()));
        Kept { flags: case.flags(), commit, hash: 0x1234_5678_9abc_def0, promise }
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let read = Kept::decode(&kept().encode()).unwrap();
        assert_eq!(read, kept());
        assert_eq!(read.case().unwrap(), Case { seed: 7, ..Case::default() });
    }

    #[test]
    fn damage_is_an_error() {
        let whole = kept().encode();
        for len in 0..whole.len() {
            assert!(Kept::decode(&whole[..len]).is_err(), "cut at {len}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            // (A flag may still be one, and a seed another: a hash that differs will tell.)
            let _ = Kept::decode(&bytes).and_then(|kept| kept.case());
        }
        assert!(Kept::decode(&[whole, vec![0]].concat()).is_err());
    }
}
