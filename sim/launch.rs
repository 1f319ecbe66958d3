//! The cluster tier from the outside: its program is built with `--cfg madsim`, beside everything else, and gets a process
//! for every seed.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::options::Profile;
use crate::report::{Exit, Stats};

const PROGRAM: &str = "norn-sim-cluster";

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
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let target = own.parent().and_then(|dir| dir.parent()).ok_or("no target directory")?;
        let target = target.join(if plants { "madsim-planted" } else { "madsim" });
        let mut flags = "--cfg madsim".to_owned();
        if plants {
            flags += " --cfg norn_planted";
        }
        eprintln!("building the cluster tier (RUSTFLAGS=\"{flags}\")");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let status = Command::new(cargo)
            .args(["build", "--quiet", "--profile", "sim", "--bin", PROGRAM])
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
            return Err(format!("building the cluster tier: {status}"));
        }
        Ok(Launcher { program: target.join("sim").join(PROGRAM) })
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
