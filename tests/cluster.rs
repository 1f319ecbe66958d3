//! Several servers that form one cluster.

use std::time::Duration;

use crate::client::Client;
use crate::poll::until_async;
use crate::server::{Server, Setup};

#[derive(Debug)]
pub struct Cluster {
    pub servers: Vec<Server>,
}

impl Cluster {
    /// `count` members with default timings, started together, all ready.
    pub fn start(count: usize) -> Self {
        Self::start_with(count, &Setup::default())
    }

    pub fn start_with(count: usize, setup: &Setup) -> Self {
        let mut servers: Vec<Server> = (1..=count)
            .map(|i| Server::prepare(Setup { name: format!("n{i}"), ..setup.clone() }))
            .collect();
        let members = initial_cluster(&servers);
        for server in &mut servers {
            server.setup.initial_cluster = Some(members.clone());
            server.launch();
        }
        for server in &mut servers {
            server.wait_ready();
        }
        Self { servers }
    }

    pub fn clients(&self) -> Vec<Client> {
        self.servers.iter().map(Server::client).collect()
    }

    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(Server::client_url).collect()
    }

    /// Who is dead, and what crashes left in the logs.
    pub fn problems(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        for server in &mut self.servers {
            if !server.is_running() {
                problems.push(format!("{} is dead", server.setup.name));
            }
            let panics = server.panics().into_iter();
            problems.extend(panics.map(|line| format!("{}: {line}", server.setup.name)));
        }
        problems
    }

    /// The place in `servers` of the member that all running members take for their leader.
    pub async fn leader(&mut self) -> usize {
        let clients: Vec<Option<Client>> =
            self.servers.iter_mut().map(|s| s.is_running().then(|| s.client())).collect();
        until_async("one leader, known to all", Duration::from_secs(20), async || {
            let (mut ids, mut leaders) = (Vec::new(), Vec::new());
            for client in &clients {
                let Some(client) = client else {
                    ids.push(0);
                    continue;
                };
                let status = client.status().await.ok()?;
                ids.push(status.header?.member_id);
                leaders.push(status.leader);
            }
            let leader = *leaders.first()?;
            if leader == 0 || leaders.iter().any(|l| *l != leader) {
                return None;
            }
            ids.iter().position(|id| *id == leader)
        })
        .await
    }

    /// The same hash of the key space on all members, at the newest revision; panics with the hashes otherwise.
    pub async fn assert_same_hash(&self) -> u32 {
        let clients = self.clients();
        let mut revision = 0;
        for client in &clients {
            // Linearizable: afterwards this member has applied all that was acknowledged before.
            let answer = client.range(crate::req::get("no such key")).await;
            let answer = answer.expect("a read on every member");
            revision = revision.max(answer.header.expect("a header").revision);
        }
        let mut hashes = Vec::new();
        for client in &clients {
            let answer = client.hash_kv(revision).await.expect("HashKV on every member");
            hashes.push((answer.hash, answer.compact_revision, answer.hash_revision));
        }
        assert!(hashes.iter().all(|h| *h == hashes[0]), "hashes differ at {revision}: {hashes:?}");
        hashes[0].0
    }
}

/// The value of `--initial-cluster` for these servers.
pub fn initial_cluster(servers: &[Server]) -> String {
    let members: Vec<String> =
        servers.iter().map(|s| format!("{}={}", s.setup.name, s.peer_port.url())).collect();
    members.join(",")
}
