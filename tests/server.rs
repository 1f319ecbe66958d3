//! One server process: flags, log, signals, restart on the same ports and directory.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::client::Client;
use crate::command::server_path;
use crate::poll;
use crate::port::Port;

/// From start to the line that says clients are served.
const READY_LIMIT: Duration = Duration::from_secs(30);
const READY_LINE: &str = "ready to serve client requests";

/// How to start one server.
#[derive(Debug, Clone)]
pub struct Setup {
    pub name: String,
    pub binary: PathBuf,
    pub initial_cluster: Option<String>,
    pub existing: bool,
    pub flags: Vec<String>,
    /// Of the environment.
    pub variables: Vec<(String, String)>,
    /// The working directory; `None`: that of the tests.
    pub dir: Option<PathBuf>,
}

impl Default for Setup {
    fn default() -> Self {
        Self::of(server_path())
    }
}

impl Setup {
    /// Starts this program, which need not be the one that the tests are about.
    pub fn of(binary: impl Into<PathBuf>) -> Self {
        Self {
            name: "n1".to_owned(),
            binary: binary.into(),
            initial_cluster: None,
            existing: false,
            flags: Vec::new(),
            variables: Vec::new(),
            dir: None,
        }
    }

    /// A single member that elects itself quickly: with one member there is nobody to disturb.
    pub fn quick() -> Self {
        Self::default().quickly()
    }

    /// As [`Setup::quick`], of any program.
    pub fn quickly(self) -> Self {
        self.flag("--heartbeat-interval=20").flag("--election-timeout=200")
    }

    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }
}

/// A running (or stopped) server. Killed, and its directory removed, when dropped.
#[derive(Debug)]
pub struct Server {
    pub setup: Setup,
    pub client_port: Port,
    pub peer_port: Port,
    dir: TempDir,
    child: Option<Child>,
    /// Reads what the process writes, until it has ended.
    reader: Option<thread::JoinHandle<()>>,
    log: Arc<Mutex<Vec<String>>>,
    /// Lines the log had when the process running now was started.
    log_start: usize,
}

impl Server {
    /// A fresh single member with short timeouts, ready.
    pub fn start() -> Self {
        Self::start_with(Setup::quick())
    }

    pub fn start_with(setup: Setup) -> Self {
        let mut server = Self::prepare(setup);
        server.launch();
        server.wait_ready();
        server
    }

    /// Everything but the process.
    pub fn prepare(setup: Setup) -> Self {
        Self::prepare_at(setup, Port::pick(), Port::pick())
    }

    /// On ports the caller holds. A member's id is made from its peer URL: two servers that take turns on one port have
    /// one id.
    pub fn prepare_at(setup: Setup, client_port: Port, peer_port: Port) -> Self {
        Self {
            setup,
            client_port,
            peer_port,
            dir: tempfile::Builder::new().prefix("norn-test-").tempdir().expect("a directory"),
            child: None,
            reader: None,
            log: Arc::default(),
            log_start: 0,
        }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The folder around the data directory, for what a test wants to put beside it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn client_url(&self) -> String {
        self.client_port.url()
    }

    pub fn client_address(&self) -> String {
        self.client_port.address()
    }

    pub fn peer_address(&self) -> String {
        self.peer_port.address()
    }

    pub fn arguments(&self) -> Vec<String> {
        let setup = &self.setup;
        let cluster = setup
            .initial_cluster
            .clone()
            .unwrap_or_else(|| format!("{}={}", setup.name, self.peer_port.url()));
        let mut arguments = vec![
            format!("--name={}", setup.name),
            format!("--data-dir={}", self.data_dir().display()),
            format!("--listen-client-urls={}", self.client_url()),
            format!("--advertise-client-urls={}", self.client_url()),
            format!("--listen-peer-urls={}", self.peer_port.url()),
            format!("--initial-advertise-peer-urls={}", self.peer_port.url()),
            format!("--initial-cluster={cluster}"),
            format!("--initial-cluster-state={}", if setup.existing { "existing" } else { "new" }),
        ];
        arguments.extend(setup.flags.iter().cloned());
        arguments
    }

    /// The command, for tests that want to see it fail.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.setup.binary);
        command.args(self.arguments());
        if let Some(dir) = &self.setup.dir {
            command.current_dir(dir);
        }
        command.envs(self.setup.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts the process without waiting for anything.
    pub fn launch(&mut self) {
        assert!(self.child.is_none(), "{} is already running", self.setup.name);
        let mut child = self
            .command()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", self.setup.binary.display()));
        let stderr = child.stderr.take().expect("stderr is piped");
        let log_start = self.lock_log().len();
        self.log_start = log_start;
        let log = Arc::clone(&self.log);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n') {
                let Ok(line) = line else { return };
                let line = String::from_utf8_lossy(&line).into_owned();
                log.lock().expect("no holder of the log panics").push(line);
            }
        });
        self.reader = Some(reader);
        self.child = Some(child);
    }

    pub fn wait_ready(&mut self) {
        self.wait_log(READY_LINE);
    }

    /// Waits for a line of the process running now that contains `text`, and gives it back.
    pub fn wait_log(&mut self, text: &str) -> String {
        let mut has_ended = false;
        let found = poll::within(READY_LIMIT, || {
            let found = self.lines().into_iter().find(|line| line.contains(text));
            // One more look after the end, when all has been read.
            if found.is_some() || has_ended {
                return Some(found);
            }
            let child = self.child.as_mut().expect("the server was launched");
            if child.try_wait().expect("a child can be waited for").is_some() {
                self.read_out();
                has_ended = true;
            }
            None
        });
        found.flatten().unwrap_or_else(|| {
            let why = if has_ended { "ended" } else { "went on" };
            panic!("{} {why} without a line {text:?}\n{}", self.setup.name, self.tail())
        })
    }

    /// The process has ended: its log has an end, too.
    fn read_out(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader of a log does not panic");
        }
    }

    /// Log lines of the process running now (or last).
    pub fn lines(&self) -> Vec<String> {
        self.lock_log()[self.log_start..].to_vec()
    }

    fn lock_log(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.log.lock().expect("no holder of the log panics")
    }

    /// The end of the log, for messages.
    pub fn tail(&self) -> String {
        let log = self.lock_log();
        log[log.len().saturating_sub(40)..].join("\n")
    }

    /// The whole log, of all the processes of this server, into a file.
    pub fn save_log(&self, path: &Path) {
        let log = self.lock_log().join("\n");
        std::fs::write(path, log).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    /// Lines a crash leaves behind.
    pub fn panics(&self) -> Vec<String> {
        let log = self.lock_log();
        log.iter()
            .filter(|l| {
                let fatal = ["\"level\":\"panic\"", "\"level\":\"fatal\"", "panicked at"];
                fatal.iter().any(|f| l.contains(f))
            })
            .cloned()
            .collect()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server is running").id()
    }

    pub fn is_running(&mut self) -> bool {
        match &mut self.child {
            Some(child) => child.try_wait().expect("a child can be waited for").is_none(),
            None => false,
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid() as i32).expect("a process id is not 0");
        // An error means that the process is gone already, which the caller will find out.
        let _ = kill_process(pid, signal);
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
            self.read_out();
        }
    }

    /// SIGTERM, and the status the process ended with.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_exit(Duration::from_secs(20))
    }

    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("the server is running");
        let Some(status) = poll::end_within(limit, &mut child) else {
            self.child = Some(child);
            panic!("{} still runs after {limit:?}\n{}", self.setup.name, self.tail());
        };
        self.read_out();
        status
    }

    /// kill -9 and start again on what is on disk.
    pub fn crash_and_restart(&mut self) {
        self.kill();
        self.launch();
        self.wait_ready();
    }

    /// Removes the data directory of a stopped server.
    pub fn wipe(&mut self) {
        assert!(self.child.is_none(), "{} is running", self.setup.name);
        std::fs::remove_dir_all(self.data_dir()).expect("the data directory can be removed");
    }

    pub fn client(&self) -> Client {
        Client::new(&self.client_url())
    }

    /// Resident memory in KiB.
    pub fn rss_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .expect("the status of a running process");
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("VmRSS");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("VmRSS in kB")
    }

    /// Ends the test when the server died or panicked.
    pub fn assert_alive(&mut self) {
        assert!(self.is_running(), "{} is dead\n{}", self.setup.name, self.tail());
        let panics = self.panics();
        assert!(panics.is_empty(), "{} panicked: {panics:#?}", self.setup.name);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- end of the log of {} ---\n{}", self.setup.name, self.tail());
        }
    }
}

/// The number of the signal that ended a process.
pub fn ended_by(status: ExitStatus) -> Option<i32> {
    status.signal()
}

/// Waits until a port answers connections, for servers that never become ready.
pub fn wait_listening(address: &str) {
    poll::until(&format!("{address} to listen"), READY_LIMIT, || {
        std::net::TcpStream::connect(address).ok()
    });
}
