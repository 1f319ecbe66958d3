//! A world of machines in one thread, on madsim's executor: each has an address, a clock of its own and a disk, and runs at
//! most one process at a time. What happens to them is decided by whoever holds the [`Fate`].
//!
//! madsim gives the executor (ready tasks in an order drawn from the seed), the true time, and its hooks below libc for
//! hash seeds and clocks. Machines, connections and disks are ours: madsim's connections know at once, and through
//! partitions, that their other end died, its network refuses instead of letting wait, and its nodes share one clock.
//!
//! A process is a madsim node; a new one for every start. What a killed process leaves behind (destructors run late) is
//! fenced: its connections were closed when it was killed, and its disk handle is of a past incarnation.

mod address;
mod clock;
mod connection;
pub mod disk;
pub mod net;
mod nonsense;
pub mod profile;
pub mod signal;
pub mod time;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

pub use clock::Clock;
use madsim::task::NodeId;
pub use nonsense::Nonsense;
use norn_node::{Config, Input, Node};
use norn_raft::Message;
use norn_storage::MemDisk;

pub mod task {
    pub use madsim::task::{JoinHandle, spawn_local, yield_now};
}

/// Branches are polled in their order: tokio's own choice has a random source that no seed reaches.
macro_rules! select {
    ($($branches:tt)*) => { ::tokio::select! { biased; $($branches)* } };
}
pub(crate) use select;

/// A machine, by its place in the world.
pub type Host = usize;

/// Everything that is a matter of luck, and whoever watches.
pub trait Fate {
    /// How long a piece of data takes over a link.
    fn link_delay(&mut self, from: Host, to: Host) -> Duration;
    /// How long after a link is whole again what was held up is sent once more.
    fn resend_delay(&mut self) -> Duration;
    /// How long a batch takes on the disk.
    fn disk_delay(&mut self, host: Host) -> Duration;
    /// The disk has stopped under a write that is not the node's: a node that writes nothing itself would never know.
    fn disk_stopped(&mut self, host: Host);
    /// Of a process that starts.
    fn seed(&mut self, host: Host) -> u64;
    /// Sizes for a node.
    fn shape(&mut self, config: Config) -> Config;
    /// A node has made a turn.
    fn turned(&mut self, host: Host, node: &Node<disk::Reader>);
    /// A process wrote to its log.
    fn said(&mut self, host: Host, line: &str);
    /// Data goes on its way.
    fn carried(&mut self, from: Host, to: Host, data: &[u8]);
    /// Data became nonsense on their way.
    fn spoilt(&mut self, from: Host, to: Host);
    /// Whoever read that goes on reading.
    fn swallowed(&mut self, from: Host, to: Host);
    /// A node is about to take these in.
    fn takes(&mut self, host: Host, inputs: &[Input]);
    /// A node has messages for other members.
    fn sends(&mut self, host: Host, messages: &[Message]);
}

struct Machine {
    clock: Clock,
    disk: MemDisk,
    is_powered: bool,
    process: Option<NodeId>,
    ends: signal::Wish,
}

struct World {
    fate: Box<dyn Fate>,
    machines: Vec<Machine>,
    /// Processes there are and were.
    processes: BTreeMap<NodeId, Host>,
    net: net::Net,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// # Panics
/// Outside of a world: whoever gets here was not started by a simulation.
fn with<T>(act: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(|world| act(world.as_mut().expect("a world was made")))
}

/// As [`with`], for destructors, which may run after the end of the world.
fn with_if_any(act: impl FnOnce(&mut World)) {
    let _ = WORLD.try_with(|world| {
        if let Ok(mut world) = world.try_borrow_mut()
            && let Some(world) = world.as_mut()
        {
            act(world);
        }
    });
}

/// True time since the beginning.
pub fn now() -> Duration {
    madsim::time::TimeHandle::try_current().map_or(Duration::ZERO, |time| time.elapsed())
}

/// The machine that the current task runs on; `None` for the simulation itself.
pub fn here() -> Option<Host> {
    let node = madsim::plugin::node();
    with(|world| world.processes.get(&node).copied())
}

/// Makes an empty world on this thread, in place of the one before.
pub fn begin(fate: Box<dyn Fate>) {
    let world =
        World { fate, machines: Vec::new(), processes: BTreeMap::new(), net: net::Net::default() };
    WORLD.set(Some(world));
}

/// Ends the world and gives back who decided.
pub fn end() -> Option<Box<dyn Fate>> {
    WORLD.take().map(|world| world.fate)
}

/// Asks or tells whoever decides.
pub fn with_fate<T>(act: impl FnOnce(&mut dyn Fate) -> T) -> T {
    with(|world| act(world.fate.as_mut()))
}

/// A new machine. Its address is [`net::address`].
pub fn add_machine(clock: Clock) -> Host {
    with(|world| {
        world.machines.push(Machine {
            clock,
            disk: MemDisk::new(),
            is_powered: true,
            process: None,
            ends: signal::Wish::default(),
        });
        world.machines.len() - 1
    })
}

/// Starts a process on a machine, with power from now on if there was none.
pub fn start<F>(host: Host, name: &str, program: impl FnOnce() -> F + Send + 'static)
where
    F: Future<Output = ()> + 'static,
{
    let node = madsim::runtime::Handle::current().create_node().name(name).build();
    with(|world| {
        let machine = &mut world.machines[host];
        assert!(machine.process.is_none(), "one process at a time");
        machine.process = Some(node.id());
        machine.is_powered = true;
        machine.ends = signal::Wish::default();
        world.processes.insert(node.id(), host);
    });
    node.spawn(async move {
        // (The program lives on this thread only, but madsim's nodes take what could move.)
        let _ = madsim::task::spawn_local(program()).await;
    });
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// It is killed; the machine closes its connections and keeps what it wrote.
    Process,
    /// The machine loses power: nobody is told, and what was not synced is at the mercy of `seed`.
    Power,
}

/// Ends the process of a machine, at once and without a word to it.
pub fn kill(host: Host, death: Death, seed: u64) {
    let node = with(|world| {
        world.net.abandon(host, death == Death::Process, world.fate.as_mut());
        let machine = &mut world.machines[host];
        machine.is_powered = death == Death::Process;
        match death {
            Death::Process => machine.disk.kill(seed),
            Death::Power => machine.disk.crash(seed),
        }
        machine.process.take()
    });
    if let Some(node) = node {
        madsim::runtime::Handle::current().kill(node);
    }
}

/// Stops all tasks of a machine's process; time goes on.
pub fn pause(host: Host) {
    if let Some(node) = with(|world| world.machines[host].process) {
        madsim::runtime::Handle::current().pause(node);
    }
}

pub fn resume(host: Host) {
    if let Some(node) = with(|world| world.machines[host].process) {
        madsim::runtime::Handle::current().resume(node);
    }
}

/// Asks a process to end (SIGTERM).
pub fn terminate(host: Host) {
    with(|world| world.machines[host].ends.make());
}

pub fn is_running(host: Host) -> bool {
    with(|world| world.machines[host].process.is_some())
}

/// The machine's disk, for making it fail.
pub fn disk_of(host: Host) -> MemDisk {
    with(|world| world.machines[host].disk.clone())
}

/// Lets a machine's clock jump forward.
pub fn jump(host: Host, by: Duration) {
    let at = now();
    with(|world| world.machines[host].clock.jump(at, by));
}

/// Lets a machine's clock run at another rate: so many parts per million off.
pub fn set_rate(host: Host, ppm: i64) {
    let at = now();
    with(|world| world.machines[host].clock.set_rate(at, ppm));
}

/// Cuts links, each from one machine to another.
pub fn cut(links: impl IntoIterator<Item = (Host, Host)>) {
    with(|world| world.net.cut(links));
}

/// Makes all links whole.
pub fn mend() {
    with(|world| world.net.mend(world.fate.as_mut()));
}

/// Lets nonsense arrive on the next connection from one machine to another where the reader can tell; `None`: no more.
pub fn spoil(from: Host, to: Host, nonsense: Option<Nonsense>) {
    with(|world| world.net.spoil(from, to, nonsense));
}

/// Breaks all connections between two machines.
pub fn sever(a: Host, b: Host) {
    with(|world| world.net.sever(a, b));
}

/// The simulation starts programs itself.
///
/// # Errors
/// Always: this build has no real machine under it.
pub fn block_on<F: Future>(_: F) -> std::io::Result<F::Output> {
    Err(std::io::Error::other("built for the simulation (--cfg madsim): norn-sim runs this"))
}

pub fn install(node: &mut Node<disk::Reader>, disk: &mut disk::Disk) {
    node.install(disk);
}

pub fn seed() -> u64 {
    let host = here();
    with(|world| host.map_or(1, |host| world.fate.seed(host)))
}

/// The log of the current machine.
pub fn stderr() -> LogOf {
    LogOf(here())
}

pub struct LogOf(Option<Host>);

impl std::io::Write for LogOf {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        if let Some(host) = self.0 {
            let text = String::from_utf8_lossy(line);
            with(|world| world.fate.said(host, text.trim_end()));
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub fn shape(config: Config) -> Config {
    with(|world| world.fate.shape(config))
}

pub fn takes(inputs: &[Input]) {
    if let Some(host) = here() {
        with(|world| world.fate.takes(host, inputs));
    }
}

pub fn sends(messages: &[Message]) {
    if let Some(host) = here() {
        with(|world| world.fate.sends(host, messages));
    }
}

pub fn turned(node: &Node<disk::Reader>) {
    if let Some(host) = here() {
        with(|world| world.fate.turned(host, node));
    }
}
