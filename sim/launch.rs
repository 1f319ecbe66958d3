//! Cases in processes of their own. The cluster tier's program is built with `--cfg madsim`, beside everything else; for the
//! core tier this program calls itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::case::Case;
use crate::report::{Exit, Stats, promise_of};
use crate::runner::Ran;
use crate::tally::Tally;

const CLUSTER: &str = "norn-sim-cluster";
const CORE: &str = "norn-sim";
/// Where the core tier is built with planted bugs.
const PLANTED_DIR: &str = "planted";

/// What `norn-sim` is told to do one case for another `norn-sim`.
pub const ONE: &str = "one";

/// A program that runs one case.
#[derive(Debug)]
pub struct Launcher {
    program: PathBuf,
    first: Option<&'static str>,
}

impl Launcher {
    /// For the core tier.
    ///
    /// # Errors
    /// The system does not say which program this is.
    pub fn own() -> Result<Launcher, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        Ok(Launcher { program, first: Some(ONE) })
    }

    /// Builds the cluster tier's; `plants`: with the mistakes that can be turned on.
    ///
    /// # Errors
    /// What cargo or the system refused.
    pub fn build(plants: bool) -> Result<Launcher, String> {
        let (dir, flags) = match plants {
            true => ("madsim-planted", "--cfg madsim --cfg norn_planted"),
            false => ("madsim", "--cfg madsim"),
        };
        Ok(Launcher { first: None, program: build(CLUSTER, dir, flags)? })
    }

    /// Builds the core tier with the mistakes that can be turned on.
    ///
    /// # Errors
    /// What cargo or the system refused.
    pub fn build_planted_core() -> Result<Launcher, String> {
        Ok(Launcher { first: Some(ONE), program: build(CORE, PLANTED_DIR, "--cfg norn_planted")? })
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    /// `recording`: where everything that happens is to be kept.
    ///
    /// # Errors
    /// It could not be run, or did not run to its end.
    pub fn run(&self, case: &Case, recording: Option<&Path>) -> Result<Ran, String> {
        let mut command = Command::new(&self.program);
        command.args(self.first).args(case.flags());
        if let Some(file) = recording {
            command.arg("--recording").arg(file);
        }
        let name = self.program.display();
        let output = command.output().map_err(|error| format!("{name}: {error}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let (mut text, mut stats, mut tally, mut promise) = (String::new(), None, None, None);
        for line in said.lines() {
            if let Some(found) = Stats::parse(line) {
                stats = Some(found);
            } else if let Some(found) = Tally::parse(line) {
                tally = Some(found);
            } else {
                promise = promise.or(promise_of(line).map(str::to_owned));
                text += line;
                text.push('\n');
            }
        }
        let (Some(stats), Some(tally)) = (stats, tally) else {
            let errors = String::from_utf8_lossy(&output.stderr);
            let seed = case.seed;
            return Err(format!("seed {seed}: no result, {}\n{text}{errors}", output.status));
        };
        let exit = output.status.code().map_or(Exit::Harness, Exit::of);
        Ok(Ran { exit, stats, tally, promise, text })
    }
}

/// Builds a program with flags of its own, in a directory beside the others.
fn build(program: &str, dir: &str, flags: &str) -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut target = own.parent().and_then(|dir| dir.parent()).ok_or("no target directory")?;
    // (This may be one of those builds itself.)
    if target.ends_with(PLANTED_DIR) {
        target = target.parent().ok_or("no target directory")?;
    }
    let target = target.join(dir);
    eprintln!("building {program} (RUSTFLAGS=\"{flags}\")");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--profile", "sim", "--bin", program])
        .args(["--manifest-path", manifest])
        .arg("--target-dir")
        .arg(&target)
        // (This one wins over RUSTFLAGS: a caller's own would build something else, and find nothing.)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", flags)
        .stdout(Stdio::null())
        .status()
        .map_err(|error| format!("cargo: {error}"))?;
    if !status.success() {
        return Err(format!("building {program}: {status}"));
    }
    Ok(target.join("sim").join(program))
}
