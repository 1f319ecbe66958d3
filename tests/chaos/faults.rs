//! What is done to the processes: kill -9, stop the leader for a while, wipe a follower and let it join again.

use std::time::Duration;

use norn_tests::Cluster;
use norn_tests::poll::until_async;
use norn_tests::rng::Rng;
use rustix::process::Signal;

/// How long a stopped leader stays stopped.
const STOP: Duration = Duration::from_secs(5);
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);

pub struct Faults {
    rng: Rng,
    wipe: bool,
    kills: usize,
    stops: usize,
    wipes: usize,
}

impl Faults {
    pub fn new(rng: Rng, wipe: bool) -> Self {
        Self { rng, wipe, kills: 0, stops: 0, wipes: 0 }
    }

    /// A while of peace, one fault, and the way back: at most one member is away at a time.
    pub async fn next(&mut self, cluster: &mut Cluster) {
        pause(self.rng.between(500, 2500)).await;
        match self.rng.below(10) {
            0..2 => self.stop_leader(cluster).await,
            2..4 if self.wipe => self.wipe_follower(cluster).await,
            _ => self.kill_one(cluster).await,
        }
        // The next one starts from a whole cluster: two faults at a time may lose the majority, which is no promise broken,
        // but no progress either.
        cluster.leader().await;
    }

    async fn kill_one(&mut self, cluster: &mut Cluster) {
        let victim = self.rng.below(cluster.servers.len() as u64) as usize;
        let server = &mut cluster.servers[victim];
        println!("  kill {}", server.setup.name);
        server.kill();
        pause(self.rng.between(0, 2000)).await;
        server.launch();
        tokio::task::block_in_place(|| server.wait_ready());
        self.kills += 1;
    }

    async fn stop_leader(&mut self, cluster: &mut Cluster) {
        let leader = cluster.leader().await;
        println!("  stop {}, the leader", cluster.servers[leader].setup.name);
        cluster.servers[leader].signal(Signal::STOP);
        pause(STOP.as_millis() as i64).await;
        cluster.servers[leader].signal(Signal::CONT);
        self.stops += 1;
    }

    /// Removes a follower from the cluster, destroys its disk, and adds it as a new member.
    async fn wipe_follower(&mut self, cluster: &mut Cluster) {
        let leader = cluster.leader().await;
        let victim = (leader + 1 + self.rng.below(2) as usize) % cluster.servers.len();
        let name = cluster.servers[victim].setup.name.clone();
        println!("  wipe {name}, a follower");
        let old = cluster.servers[victim].client().status().await.expect("a follower answers");
        let old = old.header.map_or(0, |h| h.member_id);
        cluster.servers[victim].kill();
        let client = cluster.servers[leader].client();
        // A member that is down may be removed at once; the addition waits for five seconds of connection.
        until_async("the member to be removed", RECOVERY_LIMIT, async || {
            match client.member_remove(old).await {
                Ok(_) => Some(()),
                Err(status) => (status.code() == tonic::Code::NotFound).then_some(()),
            }
        })
        .await;
        cluster.servers[victim].wipe();
        let url = cluster.servers[victim].peer_port.url();
        until_async("the member to be added", RECOVERY_LIMIT, async || {
            match client.member_add(&url, false).await {
                Ok(_) => Some(()),
                Err(status) => status.message().contains("Peer URLs already exists").then_some(()),
            }
        })
        .await;
        let server = &mut cluster.servers[victim];
        server.setup.existing = true;
        server.launch();
        tokio::task::block_in_place(|| server.wait_ready());
        self.wipes += 1;
    }

    pub fn summary(&self) -> String {
        format!("{} kills, {} stops, {} wipes", self.kills, self.stops, self.wipes)
    }
}

/// Part of the plan, not a wait for a condition.
async fn pause(milliseconds: i64) {
    tokio::time::sleep(Duration::from_millis(milliseconds.unsigned_abs())).await;
}
