//! A lease kept alive in the background: what locks and elections hang on.

use std::rc::Rc;
use std::time::Duration;

use norn_proto::etcdserverpb as pb;
use tokio::sync::oneshot;

use crate::connect::{Client, Failure, Repeat};
use crate::lease::renew;

pub struct Session {
    client: Rc<Client>,
    pub lease: i64,
    /// Resolves when the lease is lost.
    pub lost: oneshot::Receiver<()>,
    renewer: tokio::task::JoinHandle<()>,
}

impl Session {
    /// Must be called on a `LocalSet`.
    pub async fn new(client: Rc<Client>, ttl: i64) -> Result<Self, Failure> {
        let request = pb::LeaseGrantRequest { ttl, id: 0 };
        let lease: pb::LeaseGrantResponse =
            client.call("/etcdserverpb.Lease/LeaseGrant", &request, Repeat::No).await?;
        let (tell, lost) = oneshot::channel();
        let (id, renewing) = (lease.id, Rc::clone(&client));
        let renewer = tokio::task::spawn_local(async move {
            let mut ttl = lease.ttl;
            // Unreachable servers are given as long as the lease lives.
            loop {
                tokio::time::sleep(Duration::from_millis((ttl * 1000 / 3).max(1) as u64)).await;
                let left = Duration::from_millis((ttl * 1000 * 2 / 3).max(1) as u64);
                match tokio::time::timeout(left, renew(&renewing, id)).await {
                    Ok(Ok(reply)) if reply.ttl > 0 => ttl = reply.ttl,
                    _ => break,
                }
            }
            let _ = tell.send(());
        });
        Ok(Self { client, lease: lease.id, lost, renewer })
    }

    /// Gives the lease back; keys attached to it go at once.
    pub async fn close(self) {
        self.renewer.abort();
        let request = pb::LeaseRevokeRequest { id: self.lease };
        // If it fails the lease runs out by itself.
        let _: Result<pb::LeaseRevokeResponse, _> =
            self.client.call("/etcdserverpb.Lease/LeaseRevoke", &request, Repeat::No).await;
    }
}
