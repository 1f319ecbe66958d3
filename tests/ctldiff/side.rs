//! One script on one server, and what every command answered.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use norn_tests::command::try_finish;
use norn_tests::{Client, Server, Setup};
use tokio::runtime::Runtime;

use crate::background::Background;
use crate::place::{MEMBERS, Place, settle, upgraded};
use crate::script::{Line, Step};

/// For one command, and for one condition.
const LIMIT: Duration = Duration::from_secs(20);

/// The programs that speak to the server.
#[derive(Debug, Clone)]
pub struct Tools {
    pub label: String,
    pub ctl: PathBuf,
    pub utl: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub command: String,
    pub code: String,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

/// What a run has given: answers by place in the script, and the names whose values are this server's own.
pub struct Run {
    pub answers: BTreeMap<usize, Answer>,
    pub captured: Vec<(String, String)>,
    /// Why the run ended early.
    pub failure: Option<String>,
}

pub struct Side<'a> {
    place: &'a Place,
    tools: &'a Tools,
    runtime: &'a Runtime,
    servers: Vec<Server>,
    setup: Setup,
    variables: BTreeMap<String, String>,
    background: BTreeMap<String, (String, Background)>,
    run: Run,
    last: String,
}

impl<'a> Side<'a> {
    pub fn start(
        place: &'a Place,
        tools: &'a Tools,
        runtime: &'a Runtime,
        binary: &PathBuf,
        nodes: usize,
        flags: &[&str],
    ) -> Self {
        for entry in std::fs::read_dir(place.dir.path()).expect("the folder") {
            std::fs::remove_file(entry.expect("an entry").path()).expect("a file of the last run");
        }
        let servers = runtime.block_on(place.start(binary, nodes, flags));
        let mut variables = BTreeMap::new();
        let mut set = |name: String, value: String| variables.insert(name, value);
        for i in 0..MEMBERS {
            set(format!("n{}", i + 1), place.client_address(i));
            set(format!("n{}.peer", i + 1), place.peer_url(i));
        }
        for (i, server) in servers.iter().enumerate() {
            let status = runtime.block_on(server.client().status()).expect("a status");
            let id = status.header.expect("a header").member_id;
            set(format!("n{}.id", i + 1), format!("{id:x}"));
        }
        // A follower where there is one: requests have one step more to go.
        set("main".into(), place.client_address(usize::from(nodes > 1)));
        let all: Vec<String> = (0..nodes).map(|i| place.client_address(i)).collect();
        set("all".into(), all.join(","));
        set("dir".into(), place.dir.path().display().to_string());
        set("mib".into(), "m".repeat(1 << 20));
        let setup = servers[0].setup.clone();
        let run = Run { answers: BTreeMap::new(), captured: Vec::new(), failure: None };
        Self {
            place,
            tools,
            runtime,
            servers,
            setup,
            variables,
            background: BTreeMap::new(),
            run,
            last: String::new(),
        }
    }

    pub fn run(mut self, lines: &[Line]) -> Run {
        for (at, line) in lines.iter().enumerate() {
            match self.step(&line.step) {
                Ok(Some(answer)) => {
                    self.last.clone_from(&answer.stdout);
                    self.run.answers.insert(at, answer);
                }
                Ok(None) => {}
                Err(problem) => {
                    let logs: Vec<String> = self.servers.iter().map(Server::tail).collect();
                    let logs = logs.join("\n---\n");
                    self.run.failure =
                        Some(format!("{}: {}: {problem}\n{logs}", line.number, line.text));
                    break;
                }
            }
        }
        self.run
    }

    fn step(&mut self, step: &Step) -> Result<Option<Answer>, String> {
        match step {
            Step::Ctl { words, stdin } => return self.ctl(words, stdin).map(Some),
            Step::Utl { words } => {
                let Some(utl) = &self.tools.utl else { return Ok(None) };
                let words = self.fill_all(words);
                let mut command = bare(utl);
                command.args(&words);
                return answer(command, &words, "").map(Some);
            }
            Step::Until { text, words, stdin } => return self.until(text, words, stdin).map(Some),
            Step::Start { name, words } => {
                let words = self.fill_all(words);
                let child = Background::start(self.command(&words)).map_err(|e| e.to_string())?;
                self.background.insert(name.clone(), (words.join(" "), child));
            }
            Step::Feed { name, text } => {
                let text = self.fill(text);
                self.background(name)?.1.feed(&text);
            }
            Step::Await { name, count, text } => {
                let text = self.fill(text);
                self.background(name)?.1.wait_text(&text, *count, LIMIT)?;
            }
            Step::Interrupt { name } => {
                self.background(name)?.1.interrupt();
                return self.finish(name).map(Some);
            }
            Step::Wait { name } => return self.finish(name).map(Some),
            Step::Capture { name, word } => {
                let value = self.last.split_whitespace().nth(*word);
                let value = value.ok_or_else(|| format!("no word {word} in {:?}", self.last))?;
                self.run.captured.push((name.clone(), value.to_owned()));
                self.variables.insert(name.clone(), value.to_owned());
            }
            Step::Revision { name } => {
                let client = self.servers[0].client();
                let answer =
                    self.runtime.block_on(client.range(norn_tests::req::get("no such key")));
                let header = answer.map_err(|e| e.to_string())?.header;
                let revision = header.ok_or("no header")?.revision;
                self.variables.insert(name.clone(), revision.to_string());
            }
            Step::Settle => {
                let clients: Vec<Client> = self.servers.iter().map(Server::client).collect();
                self.runtime.block_on(settle(&clients));
            }
            Step::Launch { name } => self.launch(name)?,
            Step::Terminate { name } => {
                let server = self.servers.iter_mut().find(|s| s.setup.name == *name);
                server.ok_or("no such member")?.terminate();
            }
        }
        Ok(None)
    }

    /// A member that joins what is there, or one that was terminated.
    fn launch(&mut self, name: &str) -> Result<(), String> {
        if let Some(server) = self.servers.iter_mut().find(|s| s.setup.name == name) {
            server.launch();
            server.wait_ready();
            return Ok(());
        }
        let i: usize = name[1..].parse().map_err(|_| "members are n1, n2, ...".to_owned())?;
        let mut server = self.place.prepare(&Setup { existing: true, ..self.setup.clone() }, i - 1);
        let list = self.runtime.block_on(self.servers[0].client().member_list());
        let list = list.map_err(|e| e.to_string())?.members;
        let members: Vec<String> = list
            .iter()
            .map(|m| {
                format!("{}={}", if m.name.is_empty() { name } else { &m.name }, m.peer_ur_ls[0])
            })
            .collect();
        server.setup.initial_cluster = Some(members.join(","));
        server.launch();
        server.wait_ready();
        self.runtime.block_on(upgraded(&server));
        self.servers.push(server);
        Ok(())
    }

    fn ctl(&self, words: &[String], stdin: &str) -> Result<Answer, String> {
        let words = self.fill_all(words);
        answer(self.command(&words), &words, &self.fill(stdin))
    }

    fn until(&self, text: &str, words: &[String], stdin: &str) -> Result<Answer, String> {
        let (text, start) = (self.fill(text), Instant::now());
        loop {
            let answer = self.ctl(words, stdin)?;
            if answer.stdout.contains(&text) || answer.stderr.contains(&text) {
                return Ok(answer);
            }
            if start.elapsed() > LIMIT {
                return Err(format!("never {text:?}: {answer:?}"));
            }
        }
    }

    fn background(&mut self, name: &str) -> Result<&mut (String, Background), String> {
        self.background.get_mut(name).ok_or_else(|| format!("nothing runs as {name}"))
    }

    fn finish(&mut self, name: &str) -> Result<Answer, String> {
        self.background(name)?;
        let (command, child) = self.background.remove(name).expect("it was there");
        let (status, stdout, stderr) = child.finish(LIMIT)?;
        let took = Duration::ZERO;
        Ok(Answer { command, code: code(status), stdout, stderr, took })
    }

    fn command(&self, words: &[String]) -> Command {
        let mut command = bare(&self.tools.ctl);
        if !words.iter().any(|w| w.starts_with("--endpoints")) {
            command.arg(format!("--endpoints={}", self.variables["main"]));
        }
        command.args(words);
        command
    }

    fn fill_all(&self, words: &[String]) -> Vec<String> {
        words.iter().map(|w| self.fill(w)).collect()
    }

    fn fill(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, value) in &self.variables {
            text = text.replace(&format!("{{{name}}}"), value);
        }
        text
    }
}

/// Nothing of the caller's environment but where programs are found.
fn bare(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    for name in ["PATH", "HOME"] {
        command.envs(std::env::var_os(name).map(|v| (name, v)));
    }
    command
}

fn answer(mut command: Command, words: &[String], stdin: &str) -> Result<Answer, String> {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{command:?}: {e}"))?;
    let mut pipe = child.stdin.take().expect("stdin is piped");
    let stdin = stdin.to_owned();
    // A child that does not read is no error.
    let writer = std::thread::spawn(move || drop(pipe.write_all(stdin.as_bytes())));
    let output = try_finish(child, LIMIT)
        .map_err(|(stdout, stderr)| format!("still runs after {LIMIT:?}:\n{stdout}\n{stderr}"))?;
    drop(writer.join());
    Ok(Answer {
        command: words.join(" "),
        code: code(output.status),
        stdout: output.stdout,
        stderr: output.stderr,
        took: start.elapsed(),
    })
}

fn code(status: std::process::ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| code.to_string())
}
