//! A command that stays: its output is read while it runs.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use norn_tests::poll;
use rustix::process::{Pid, Signal, kill_process};

pub struct Background {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Pipe,
    stderr: Pipe,
}

struct Pipe {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Pipe {
    fn new(mut from: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut piece) {
                shared.lock().expect("no holder panics").extend_from_slice(&piece[..n]);
            }
        });
        Self { bytes, reader: Some(reader) }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().expect("no holder panics")).into_owned()
    }

    fn end(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            drop(reader.join());
        }
        self.text()
    }
}

impl Background {
    pub fn start(mut command: Command) -> std::io::Result<Self> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take();
        let stdout = Pipe::new(child.stdout.take().expect("stdout is piped"));
        let stderr = Pipe::new(child.stderr.take().expect("stderr is piped"));
        Ok(Self { child, stdin, stdout, stderr })
    }

    pub fn feed(&mut self, line: &str) {
        if let Some(stdin) = &mut self.stdin {
            // A child that has ended is found out by whoever waits for its answer.
            drop(writeln!(stdin, "{line}").and_then(|()| stdin.flush()));
        }
    }

    /// Until `text` was written `count` times, to either output, or the command has ended: an old etcdctl may not know a
    /// flag, and what it says then is compared like anything else.
    pub fn wait_text(&mut self, text: &str, count: usize, limit: Duration) -> Result<(), String> {
        let is_written = |child: &mut Child| {
            let outputs = [self.stdout.text(), self.stderr.text()];
            outputs.iter().map(|output| output.matches(text).count()).sum::<usize>() >= count
                || child.try_wait().expect("a child can be waited for").is_some()
        };
        poll::within(limit, || is_written(&mut self.child).then_some(())).ok_or_else(|| {
            let (stdout, stderr) = (self.stdout.text(), self.stderr.text());
            format!("no {count} times {text:?} in:\n{stdout}\n{stderr}")
        })
    }

    pub fn interrupt(&self) {
        // An error means that it has ended already.
        let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
    }

    pub fn finish(mut self, limit: Duration) -> Result<(ExitStatus, String, String), String> {
        let Some(status) = poll::end_within(limit, &mut self.child) else {
            return Err(format!("still runs:\n{}\n{}", self.stdout.text(), self.stderr.text()));
        };
        Ok((status, self.stdout.end(), self.stderr.end()))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
