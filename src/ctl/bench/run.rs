//! A workload from its start to its report, all on one thread.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, LocalSet, spawn_local};

use crate::histogram::Histogram;
use crate::options::{Kind, Options};
use crate::shared::Shared;
use crate::{fan_out, kube, lease, process, unary};

/// For calls that are under way when the run ends.
const END_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks at the servers' memory.
const LOOK_EVERY: Duration = Duration::from_millis(250);

pub struct Report {
    pub latency: Histogram,
    /// Operations: calls, or events of a watch.
    pub operations: u64,
    /// What watches heard beside that.
    pub events: u64,
    pub elapsed: Duration,
    pub errors: BTreeMap<String, u64>,
    pub server_cpu: Duration,
    pub own_cpu: Duration,
    pub rss_bytes: u64,
    /// The most that was seen while it was measured.
    pub rss_max_bytes: u64,
    /// Calls of which nothing was heard any more, though the load had stopped.
    pub unanswered: u64,
    pub written_bytes: u64,
}

impl Report {
    pub fn per_second(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }

    /// Microseconds of the servers' CPU time per operation.
    pub fn server_micros(&self) -> f64 {
        self.per_operation(self.server_cpu.as_secs_f64() * 1e6)
    }

    pub fn own_micros(&self) -> f64 {
        self.per_operation(self.own_cpu.as_secs_f64() * 1e6)
    }

    /// Bytes the servers gave the disk per operation.
    pub fn written(&self) -> f64 {
        self.per_operation(self.written_bytes as f64)
    }

    fn per_operation(&self, all: f64) -> f64 {
        all / self.operations.max(1) as f64
    }
}

/// Runs something to its end on a runtime of its own.
pub fn block_on<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    LocalSet::new().block_on(&runtime.map_err(|e| e.to_string())?, work)
}

pub async fn workload(options: &Options) -> Result<Report, String> {
    let shared = Rc::new(Shared::new(options));
    let mut tasks = Vec::new();
    let mut behind: Option<JoinHandle<io::Result<()>>> = None;
    match options.kind {
        Kind::Watch => tasks.push(spawn_local(fan_out::run(Rc::clone(&shared)))),
        Kind::KeepAlive => {
            lease::grant(&shared).await.map_err(|e| e.to_string())?;
            tasks = per_connection(&shared, lease::keep_alive);
        }
        Kind::Kube => {
            behind = Some(spawn_local(kube::compact(Rc::clone(&shared))));
            tasks = per_connection(&shared, kube::connection);
        }
        _ => tasks = per_connection(&shared, unary::connection),
    }
    let pids = &options.pids;
    let rss_max = Rc::new(Cell::new(0));
    let looks = spawn_local(look_at_memory(pids.clone(), Rc::clone(&rss_max)));
    tokio::time::sleep(options.warmup).await;
    let own = [std::process::id()];
    let (start, server, loader) = (Instant::now(), process::cpu_sum(pids), process::cpu_sum(&own));
    let written = process::written_sum(pids);
    shared.measuring.set(true);
    tokio::time::sleep(options.duration).await;
    shared.measuring.set(false);
    looks.abort();
    let rss_bytes = process::rss_sum(pids);
    let mut report = Report {
        latency: shared.latency.borrow().clone(),
        operations: shared.operations.get(),
        events: shared.events.get(),
        elapsed: start.elapsed(),
        errors: shared.errors.borrow().clone(),
        server_cpu: process::cpu_sum(pids) - server,
        own_cpu: process::cpu_sum(&own) - loader,
        rss_bytes,
        rss_max_bytes: rss_bytes.max(rss_max.get()),
        unanswered: 0,
        written_bytes: process::written_sum(pids) - written,
    };
    shared.stop.set(true);
    if let Some(behind) = behind {
        behind.abort();
    }
    for task in tasks {
        match tokio::time::timeout(END_WITHIN, task).await {
            Ok(Ok(Err(e))) => return Err(format!("connection: {e}")),
            Ok(Err(e)) => return Err(e.to_string()),
            _ => {}
        }
    }
    report.unanswered = shared.open.get();
    Ok(report)
}

/// Until it is aborted.
async fn look_at_memory(pids: Vec<u32>, most: Rc<Cell<u64>>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        most.set(most.get().max(process::rss_sum(&pids)));
    }
}

/// One task for each connection, with its share of the clients.
fn per_connection<F: Future<Output = io::Result<()>> + 'static>(
    shared: &Rc<Shared>,
    run: impl Fn(Rc<Shared>, usize, usize) -> F,
) -> Vec<JoinHandle<io::Result<()>>> {
    let o = &shared.options;
    let clients = |i| o.clients / o.conns + usize::from(i < o.clients % o.conns);
    (0..o.conns).map(|i| spawn_local(run(Rc::clone(shared), i, clients(i)))).collect()
}
