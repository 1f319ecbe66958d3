//! A child process with a deadline, and where the stock tools are.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use crate::poll;

#[derive(Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Standard output, of a command that must have succeeded.
    pub fn ok(self) -> String {
        assert!(self.status.success(), "the command failed: {self:#?}");
        self.stdout
    }
}

/// Runs to the end; kills and panics when that takes longer than `limit`.
pub fn run(command: &mut Command, limit: Duration) -> Output {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    finish(child, limit, &format!("{command:?}"))
}

/// Waits for a child whose output is piped.
pub fn finish(child: Child, limit: Duration, what: &str) -> Output {
    try_finish(child, limit).unwrap_or_else(|(stdout, stderr)| {
        panic!("{what}: still running after {limit:?}\n{stdout}\n{stderr}")
    })
}

/// As [`finish`]; a child that took longer is killed, and what it had written is the error.
pub fn try_finish(mut child: Child, limit: Duration) -> Result<Output, (String, String)> {
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = poll::end_within(limit, &mut child);
    if status.is_none() {
        drop(child.kill());
        drop(child.wait());
    }
    let (stdout, stderr) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
    match status {
        Some(status) => Ok(Output { status, stdout, stderr }),
        None => Err((stdout, stderr)),
    }
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            drop(pipe.read_to_end(&mut bytes));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The server under test: `NORN_TEST_SERVER`, else `nornd` of the build these tests belong to (built now when cargo is
/// at hand, so that it is never an old one).
pub fn server_path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| match std::env::var_os("NORN_TEST_SERVER") {
        Some(path) => PathBuf::from(path),
        None => built("nornd"),
    })
}

/// Our load generator, of the same build.
pub fn nornbench_path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| built("nornbench"))
}

fn built(name: &str) -> PathBuf {
    // <target>/<profile>/deps/it-<hash> or <target>/<profile>/norn-chaos
    let exe = std::env::current_exe().expect("the path of this program");
    let mut profile_dir = exe.parent().expect("a program lies in a folder");
    if profile_dir.ends_with("deps") {
        profile_dir = profile_dir.parent().expect("deps lies in a folder");
    }
    if let (Some(cargo), Some(target_dir)) = (std::env::var_os("CARGO"), profile_dir.parent()) {
        let mut build = Command::new(cargo);
        // (With the features that the whole workspace asks for: one set of crates serves all programs.)
        build.args(["build", "--quiet", "--workspace", "--bin", name]);
        build.arg("--manifest-path").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"));
        build.arg("--target-dir").arg(target_dir);
        if profile_dir.ends_with("release") {
            build.arg("--release");
        }
        let status = build.status().expect("cargo runs");
        assert!(status.success(), "cargo could not build {name}");
    }
    let program = profile_dir.join(name);
    assert!(
        program.exists(),
        "{} is missing, and there is no cargo to build it",
        program.display()
    );
    program
}

/// Is the server under test a real etcd? A few tests ask, where the two may differ by design.
pub fn server_is_etcd() -> bool {
    server_path().file_name().is_some_and(|n| n.to_string_lossy().starts_with("etcd"))
}

/// Where `.ci/etcd-tools` builds etcd's own programs.
const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/etcd-tools");

/// A stock tool: the variable's value, else where ours are built. `None` (after a loud line) when it is not there, and the test
/// that wanted it passes as skipped.
pub fn tool(variable: &str, name: &str) -> Option<PathBuf> {
    let usual = || PathBuf::from(TOOLS).join(name);
    let path = std::env::var_os(variable).map_or_else(usual, PathBuf::from);
    if path.exists() {
        return Some(path);
    }
    eprintln!("SKIPPED: {} is not there (set {variable})", path.display());
    None
}

pub fn etcdctl() -> Option<PathBuf> {
    tool("NORN_TEST_ETCDCTL", "etcdctl")
}

pub fn etcdutl() -> Option<PathBuf> {
    tool("NORN_TEST_ETCDUTL", "etcdutl")
}
