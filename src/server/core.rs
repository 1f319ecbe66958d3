//! The batch loop: the node lives on the thread that serves its connections.
//!
//! ```text
//!   connection tasks ── inputs ──> inbox ──> one turn ──> replies ──> connection tasks
//!                                              │  ^
//!                              disk batch ─────┘  └───── completion (from the disk's threads)
//! ```
//!
//! Tasks that became readable together put their requests into the inbox; the turn's task was woken by the first of
//! them and so runs after them all: their requests are one batch, one write, one sync. What arrives during the sync
//! is the next batch. No request crosses a thread.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use norn_node::{
    Error, Host, Input, Method, Node, NodeEvent, Ports, Severity, StreamId, Time, Token,
};
use norn_raft::Message;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::body::{Part, framed};
use crate::file_disk::{FileDisk, FileReader};
use crate::grpc::{Answer, Status};
use crate::log::{Level, Log, Value};
use crate::metrics::{DiskMetrics, GrpcMetrics};
use crate::transport::Transport;

/// Calls waiting for a reply. Beyond it they are refused: each costs memory, and none would be answered in time.
const CALLS_MAX: usize = 200_000;

/// What the process is doing, for those who wait for a change of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    Starting,
    Serving,
    /// This member is no member any more.
    Removed,
    Failed(String),
}

pub struct Core {
    inner: RefCell<Inner>,
    outbox: RefCell<Outbox>,
    inbox: RefCell<Vec<Input>>,
    pub wake: Arc<Notify>,
    started: Instant,
    pub log: Rc<Log>,
    pub disk_metrics: Arc<DiskMetrics>,
    pub grpc_metrics: RefCell<GrpcMetrics>,
    phase: watch::Sender<Phase>,
    pub transport: Rc<Transport>,
    data_dir: PathBuf,
}

struct Inner {
    host: Host<FileDisk, FileReader>,
}

/// Who waits for the answer to a call.
enum Caller {
    Task(oneshot::Sender<Result<Bytes, Error>>),
    Client(Answer),
}

struct Call {
    token: Token,
    caller: Caller,
    deadline: Option<Time>,
}

/// A token's low bits are the place of its call, the others a number that never comes again.
const PLACE_BITS: u32 = 20;
const _: () = assert!(CALLS_MAX <= 1 << PLACE_BITS);

/// Calls on their way.
#[derive(Default)]
struct Calls {
    places: Vec<Option<Call>>,
    free: Vec<u32>,
    deadlines: BTreeSet<(Time, Token)>,
    tokens: u64,
}

impl Calls {
    /// Gives the caller back when as many as there may be are on their way.
    fn add(&mut self, caller: Caller, deadline: Option<Time>) -> Result<Token, Caller> {
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.places.len() >= CALLS_MAX => return Err(caller),
            None => {
                self.places.push(None);
                self.places.len() as u32 - 1
            }
        };
        self.tokens += 1;
        let token = Token(self.tokens << PLACE_BITS | u64::from(place));
        self.places[place as usize] = Some(Call { token, caller, deadline });
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, token));
        }
        Ok(token)
    }

    fn take(&mut self, token: Token) -> Option<Caller> {
        let place = (token.0 & ((1 << PLACE_BITS) - 1)) as u32;
        let call = self.places.get_mut(place as usize)?.take_if(|call| call.token == token)?;
        self.free.push(place);
        if let Some(deadline) = call.deadline {
            self.deadlines.remove(&(deadline, token));
        }
        Some(call.caller)
    }

    /// A call whose client has waited long enough.
    fn expired(&mut self, now: Time) -> Option<(Token, Caller)> {
        let (deadline, token) = *self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        Some((token, self.take(token)?))
    }
}

#[derive(Default)]
struct Outbox {
    calls: Calls,
    /// Answers of this turn, to be sent when it is over.
    answers: Vec<(Answer, Result<Bytes, Error>)>,
    streams: BTreeMap<StreamId, mpsc::UnboundedSender<Part>>,
    messages: Vec<Message>,
    events: Vec<NodeEvent>,
    next_stream: u64,
}

impl Ports for Outbox {
    fn send(&mut self, messages: Vec<Message>) {
        self.messages.extend(messages);
    }

    fn reply(&mut self, token: Token, result: Result<Bytes, Error>) {
        match self.calls.take(token) {
            Some(Caller::Client(answer)) => self.answers.push((answer, result)),
            Some(Caller::Task(caller)) => {
                // (The caller may just have gone.)
                let _ = caller.send(result);
            }
            None => {}
        }
    }

    fn watch(&mut self, stream: StreamId, response: Bytes) {
        if let Some(parts) = self.streams.get(&stream) {
            let _ = parts.send(Part::Message(framed(&response)));
        }
    }

    fn event(&mut self, event: NodeEvent) {
        self.events.push(event);
    }
}

/// Withdraws a call whose caller went away.
struct Withdraw<'a> {
    core: &'a Core,
    token: Token,
    is_done: bool,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.core.outbox.borrow_mut().calls.take(self.token);
            self.core.input(Input::Forget { token: self.token });
        }
    }
}

impl Core {
    pub fn new(
        host: Host<FileDisk, FileReader>,
        wake: Arc<Notify>,
        started: Instant,
        log: Rc<Log>,
        disk_metrics: Arc<DiskMetrics>,
        transport: Rc<Transport>,
        data_dir: PathBuf,
    ) -> Rc<Core> {
        Rc::new(Core {
            inner: RefCell::new(Inner { host }),
            outbox: RefCell::default(),
            inbox: RefCell::default(),
            wake,
            started,
            log,
            disk_metrics,
            grpc_metrics: RefCell::default(),
            phase: watch::Sender::new(Phase::Starting),
            transport,
            data_dir,
        })
    }

    pub fn now(&self) -> Time {
        Time::from_ms(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    pub fn input(&self, input: Input) {
        self.inbox.borrow_mut().push(input);
        self.wake.notify_one();
    }

    /// One request, encoded, to its reply, encoded.
    pub async fn call(&self, method: Method, body: Bytes) -> Result<Bytes, Error> {
        let (sender, receiver) = oneshot::channel();
        let added = self.outbox.borrow_mut().calls.add(Caller::Task(sender), None);
        let Ok(token) = added else { return Err(Error::TooManyRequests) };
        let mut withdraw = Withdraw { core: self, token, is_done: false };
        self.input(Input::Call { token, method, body });
        let result = receiver.await;
        withdraw.is_done = true;
        result.unwrap_or(Err(Error::Stopped))
    }

    /// The same for a client, who is answered by the turn that knows the reply, or told that it took too long.
    pub fn ask(&self, method: Method, body: Bytes, timeout: Option<Duration>, answer: Answer) {
        let deadline =
            timeout.map(|after| self.now() + u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        let added = self.outbox.borrow_mut().calls.add(Caller::Client(answer), deadline);
        match added {
            Ok(token) => self.input(Input::Call { token, method, body }),
            Err(Caller::Client(answer)) => answer.finish(self, Err(Error::TooManyRequests.into())),
            Err(Caller::Task(_)) => unreachable!("it was a client"),
        }
    }

    pub fn open_watch(&self) -> (StreamId, mpsc::UnboundedReceiver<Part>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut outbox = self.outbox.borrow_mut();
        outbox.next_stream += 1;
        let stream = StreamId(outbox.next_stream);
        outbox.streams.insert(stream, sender);
        drop(outbox);
        self.input(Input::WatchOpen { stream });
        (stream, receiver)
    }

    pub fn close_watch(&self, stream: StreamId) {
        self.outbox.borrow_mut().streams.remove(&stream);
        self.input(Input::WatchClose { stream });
    }

    /// Ends a watch stream with a status.
    pub fn end_watch(&self, stream: StreamId, trailers: http::HeaderMap) {
        if let Some(parts) = self.outbox.borrow_mut().streams.remove(&stream) {
            let _ = parts.send(Part::End(trailers));
        }
        self.input(Input::WatchClose { stream });
    }

    pub fn with_node<T>(&self, look: impl FnOnce(&Node<FileReader>) -> T) -> T {
        look(self.inner.borrow().host.node())
    }

    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Runs turns for the life of the server.
    pub async fn run(self: Rc<Core>) {
        let sleep = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(sleep);
        loop {
            let deadline = self.turn();
            if let Phase::Failed(_) = &*self.phase.borrow() {
                return;
            }
            let left = deadline.since(self.now());
            if left == 0 {
                // Work that nobody waits for: others first.
                tokio::task::yield_now().await;
                continue;
            }
            sleep.as_mut().reset(tokio::time::Instant::now() + Duration::from_millis(left));
            tokio::select! {
                () = self.wake.notified() => {}
                () = &mut sleep => {}
            }
        }
    }

    fn turn(self: &Rc<Core>) -> Time {
        let inputs = std::mem::take(&mut *self.inbox.borrow_mut());
        let mut outbox = self.outbox.borrow_mut();
        let deadline = self.inner.borrow_mut().host.turn(self.now(), inputs, &mut *outbox);
        while let Some((token, caller)) = outbox.calls.expired(self.now()) {
            self.input(Input::Forget { token });
            if let Caller::Client(answer) = caller {
                outbox.answers.push((answer, Err(Error::DeadlineExceeded)));
            }
        }
        let deadline = match outbox.calls.deadlines.first() {
            Some((first, _)) => deadline.min(*first),
            None => deadline,
        };
        let mut answers = std::mem::take(&mut outbox.answers);
        let messages = std::mem::take(&mut outbox.messages);
        let events = std::mem::take(&mut outbox.events);
        drop(outbox);
        for (answer, result) in answers.drain(..) {
            answer.finish(self, result.map_err(Status::from));
        }
        // (For its memory.)
        self.outbox.borrow_mut().answers = answers;
        if !messages.is_empty() {
            self.transport.send(self, messages);
        }
        for event in events {
            self.handle(event);
        }
        deadline
    }

    fn handle(self: &Rc<Core>, event: NodeEvent) {
        match event {
            NodeEvent::Raft(line) => {
                let level = match line.level {
                    norn_raft::LogLevel::Debug => Level::Debug,
                    norn_raft::LogLevel::Info => Level::Info,
                    norn_raft::LogLevel::Warn => Level::Warn,
                    _ => Level::Error,
                };
                self.log.line(level, Some("raft"), &line.text, &[]);
            }
            NodeEvent::Log { level, text, fields } => {
                let level = match level {
                    Severity::Info => Level::Info,
                    Severity::Warn => Level::Warn,
                    Severity::Error => Level::Error,
                };
                let fields: Vec<(&str, Value<'_>)> =
                    fields.iter().map(|(name, value)| (*name, Value::from(value))).collect();
                self.log.line(level, None, text, &fields);
            }
            NodeEvent::LeaderChanged { .. } => {}
            NodeEvent::MembersChanged => {
                let members: Vec<_> = self.with_node(|n| n.members().iter().cloned().collect());
                let removed = self.with_node(|n| n.members().removed().collect());
                self.transport.set_members(self, members, removed);
            }
            NodeEvent::Serving => {
                self.phase.send_if_modified(|phase| {
                    let starts = *phase == Phase::Starting;
                    if starts {
                        *phase = Phase::Serving;
                    }
                    starts
                });
            }
            NodeEvent::SendSnapshot { message, file } => {
                self.transport.send_snapshot(self, message, file);
            }
            NodeEvent::Removed => {
                self.phase.send_replace(Phase::Removed);
            }
            NodeEvent::Failed { reason } => {
                self.phase.send_replace(Phase::Failed(reason));
                let calls = std::mem::take(&mut self.outbox.borrow_mut().calls);
                for call in calls.places.into_iter().flatten() {
                    if let Caller::Client(answer) = call.caller {
                        answer.finish(self, Err(Error::Stopped.into()));
                    }
                }
            }
        }
    }

    pub fn data_dir(&self) -> &std::path::Path {
        &self.data_dir
    }

    /// Another member says that this one is no member any more.
    pub fn removed(&self) {
        self.phase.send_replace(Phase::Removed);
        self.wake.notify_one();
    }

    /// Another handle for reading the disk.
    pub fn reader(&self) -> FileReader {
        self.inner.borrow_mut().host.disk_mut().reader()
    }

    /// Lets the disk finish what it was given.
    pub fn close(&self) {
        self.inner.borrow_mut().host.disk_mut().close();
    }
}
