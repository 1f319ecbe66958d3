//! The server, assembled: open, serve, and leave in order.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use norn_node::{Config, Host, Input, Member, Node, SERVER_VERSION, Start, Time};
use norn_storage::FileName;
use norn_storage::wal::Wal;

use crate::client;
use crate::config::ServerConfig;
use crate::core::{Core, Phase};
use crate::listen::{self, Serves};
use crate::log::{Level, Log, Value};
use crate::metrics::DiskMetrics;
use crate::runtime::disk::Disk;
use crate::runtime::net::Listener;
use crate::runtime::signal::Ends;
use crate::runtime::sync::{Notify, watch};
use crate::runtime::time::Instant;
use crate::runtime::{self, task, time};
use crate::transport::{Transport, server_version};

/// How long a leader waits, on its way out, for somebody else to lead.
const HAND_OVER: Duration = Duration::from_millis(1_000);
/// How long open calls get to end.
const LINGER: Duration = Duration::from_millis(200);
/// Founding: how long another member may take to say whether it knows us.
const ASK_FOUNDERS: Duration = Duration::from_secs(1);

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Code(i32),
    /// By this signal, as if it had not been caught.
    Signal(i32),
}

/// Runs the server on the current thread until it ends.
pub fn run(config: ServerConfig, log: Log) -> End {
    let log = Rc::new(log);
    match runtime::block_on(serve(Rc::new(config), Rc::clone(&log))) {
        Ok(end) => end,
        Err(error) => fatal(&log, &error.to_string()),
    }
}

/// The server's whole life, as a task.
pub async fn serve(config: Rc<ServerConfig>, log: Rc<Log>) -> End {
    match start(config, Rc::clone(&log)).await {
        Ok(end) => end,
        Err(error) => fatal(&log, &error),
    }
}

fn fatal(log: &Log, error: &str) -> End {
    let fields = [("error", error.into()), ("stacktrace", "".into())];
    if error.contains("include") && error.contains("--initial-cluster") {
        log.warn("failed to start", &fields[..1]);
    } else {
        log.line(Level::Fatal, None, "discovery failed", &fields);
    }
    End::Code(1)
}

async fn bind_all(urls: &[String]) -> Result<Vec<Listener>, String> {
    let mut listeners = Vec::new();
    for url in urls {
        listeners.push(listen::bind(url).await?);
    }
    Ok(listeners)
}

async fn start(config: Rc<ServerConfig>, log: Rc<Log>) -> Result<End, String> {
    let started = Instant::now();
    log.info(
        "configuring peer listeners",
        &[("listen-peer-urls", config.listen_peer_urls.as_slice().into())],
    );
    let peer_listeners = bind_all(&config.listen_peer_urls).await?;
    log.info(
        "configuring client listeners",
        &[("listen-client-urls", config.listen_client_urls.as_slice().into())],
    );
    let client_listeners = bind_all(&config.listen_client_urls).await?;
    let http_listeners = bind_all(&config.listen_client_http_urls).await?;
    let metrics_listeners = bind_all(&config.listen_metrics_urls).await?;

    let wake = Arc::new(Notify::new());
    let disk_metrics = Arc::new(DiskMetrics::default());
    let waker = Arc::clone(&wake);
    let mut disk = Disk::open(
        &config.data_dir,
        config.wal_dir.as_deref(),
        config.no_fsync,
        Arc::clone(&disk_metrics),
        move || waker.notify_one(),
    )
    .map_err(|error| error.to_string())?;
    let reader = disk.reader();
    let wal_dir = FileName::new("member/wal");
    let is_initialized = Wal::exists(&reader, &wal_dir).map_err(|error| error.to_string())?;
    if is_initialized {
        log.info(
            "server has already been initialized",
            &[
                ("data-dir", config.data_dir.to_string_lossy().as_ref().into()),
                ("dir-type", "member".into()),
            ],
        );
    } else {
        log.info("Initialize and start etcd server", &[]);
    }
    let (start, remotes) = if is_initialized {
        (founding(&config), Vec::new())
    } else if config.is_new_cluster {
        check_founding(&config)?;
        ask_founders(&config).await?;
        (founding(&config), Vec::new())
    } else {
        join(&config).await?
    };
    log_start(&config, &log, is_initialized);
    let node_config = node_config(&config, start, started);
    let now = Time::from_ms(1);
    let node = Node::open(&mut disk, reader, node_config, now).map_err(|e| e.to_string())?;
    let text = if is_initialized { "restarting local member" } else { "starting local member" };
    log.info(
        text,
        &[
            ("local-member-id", format!("{:x}", node.id()).as_str().into()),
            ("cluster-id", format!("{:x}", node.cluster_id()).as_str().into()),
            ("commit-index", Value::Number(node.raft().committed().0.cast_signed())),
        ],
    );
    let transport = Transport::new(config.advertise_peer_urls.clone());
    transport.set_identity(node.id(), node.cluster_id(), &remotes);
    let core = Core::new(
        Host::new(node, disk).installed_by(runtime::install),
        wake,
        started,
        Rc::clone(&log),
        disk_metrics,
        Rc::clone(&transport),
        &config,
    );
    task::spawn_local(Rc::clone(&core).run());
    task::spawn_local(Rc::clone(&transport).keep_alive());
    task::spawn_local(transport.watch_versions(Rc::clone(&core)));

    let (stop, stopped) = watch::channel(false);
    let accept = |listeners: Vec<Listener>, serves: Serves| {
        for listener in listeners {
            let (core, config) = (Rc::clone(&core), Rc::clone(&config));
            let accepting = listen::accept(core, listener, serves, config, stopped.clone());
            task::spawn_local(accepting);
        }
    };
    accept(peer_listeners, Serves::Peers);
    accept(metrics_listeners, Serves::Metrics);
    log.info(
        "now serving peer/client/metrics",
        &[
            ("local-member-id", format!("{:x}", core.transport.id()).as_str().into()),
            ("initial-advertise-peer-urls", config.advertise_peer_urls.as_slice().into()),
            ("listen-peer-urls", config.listen_peer_urls.as_slice().into()),
            ("advertise-client-urls", config.advertise_client_urls.as_slice().into()),
            ("listen-client-urls", config.listen_client_urls.as_slice().into()),
            ("listen-metrics-urls", config.listen_metrics_urls.as_slice().into()),
        ],
    );

    let mut phase = core.phase();
    let reached = phase.wait_for(|phase| *phase != Phase::Starting).await;
    if let Some(end) = reached.ok().and_then(|phase| ended(&log, &phase)) {
        core.close();
        return Ok(end);
    }
    // Handlers first: whoever sees the line below may stop us at once.
    let mut ends = Ends::catch().map_err(|error| error.to_string())?;
    let (client_serves, traffic) = match http_listeners.is_empty() {
        true => (Serves::GrpcAndHttp, "grpc+http"),
        false => (Serves::GrpcOnly, "grpc"),
    };
    let addresses = addresses(&client_listeners, &http_listeners);
    accept(client_listeners, client_serves);
    accept(http_listeners, Serves::HttpOnly);
    for _ in &addresses {
        log.info("ready to serve client requests", &[]);
    }
    log.info(
        "grpc service status changed",
        &[("service", "".into()), ("status", "SERVING".into())],
    );
    for address in &addresses {
        let fields = [("traffic", traffic.into()), ("address", address.into())];
        log.info("serving client traffic insecurely; this is strongly discouraged!", &fields);
    }
    log.info("notifying init daemon", &[]);
    notify_systemd();
    log.info("successfully notified init daemon", &[]);

    let (number, name) = runtime::select! {
        signal = ends.next() => signal,
        phase = phase.wait_for(|phase| matches!(phase, Phase::Removed | Phase::Failed(_))) => {
            let end = phase.ok().and_then(|phase| ended(&log, &phase));
            // A removed member gets the time to tell its clients.
            time::sleep(LINGER).await;
            core.close();
            return Ok(end.unwrap_or(End::Code(1)));
        }
    };
    log.info("received signal; shutting down", &[("signal", name.into())]);
    leave(&core, &stop, &config, &log).await;
    Ok(if std::process::id() == 1 { End::Code(0) } else { End::Signal(number) })
}

/// The end that a phase means, if it means one.
fn ended(log: &Log, phase: &Phase) -> Option<End> {
    match phase {
        Phase::Removed => {
            let text = "the member has been permanently removed from the cluster";
            log.error("server error", &[("error", text.into())]);
            log.warn("data-dir used by this member must be removed", &[]);
            Some(End::Code(0))
        }
        Phase::Failed(reason) => {
            log.line(Level::Fatal, None, "server stopped", &[("error", reason.into())]);
            Some(End::Code(1))
        }
        Phase::Starting | Phase::Serving => None,
    }
}

fn addresses(clients: &[Listener], https: &[Listener]) -> Vec<String> {
    let all = clients.iter().chain(https);
    all.filter_map(Listener::address).collect()
}

async fn leave(core: &Rc<Core>, stop: &watch::Sender<bool>, config: &ServerConfig, log: &Log) {
    let fields = [
        ("name", Value::from(&config.name)),
        ("data-dir", Value::Text(&config.data_dir.to_string_lossy())),
        ("advertise-peer-urls", config.advertise_peer_urls.as_slice().into()),
        ("advertise-client-urls", config.advertise_client_urls.as_slice().into()),
    ];
    log.info("closing etcd server", &fields);
    stop.send_replace(true);
    let local = format!("{:x}", core.transport.id());
    let is_leader = core.with_node(|node| node.is_leader());
    let voters = core.with_node(|node| node.members().voters().count());
    if !is_leader {
        let fields = [("local-member-id", Value::Text(&local))];
        log.info("skipped leadership transfer; local server is not leader", &fields);
    } else if voters == 1 {
        let fields = [("local-member-id", Value::Text(&local))];
        log.info("skipped leadership transfer for single voting member cluster", &fields);
    } else {
        core.input(Input::TransferLeadership);
        let handed_over = async {
            while core.with_node(|node| node.is_leader() || !node.has_leader()) {
                time::sleep(Duration::from_millis(5)).await;
            }
        };
        match time::timeout(HAND_OVER, handed_over).await {
            Ok(()) => log.info("leadership transfer finished", &[]),
            Err(_) => log.warn(
                "leadership transfer failed",
                &[("error", "etcdserver: unhealthy cluster".into())],
            ),
        }
    }
    time::sleep(LINGER).await;
    core.close();
    log.info("closed etcd server", &fields);
}

fn notify_systemd() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Ok(socket) = std::os::unix::net::UnixDatagram::unbound() {
        // (An init system that does not listen is no reason to stop.)
        let _ = socket.send_to(b"READY=1", path);
    }
}

fn log_start(config: &ServerConfig, log: &Log, is_initialized: bool) {
    log.info(
        "starting an etcd server",
        &[
            ("etcd-version", SERVER_VERSION.into()),
            ("git-sha", "norn".into()),
            ("go-version", "none".into()),
            ("go-os", std::env::consts::OS.into()),
            ("go-arch", crate::go_arch().into()),
            ("member-initialized", is_initialized.into()),
            ("name", (&config.name).into()),
            ("data-dir", config.data_dir.to_string_lossy().as_ref().into()),
            ("initial-advertise-peer-urls", config.advertise_peer_urls.as_slice().into()),
            ("listen-peer-urls", config.listen_peer_urls.as_slice().into()),
            ("advertise-client-urls", config.advertise_client_urls.as_slice().into()),
            ("listen-client-urls", config.listen_client_urls.as_slice().into()),
            ("initial-cluster", (&config.initial_cluster_text).into()),
            ("initial-cluster-token", (&config.token).into()),
            ("quota-backend-bytes", Value::Number(config.quota_bytes)),
            ("pre-vote", config.pre_vote.into()),
        ],
    );
}

fn node_config(config: &ServerConfig, start: Start, started: Instant) -> Config {
    let zero = time::unix().saturating_sub(started.elapsed());
    let first_url = config.advertise_peer_urls.first().map_or("", |url| url.as_str());
    runtime::shape(Config {
        start,
        client_urls: config.advertise_client_urls.clone(),
        tick_ms: config.tick_ms,
        election_ticks: config.election_ticks,
        tick_advance: config.tick_advance,
        pre_vote: config.pre_vote,
        strict_reconfig_check: config.strict_reconfig_check,
        learners_max: config.learners_max,
        quota_bytes: config.quota_bytes,
        request_bytes_max: config.request_bytes_max,
        txn_ops_max: config.txn_ops_max,
        snapshot_count: config.snapshot_count,
        catch_up_entries: config.catch_up_entries,
        wals_max: config.wals_max,
        snapshots_max: config.snapshots_max,
        auto_compaction: config.auto_compaction,
        compact_records: config.compact_records,
        compact_pause_ms: config.compact_pause_ms,
        watch_progress_interval_ms: config.watch_progress_interval_ms,
        lease_checkpoint: config.lease_checkpoint,
        downgrade_check_ms: config.downgrade_check_ms,
        seed: runtime::seed(),
        unix_ms_at_zero: u64::try_from(zero.as_millis()).unwrap_or(0),
        ..Config::new(&config.name, first_url)
    })
}

fn founding(config: &ServerConfig) -> Start {
    let members = config
        .initial_cluster
        .iter()
        .map(|(name, urls)| Member::new(name, urls.clone(), &config.token, None))
        .collect();
    Start::New { members, token: config.token.clone() }
}

/// The local entry of the initial cluster must be what this member advertises.
fn check_founding(config: &ServerConfig) -> Result<(), String> {
    let (name, text) = (&config.name, &config.initial_cluster_text);
    let own = own_urls(config)?;
    for url in own {
        if !config.advertise_peer_urls.contains(url) {
            return Err(format!(
                "--initial-cluster has {name}={url} but missing from \
                 --initial-advertise-peer-urls={} ({url} is not advertised)",
                config.advertise_peer_urls.join(",")
            ));
        }
    }
    for url in &config.advertise_peer_urls {
        if !own.contains(url) {
            return Err(format!(
                "--initial-advertise-peer-urls has {url} but missing from --initial-cluster={text}"
            ));
        }
    }
    let mut ids = BTreeMap::new();
    for (name, urls) in &config.initial_cluster {
        let id = Member::new(name, urls.clone(), &config.token, None).id;
        if ids.insert(id, name).is_some() {
            return Err(format!("member exists with identical ID {id:x}"));
        }
    }
    Ok(())
}

fn own_urls(config: &ServerConfig) -> Result<&Vec<String>, String> {
    let name = &config.name;
    config.initial_cluster.get(name).ok_or_else(|| {
        format!("couldn't find local name \"{name}\" in the initial cluster configuration")
    })
}

fn other_urls(config: &ServerConfig) -> Vec<String> {
    let others = config.initial_cluster.iter().filter(|(name, _)| **name != config.name);
    let mut urls: Vec<String> = others.flat_map(|(_, urls)| urls.clone()).collect();
    urls.sort();
    urls
}

fn parse_members(body: &[u8]) -> Option<Vec<Member>> {
    serde_json::from_slice(body).ok()
}

/// A founding member that already published itself must not found again with an empty disk.
async fn ask_founders(config: &ServerConfig) -> Result<(), String> {
    let own = own_urls(config)?;
    for url in other_urls(config) {
        let asked = time::timeout(ASK_FOUNDERS, client::get(&url, "/members")).await;
        let Ok(Ok((200, body))) = asked else { continue };
        let members = parse_members(&body).unwrap_or_default();
        let known = members.iter().find(|m| m.peer_urls == *own && !m.client_urls.is_empty());
        if let Some(member) = known {
            return Err(format!("member {:x} has already been bootstrapped", member.id));
        }
        break;
    }
    Ok(())
}

/// Joining: who is in the cluster, and which of them are we?
async fn join(config: &ServerConfig) -> Result<(Start, Vec<Member>), String> {
    let own = own_urls(config)?;
    let mut found = None;
    for url in other_urls(config) {
        if let Ok((200, body, cluster_id)) = client::get_with_cluster(&url, "/members").await
            && let Some(members) = parse_members(&body)
        {
            found = Some((members, cluster_id));
            break;
        }
    }
    let Some((members, cluster_id)) = found else {
        return Err("cannot fetch cluster info from peer urls: could not retrieve cluster \
             information from the given URLs"
            .into());
    };
    if members.len() != config.initial_cluster.len() {
        return Err("error validating peerURLs {ClusterID:x}: member count is unequal"
            .replace("ClusterID:x", &format!("ClusterID:{cluster_id:x}")));
    }
    for member in &members {
        if !config.initial_cluster.values().any(|urls| *urls == sorted(&member.peer_urls)) {
            return Err(format!(
                "error validating peerURLs {{ClusterID:{cluster_id:x}}}: PeerURLs: no match found \
                 for existing member ({:x}, {:?})",
                member.id, member.peer_urls
            ));
        }
    }
    let Some(member) = members.iter().find(|m| sorted(&m.peer_urls) == *own) else {
        return Err(format!("could not find local member {} in the cluster", config.name));
    };
    check_versions(&other_urls(config)).await?;
    let start = Start::Join { cluster_id, member_id: member.id, members: members.clone() };
    Ok((start, members))
}

fn sorted(urls: &[String]) -> Vec<String> {
    let mut urls = urls.to_vec();
    urls.sort();
    urls
}

async fn check_versions(urls: &[String]) -> Result<(), String> {
    let mut answered = false;
    for url in urls {
        if let Ok((200, body)) = client::get(url, "/version").await {
            answered = true;
            let json: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            let cluster = json.get("etcdcluster").and_then(|v| v.as_str());
            let version = cluster.and_then(norn_node::parse_version);
            if version > norn_node::parse_version(SERVER_VERSION) || server_version(&body).is_none()
            {
                return Err("incompatible with current running cluster".into());
            }
        }
    }
    if answered { Ok(()) } else { Err("incompatible with current running cluster".into()) }
}
