//! Where servers stand: ports and a folder that both sides of a comparison use, one after the other. A member's id is
//! made from its peer URL, so equal places have equal ids, in equal order.

use std::path::PathBuf;
use std::time::Duration;

use norn_tests::cluster::initial_cluster;
use norn_tests::poll::until_async;
use norn_tests::port::Port;
use norn_tests::{Client, Server, Setup};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);

/// Members at most: three, and one that joins.
pub const MEMBERS: usize = 4;

pub struct Place {
    pub ports: Vec<(Port, Port)>,
    pub dir: TempDir,
}

impl Place {
    pub fn new() -> Self {
        let ports = (0..MEMBERS).map(|_| (Port::pick(), Port::pick())).collect();
        Self { ports, dir: TempDir::with_prefix("norn-ctldiff-").expect("a folder") }
    }

    pub fn client_address(&self, i: usize) -> String {
        self.ports[i].0.address()
    }

    pub fn peer_url(&self, i: usize) -> String {
        self.ports[i].1.url()
    }

    /// The servers that begin, ready, the first of them the leader.
    pub async fn start(&self, binary: &PathBuf, nodes: usize, flags: &[&str]) -> Vec<Server> {
        let mut setup = if nodes == 1 { Setup::quick() } else { Setup::default() };
        setup.binary.clone_from(binary);
        setup.flags.extend(flags.iter().map(|f| (*f).to_owned()));
        let mut servers: Vec<Server> = (0..nodes).map(|i| self.prepare(&setup, i)).collect();
        let members = initial_cluster(&servers);
        for server in &mut servers {
            server.setup.initial_cluster = Some(members.clone());
            server.launch();
        }
        for server in &mut servers {
            server.wait_ready();
        }
        for server in &servers {
            upgraded(server).await;
        }
        let mut cluster = norn_tests::Cluster { servers };
        let leader = cluster.leader().await;
        if leader != 0 {
            let clients = cluster.clients();
            let first = clients[0].status().await.expect("a status").header.expect("a header");
            clients[leader].move_leader(first.member_id).await.expect("the leader moves");
            assert_eq!(cluster.leader().await, 0, "the leader moved, and moved again");
        }
        cluster.servers
    }

    pub fn prepare(&self, setup: &Setup, i: usize) -> Server {
        let setup = Setup { name: format!("n{}", i + 1), ..setup.clone() };
        let (client, peer) = self.ports[i].clone();
        Server::prepare_at(setup, client, peer)
    }
}

/// The storage version follows the cluster's, in a real etcd in steps of seconds.
pub async fn upgraded(server: &Server) {
    until_async("the storage version", LIMIT, async || {
        let status = server.client().status().await.ok()?;
        (status.storage_version == "3.7.0").then_some(())
    })
    .await;
}

/// Afterwards every member has applied what any of them had acknowledged.
pub async fn settle(clients: &[Client]) {
    for client in clients {
        client.range(norn_tests::req::get("no such key")).await.expect("a read on every member");
    }
}
