//! Answers without what must differ between two servers: cluster and member ids, and the raft term.

use norn_tests::pb::response_op::Response;
use norn_tests::pb::*;

/// An answer as text: equal texts are equal answers.
pub fn show<T: Normal + std::fmt::Debug>(answer: Result<T, tonic::Status>) -> String {
    match answer {
        Ok(mut answer) => {
            answer.normal();
            format!("{answer:?}")
        }
        Err(status) => format!("refused: {:?} {:?}", status.code(), status.message()),
    }
}

pub trait Normal {
    fn normal(&mut self);
}

impl Normal for Option<ResponseHeader> {
    fn normal(&mut self) {
        if let Some(header) = self {
            // Zero stays zero: inside a transaction nothing but the revision is set.
            header.cluster_id = u64::from(header.cluster_id != 0);
            header.member_id = u64::from(header.member_id != 0);
            header.raft_term = u64::from(header.raft_term != 0);
        }
    }
}

macro_rules! only_header {
    ($($t:ty),*) => {
        $(impl Normal for $t {
            fn normal(&mut self) {
                self.header.normal();
            }
        })*
    };
}

only_header!(
    PutResponse,
    RangeResponse,
    DeleteRangeResponse,
    CompactionResponse,
    LeaseGrantResponse,
    LeaseRevokeResponse,
    LeaseKeepAliveResponse,
    HashKvResponse,
    DefragmentResponse,
    MoveLeaderResponse
);

impl Normal for TxnResponse {
    fn normal(&mut self) {
        self.header.normal();
        for response in &mut self.responses {
            match &mut response.response {
                Some(Response::ResponseRange(r)) => r.normal(),
                Some(Response::ResponsePut(r)) => r.normal(),
                Some(Response::ResponseDeleteRange(r)) => r.normal(),
                Some(Response::ResponseTxn(r)) => r.normal(),
                None => {}
            }
        }
    }
}

impl Normal for LeaseTimeToLiveResponse {
    fn normal(&mut self) {
        self.header.normal();
        // The time left runs; its sign does not.
        self.ttl = self.ttl.signum();
        self.keys.sort();
    }
}

impl Normal for LeaseLeasesResponse {
    fn normal(&mut self) {
        self.header.normal();
        self.leases.sort_by_key(|l| l.id);
    }
}

impl Normal for AlarmResponse {
    fn normal(&mut self) {
        self.header.normal();
        self.alarms.sort_by_key(|a| (a.member_id, a.alarm));
    }
}

impl Normal for StatusResponse {
    fn normal(&mut self) {
        self.header.normal();
        self.leader = u64::from(self.leader != 0);
        self.raft_term = u64::from(self.raft_term != 0);
        // Sizes and positions are the server's own business.
        (self.db_size, self.db_size_in_use) = (0, 0);
        (self.raft_index, self.raft_applied_index) = (0, 0);
        // Protobuf's text format varies its blanks on purpose.
        for error in &mut self.errors {
            *error = error.split_whitespace().collect::<Vec<_>>().join(" ");
        }
        self.errors.sort();
    }
}

/// What members are called by: ids differ, and so does the order by them; ports that the system chose, too.
fn members(members: &mut [Member]) {
    for member in members.iter_mut() {
        member.id = u64::from(member.id != 0);
        for url in member.peer_ur_ls.iter_mut().chain(&mut member.client_ur_ls) {
            let Some((host, port)) = url.rsplit_once(':') else { continue };
            if port.len() > 1 {
                *url = host.to_owned();
            }
        }
    }
    members.sort_by_key(|member| (member.is_learner, member.name.clone()));
}

macro_rules! of_members {
    ($($t:ty),*) => {
        $(impl Normal for $t {
            fn normal(&mut self) {
                self.header.normal();
                members(&mut self.members);
            }
        })*
    };
}

of_members!(MemberListResponse, MemberRemoveResponse, MemberUpdateResponse, MemberPromoteResponse);

impl Normal for MemberAddResponse {
    fn normal(&mut self) {
        self.header.normal();
        members(self.member.as_mut_slice());
        members(&mut self.members);
    }
}
