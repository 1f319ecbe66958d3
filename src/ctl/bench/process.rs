//! What processes cost, from /proc; and servers that are started and stopped for a comparison.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// User and system time of a process so far.
pub fn cpu(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; fields 14 and 15 are counted from behind it.
    let rest = stat.rsplit_once(')')?.1;
    let ticks: u64 =
        rest.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    let per_second = rustix::param::clock_ticks_per_second();
    Some(Duration::from_nanos(ticks * (1_000_000_000 / per_second)))
}

pub fn cpu_sum(pids: &[u32]) -> Duration {
    pids.iter().filter_map(|&pid| cpu(pid)).sum()
}

/// Resident bytes.
pub fn rss(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

pub fn rss_sum(pids: &[u32]) -> u64 {
    pids.iter().filter_map(|&pid| rss(pid)).sum()
}

/// Bytes a process has had written to its disk.
fn written(pid: u32) -> Option<u64> {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.parse().ok()
}

pub fn written_sum(pids: &[u32]) -> u64 {
    pids.iter().filter_map(|&pid| written(pid)).sum()
}

/// With a port nobody listens on at the moment.
fn free_url() -> Result<String, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    let port = listener.local_addr().map_err(|e| e.to_string())?.port();
    Ok(format!("http://127.0.0.1:{port}"))
}

/// What a server says of itself for Prometheus.
pub fn metrics(endpoint: &str) -> std::io::Result<String> {
    let address = endpoint.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut page = Vec::new();
    stream.read_to_end(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// One etcd-compatible server (or a cluster of them) on temporary data directories. Killed on drop.
pub struct Servers {
    binary: PathBuf,
    dir: PathBuf,
    members: Vec<Member>,
}

struct Member {
    name: String,
    client: String,
    peer: String,
    child: Option<Child>,
}

/// As much as etcd advises at most: five million keys are more than its two gigabytes.
const QUOTA_BYTES: &str = "8589934592";
const READY_WITHIN: Duration = Duration::from_secs(60);

impl Servers {
    pub fn start(binary: &Path, dir: &Path, nodes: usize) -> Result<Self, String> {
        let mut members = Vec::new();
        for i in 0..nodes {
            members.push(Member {
                name: format!("n{i}"),
                client: free_url()?,
                peer: free_url()?,
                child: None,
            });
        }
        let mut servers = Self { binary: binary.to_owned(), dir: dir.to_owned(), members };
        servers.run()?;
        Ok(servers)
    }

    /// Starts another member and waits until it serves; `add` makes the cluster know of where it will listen.
    pub fn join(
        &mut self,
        name: &str,
        add: impl FnOnce(&str) -> Result<(), String>,
    ) -> Result<(), String> {
        let (client, peer) = (free_url()?, free_url()?);
        add(&peer)?;
        self.members.push(Member { name: name.to_owned(), client, peer, child: None });
        self.run()
    }

    /// Starts all members that do not run and waits until they serve.
    pub fn run(&mut self) -> Result<(), String> {
        let cluster: Vec<String> =
            self.members.iter().map(|m| format!("{}={}", m.name, m.peer)).collect();
        let cluster = cluster.join(",");
        let (tell, ready) = mpsc::channel();
        let is_new = self.members.iter().all(|member| member.child.is_none());
        let stopped = self.members.iter_mut().filter(|member| member.child.is_none());
        let mut started = 0;
        for member in stopped {
            started += 1;
            let mut child = Command::new(&self.binary)
                .args(["--name", &member.name, "--data-dir"])
                .arg(self.dir.join(&member.name))
                .args(["--initial-cluster-state", if is_new { "new" } else { "existing" }])
                .args([
                    "--listen-client-urls",
                    &member.client,
                    "--advertise-client-urls",
                    &member.client,
                ])
                .args([
                    "--listen-peer-urls",
                    &member.peer,
                    "--initial-advertise-peer-urls",
                    &member.peer,
                ])
                .args(["--initial-cluster", &cluster])
                .args(["--quota-backend-bytes", QUOTA_BYTES])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .map_err(|e| format!("{}: {e}", self.binary.display()))?;
            let stderr = child.stderr.take().expect("stderr is piped");
            member.child = Some(child);
            let (tell, name) = (tell.clone(), member.name.clone());
            // Reads on to the end: a full pipe would stop the server.
            std::thread::spawn(move || {
                let mut told = false;
                let mut last = String::new();
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    if !told && line.contains("ready to serve client requests") {
                        told = true;
                        let _ = tell.send(Ok(()));
                    }
                    last = line;
                }
                if !told {
                    let _ = tell.send(Err(format!("{name} ended before it was ready: {last}")));
                }
            });
        }
        let limit = Instant::now() + READY_WITHIN;
        for _ in 0..started {
            let left = limit.saturating_duration_since(Instant::now());
            ready.recv_timeout(left).map_err(|_| "server is not ready in time".to_owned())??;
        }
        Ok(())
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|m| m.client.clone()).collect()
    }

    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().filter_map(|m| m.child.as_ref()).map(Child::id).collect()
    }

    /// SIGTERM, then SIGKILL after ten seconds.
    pub fn stop(&mut self) {
        for child in self.members.iter_mut().filter_map(|m| m.child.as_mut()) {
            // Not yet waited for, so the id is still its own.
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
        }
        for mut child in self.members.iter_mut().filter_map(|m| m.child.take()) {
            let limit = Instant::now() + Duration::from_secs(10);
            while matches!(child.try_wait(), Ok(None)) {
                if Instant::now() > limit {
                    let _ = child.kill();
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
