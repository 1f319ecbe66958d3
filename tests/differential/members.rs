//! Changes of the membership, of a cluster that must go on with one voter: members that are added are learners, and nobody is
//! where they should be.

use norn_tests::pb::*;
use norn_tests::rng::Rng;

use crate::normal::show;
use crate::pair::{Answer, Side};

#[derive(Clone, Copy, Debug)]
pub enum Who {
    /// The only voter; never removed.
    Own,
    /// The learner added last, there or not.
    Added,
    Nobody,
}

#[derive(Clone, Copy, Debug)]
pub enum Change {
    Add(&'static str),
    Remove(Who),
    Update(Who, &'static str),
    Promote(Who),
    MoveLeader(Who),
}

/// Addresses where nobody listens, and what is none.
const URLS: [&str; 7] = [
    "http://127.0.0.1:1",
    "http://127.0.0.1:2",
    "http://127.0.0.1:3",
    "",
    "::",
    "127.0.0.1:1",
    "http://host",
];

impl Change {
    pub fn draw(rng: &mut Rng) -> Self {
        // (Good ones are wanted more often.)
        let at = rng.below(6).min(rng.below(7)) as usize;
        let who = *rng.pick(&[Who::Own, Who::Added, Who::Added, Who::Nobody]);
        match rng.below(10) {
            0..3 => Self::Add(URLS[at]),
            3..6 => Self::Remove(*rng.pick(&[Who::Added, Who::Added, Who::Nobody])),
            // (One that is none is taken, and etcd dies of it.)
            6 | 7 => Self::Update(who, URLS[at % 3]),
            8 => Self::Promote(who),
            _ => Self::MoveLeader(who),
        }
    }

    pub async fn apply(self, side: &mut Side) -> Answer {
        let own = match side.client.status().await {
            Ok(status) => status.header.map_or(0, |header| header.member_id),
            Err(status) => return Answer::text(format!("no status: {status:?}")),
        };
        let id = |who| match who {
            Who::Own => own,
            Who::Added => side.added,
            Who::Nobody => 7,
        };
        let client = &side.client;
        match self {
            Self::Add(url) => {
                let answer = client.member_add(url, true).await;
                if let Ok(Some(member)) = answer.as_ref().map(|answer| &answer.member) {
                    side.added = member.id;
                }
                Answer::text(show(answer))
            }
            Self::Remove(who) => Answer::text(show(client.member_remove(id(who)).await)),
            Self::Update(who, url) => {
                let request = MemberUpdateRequest { id: id(who), peer_ur_ls: vec![url.to_owned()] };
                Answer::text(show(client.member_update(request).await))
            }
            Self::Promote(who) => Answer::text(show(client.member_promote(id(who)).await)),
            Self::MoveLeader(who) => Answer::text(show(client.move_leader(id(who)).await)),
        }
    }
}
