//! Programs that need flags of their own, built beside everything else: the cluster tier (`--cfg madsim`), which gets a
//! process for every seed, and either tier with planted bugs (`--cfg norn_planted`).

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::options::Profile;
use crate::report::{Exit, Stats};

const PROGRAM: &str = "norn-sim-cluster";
const CORE: &str = "norn-sim";
/// Where it is built with planted bugs.
const PLANTED_DIR: &str = "planted";

/// The program, built.
pub struct Launcher {
    program: PathBuf,
}

/// What came of one seed.
pub struct Ran {
    pub exit: Exit,
    pub stats: Stats,
    /// What it said.
    pub text: String,
}

/// What to ask of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Order<'a> {
    pub seed: u64,
    pub profile: Profile,
    pub trace: Option<&'a str>,
    pub plant: Option<&'a str>,
    pub shows_options: bool,
}

impl Launcher {
    /// Builds it; `plants`: with the mistakes that can be turned on.
    ///
    /// # Errors
    /// What cargo or the system refused.
    pub fn build(plants: bool) -> Result<Launcher, String> {
        let (dir, flags) = match plants {
            true => ("madsim-planted", "--cfg madsim --cfg norn_planted"),
            false => ("madsim", "--cfg madsim"),
        };
        Ok(Launcher { program: build(PROGRAM, dir, flags)? })
    }

    /// # Errors
    /// It could not be run, or did not run to its end.
    pub fn run(&self, order: Order<'_>) -> Result<Ran, String> {
        let mut command = Command::new(&self.program);
        command.args(["--seed", &order.seed.to_string()]);
        command.args(["--profile", &format!("{:?}", order.profile).to_lowercase()]);
        if let Some(file) = order.trace {
            command.args(["--trace", file]);
        }
        if let Some(name) = order.plant {
            command.args(["--plant", name]);
        }
        if order.shows_options {
            command.arg("--options");
        }
        let output = command.output().map_err(|error| format!("{PROGRAM}: {error}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let (mut text, mut stats) = (String::new(), None);
        for line in said.lines() {
            match Stats::parse(line) {
                Some(found) => stats = Some(found),
                None => {
                    text += line;
                    text.push('\n');
                }
            }
        }
        let seed = order.seed;
        let Some(stats) = stats else {
            let errors = String::from_utf8_lossy(&output.stderr);
            return Err(format!("seed {seed}: no result, {}\n{text}{errors}", output.status));
        };
        let exit = output.status.code().map_or(Exit::Harness, Exit::of);
        Ok(Ran { exit, stats, text })
    }
}

/// Builds the core tier with the mistakes that can be turned on.
///
/// # Errors
/// What cargo or the system refused.
pub fn planted_core() -> Result<PathBuf, String> {
    build(CORE, PLANTED_DIR, "--cfg norn_planted")
}

/// Does the same again in a build with the mistakes that can be turned on.
///
/// # Errors
/// It could not be built or run.
pub fn again_planted() -> Result<Exit, String> {
    let status = Command::new(planted_core()?)
        .args(std::env::args_os().skip(1))
        .status()
        .map_err(|error| format!("{CORE}: {error}"))?;
    Ok(status.code().map_or(Exit::Harness, Exit::of))
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
