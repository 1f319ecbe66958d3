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

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use norn_node::{
    Error, Host, Input, Method, Node, NodeEvent, Ports, RESPONSES_IN_FLIGHT_MAX, Severity,
    StreamId, Time, Token,
};
use norn_raft::Message;

use crate::body::{Part, framed};
use crate::calls::{Caller, Calls};
use crate::config::ServerConfig;
use crate::grpc::{Answer, Status};
use crate::log::{Level, Log, Value};
use crate::metrics::{Asked, DiskMetrics, GrpcMetrics, HealthMetrics, TurnMetrics};
use crate::runtime::disk::{Disk, Reader};
use crate::runtime::sync::{Notify, mpsc, oneshot, watch};
use crate::runtime::time::Instant;
use crate::runtime::{self, task, time};
use crate::transport::Transport;

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
    /// A turn has ended.
    turned: Notify,
    started: Instant,
    pub log: Rc<Log>,
    pub disk_metrics: Arc<DiskMetrics>,
    pub grpc_metrics: RefCell<GrpcMetrics>,
    pub turn_metrics: TurnMetrics,
    pub health_metrics: HealthMetrics,
    /// How often the metrics were asked for.
    pub scrapes: Cell<u64>,
    phase: watch::Sender<Phase>,
    pub transport: Rc<Transport>,
    data_dir: PathBuf,
}

struct Inner {
    host: Host<Disk, Reader>,
}

#[derive(Default)]
struct Outbox {
    calls: Calls,
    /// Answers of this turn, to be sent when it is over.
    answers: Vec<(Answer, Result<Bytes, Error>)>,
    /// What took how long, to be counted then.
    ended: Vec<(Asked, Option<Error>)>,
    streams: BTreeMap<StreamId, WatchStream>,
    messages: Vec<Message>,
    events: Vec<NodeEvent>,
    next_stream: u64,
}

struct WatchStream {
    parts: mpsc::UnboundedSender<Part>,
    /// Responses in it that its connection has not taken.
    queued: usize,
}

impl Ports for Outbox {
    fn send(&mut self, messages: Vec<Message>) {
        self.messages.extend(messages);
    }

    fn reply(&mut self, token: Token, result: Result<Bytes, Error>) {
        let Some((caller, asked)) = self.calls.take(token) else { return };
        self.ended.push((asked, result.as_ref().err().cloned()));
        match caller {
            Caller::Client(answer) => self.answers.push((answer, result)),
            Caller::Task(caller) => {
                // (The caller may just have gone.)
                let _ = caller.send(result);
            }
        }
    }

    fn watch(&mut self, stream: StreamId, response: Bytes) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.queued += 1;
            let _ = stream.parts.send(Part::Message(framed(&response)));
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
        host: Host<Disk, Reader>,
        wake: Arc<Notify>,
        started: Instant,
        log: Rc<Log>,
        disk_metrics: Arc<DiskMetrics>,
        transport: Rc<Transport>,
        config: &ServerConfig,
    ) -> Rc<Core> {
        Rc::new(Core {
            inner: RefCell::new(Inner { host }),
            outbox: RefCell::default(),
            inbox: RefCell::default(),
            wake,
            turned: Notify::new(),
            started,
            log,
            disk_metrics,
            grpc_metrics: RefCell::new(GrpcMetrics::new(config.metrics_extensive)),
            turn_metrics: TurnMetrics::new(Duration::from_millis(config.warning_apply_ms)),
            health_metrics: HealthMetrics::default(),
            scrapes: Cell::new(0),
            phase: watch::Sender::new(Phase::Starting),
            transport,
            data_dir: config.data_dir.clone(),
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
        let asked = Asked::new(method, &body);
        let added = self.outbox.borrow_mut().calls.add(Caller::Task(sender), asked, None);
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
        let asked = Asked::new(method, &body);
        let added = self.outbox.borrow_mut().calls.add(Caller::Client(answer), asked, deadline);
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
        outbox.streams.insert(stream, WatchStream { parts: sender, queued: 0 });
        drop(outbox);
        self.input(Input::WatchOpen { stream });
        (stream, receiver)
    }

    pub fn close_watch(&self, stream: StreamId) {
        self.outbox.borrow_mut().streams.remove(&stream);
        self.input(Input::WatchClose { stream });
    }

    /// Ends a watch stream with a status.
    pub fn end_watch(&self, stream: StreamId, status: Status) {
        if let Some(ended) = self.outbox.borrow_mut().streams.remove(&stream) {
            let _ = ended.parts.send(Part::End(status));
        }
        self.input(Input::WatchClose { stream });
    }

    /// The connection of a watch stream took a response.
    pub fn watch_taken(&self, stream: StreamId) {
        if let Some(stream) = self.outbox.borrow_mut().streams.get_mut(&stream) {
            stream.queued = stream.queued.saturating_sub(1);
        }
        // (A connection takes all that is there: one input says so. Who put it there has woken the node.)
        if let Some(Input::WatchDrained { stream: last, count }) =
            self.inbox.borrow_mut().last_mut()
            && *last == stream
        {
            *count += 1;
            return;
        }
        self.input(Input::WatchDrained { stream, count: 1 });
    }

    /// Waits until the node has seen the inputs there are, and the stream has room for more answers (or is gone).
    pub async fn watch_room(&self, stream: StreamId) {
        let mut turned = self.turned.notified();
        self.wake.notify_one();
        loop {
            turned.await;
            // (Every response taken brings a turn.)
            turned = self.turned.notified();
            let outbox = self.outbox.borrow();
            let queued = outbox.streams.get(&stream).map_or(0, |stream| stream.queued);
            if queued < RESPONSES_IN_FLIGHT_MAX {
                return;
            }
        }
    }

    /// Watch responses that their connections have not taken.
    pub fn watch_responses_queued(&self) -> usize {
        self.outbox.borrow().streams.values().map(|stream| stream.queued).sum()
    }

    pub fn with_node<T>(&self, look: impl FnOnce(&Node<Reader>) -> T) -> T {
        look(self.inner.borrow().host.node())
    }

    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Runs turns for the life of the server.
    pub async fn run(self: Rc<Core>) {
        let mut sleep = pin!(time::sleep(Duration::ZERO));
        loop {
            let deadline = self.turn();
            if let Phase::Failed(_) = &*self.phase.borrow() {
                return;
            }
            let left = deadline.since(self.now());
            if left == 0 {
                // Work that nobody waits for: others first.
                task::yield_now().await;
                continue;
            }
            sleep.as_mut().reset(Instant::now() + Duration::from_millis(left));
            runtime::select! {
                () = self.wake.notified() => {}
                () = &mut sleep => {}
            }
        }
    }

    fn turn(self: &Rc<Core>) -> Time {
        let began = Instant::now();
        let inputs = std::mem::take(&mut *self.inbox.borrow_mut());
        let mut outbox = self.outbox.borrow_mut();
        let mut inner = self.inner.borrow_mut();
        runtime::takes(&inputs);
        let deadline = inner.host.turn(self.now(), inputs, &mut *outbox);
        runtime::turned(inner.host.node());
        self.turn_metrics.turned(began, inner.host.node());
        drop(inner);
        while let Some((token, caller, asked)) = outbox.calls.expired(self.now()) {
            outbox.ended.push((asked, Some(Error::DeadlineExceeded)));
            self.input(Input::Forget { token });
            if let Caller::Client(answer) = caller {
                outbox.answers.push((answer, Err(Error::DeadlineExceeded)));
            }
        }
        let deadline = outbox.calls.deadline().map_or(deadline, |first| deadline.min(first));
        let mut answers = std::mem::take(&mut outbox.answers);
        let mut ended = std::mem::take(&mut outbox.ended);
        let messages = std::mem::take(&mut outbox.messages);
        let events = std::mem::take(&mut outbox.events);
        drop(outbox);
        for (answer, result) in answers.drain(..) {
            answer.finish(self, result.map_err(Status::from));
        }
        for (asked, error) in ended.drain(..) {
            self.turn_metrics.answered(asked, error.as_ref(), &self.disk_metrics);
        }
        // (For their memory.)
        let mut outbox = self.outbox.borrow_mut();
        (outbox.answers, outbox.ended) = (answers, ended);
        drop(outbox);
        self.turned.notify_waiters();
        if !messages.is_empty() {
            runtime::sends(&messages);
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
            NodeEvent::Proposed { op, took_ms, is_ok } => {
                self.turn_metrics.requested(op, is_ok, Duration::from_millis(took_ms));
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
                runtime::sends(std::slice::from_ref(&message));
                self.transport.send_snapshot(self, message, file);
            }
            NodeEvent::Removed => {
                self.phase.send_replace(Phase::Removed);
            }
            NodeEvent::Failed { reason } => {
                self.phase.send_replace(Phase::Failed(reason));
                let calls = std::mem::take(&mut self.outbox.borrow_mut().calls);
                for caller in calls.into_callers() {
                    if let Caller::Client(answer) = caller {
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
    pub fn reader(&self) -> Reader {
        self.inner.borrow_mut().host.disk_mut().reader()
    }

    /// Lets the disk finish what it was given.
    pub fn close(&self) {
        self.inner.borrow_mut().host.disk_mut().close();
    }
}
