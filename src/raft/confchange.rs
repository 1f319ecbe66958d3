//! Membership arithmetic: from one membership to the next, or an explanation why not.
//!
//! Pure functions of the tracker; nothing here takes effect until the result is put in place.

use std::fmt;

use crate::progress::{Membership, Progress, Tracker};
use crate::types::{ConfChangeKind, ConfChangeSingle, ConfState, Index, NodeId};
use norn_planted::planted;

/// The next membership with a progress for each of its members.
pub type Changed = (Membership, Vec<(NodeId, Progress)>);

/// Why a change is not possible from where we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangeError {
    NotJoint,
    AlreadyJoint,
    NoVotersToJoin,
    SimpleWhileJoint,
    ManyVotersAtOnce,
    NoVotersLeft,
    /// An invariant is broken before or after the change.
    Broken(&'static str),
}

impl ChangeError {
    pub(crate) fn text(self) -> &'static str {
        match self {
            ChangeError::NotJoint => "can't leave a non-joint config",
            ChangeError::AlreadyJoint => "config is already joint",
            ChangeError::NoVotersToJoin => "can't make a zero-voter config joint",
            ChangeError::SimpleWhileJoint => "can't apply simple config change in joint config",
            ChangeError::ManyVotersAtOnce => {
                "more than one voter changed without entering joint config"
            }
            ChangeError::NoVotersLeft => "removed all voters",
            ChangeError::Broken(what) => what,
        }
    }
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for ChangeError {}

/// Computes changes of the membership in `tracker`.
#[derive(Debug)]
pub struct Changer<'a> {
    pub tracker: &'a Tracker,
    /// New members are first probed here. Too high costs a round trip; too low would send the whole log.
    pub last_index: Index,
}

impl Changer<'_> {
    /// Changes at most one voter (thesis section 4.1): any two majorities still overlap.
    pub fn simple(&self, changes: &[ConfChangeSingle]) -> Result<Changed, ChangeError> {
        let mut draft = self.draft()?;
        if draft.membership.voters.is_joint() {
            return Err(ChangeError::SimpleWhileJoint);
        }
        draft.apply(changes)?;
        let (before, after) =
            (&self.tracker.membership.voters.incoming, &draft.membership.voters.incoming);
        let only_in = |a: &[NodeId], b: &[NodeId]| a.iter().filter(|id| !b.contains(id)).count();
        if only_in(before, after) + only_in(after, before) > 1 {
            return Err(ChangeError::ManyVotersAtOnce);
        }
        draft.finish()
    }

    /// Any change at all, behind a configuration in which both majorities must agree (section 4.3).
    pub fn enter_joint(
        &self,
        auto_leave: bool,
        changes: &[ConfChangeSingle],
    ) -> Result<Changed, ChangeError> {
        let mut draft = self.draft()?;
        let voters = &mut draft.membership.voters;
        if voters.is_joint() {
            return Err(ChangeError::AlreadyJoint);
        }
        if voters.incoming.is_empty() {
            return Err(ChangeError::NoVotersToJoin);
        }
        voters.outgoing = voters.incoming.clone();
        draft.apply(changes)?;
        draft.membership.auto_leave = auto_leave;
        draft.finish()
    }

    /// Forgets the outgoing half.
    pub fn leave_joint(&self) -> Result<Changed, ChangeError> {
        let mut draft = self.draft()?;
        if !draft.membership.voters.is_joint() {
            return Err(ChangeError::NotJoint);
        }
        for id in std::mem::take(&mut draft.membership.learners_next) {
            insert(&mut draft.membership.learners, id);
            if let Some(progress) = draft.progress_mut(id) {
                progress.is_learner = true;
            }
        }
        for id in std::mem::take(&mut draft.membership.voters.outgoing) {
            if !draft.membership.voters.contains(id) && !draft.membership.learners.contains(&id) {
                draft.forget_progress(id);
            }
        }
        draft.membership.auto_leave = false;
        draft.finish()
    }

    fn draft(&self) -> Result<Draft<'_>, ChangeError> {
        let draft = Draft {
            tracker: self.tracker,
            next: self.last_index.max(Index(1)),
            membership: self.tracker.membership.clone(),
            progress: self.tracker.progress.clone(),
        };
        draft.check()?;
        Ok(draft)
    }
}

/// Rebuilds a membership from its stored form, over an empty tracker.
///
/// Goes through the same steps that led there, so that a joint configuration comes back as joint.
pub fn restore(
    mut tracker: Tracker,
    last_index: Index,
    state: &ConfState,
) -> Result<Changed, ChangeError> {
    fn each(
        ids: &[NodeId],
        kind: ConfChangeKind,
    ) -> impl Iterator<Item = ConfChangeSingle> + use<'_> {
        ids.iter().map(move |&node_id| ConfChangeSingle { kind, node_id })
    }
    let learner = ConfChangeKind::AddLearnerNode;
    let restored = if planted!(LearnerRestoredAsVoter) { ConfChangeKind::AddNode } else { learner };
    let mut changes: Vec<_> = each(&state.voters, ConfChangeKind::AddNode)
        .chain(each(&state.learners, restored))
        .chain(each(&state.learners_next, ConfChangeKind::AddLearnerNode))
        .collect();
    let mut one_by_one = |changes: &[ConfChangeSingle]| {
        for change in changes {
            let changer = Changer { tracker: &tracker, last_index };
            let (membership, progress) = changer.simple(std::slice::from_ref(change))?;
            tracker.replace(membership, progress);
        }
        Ok(())
    };
    if state.voters_outgoing.is_empty() {
        one_by_one(&changes)?;
        return Ok((tracker.membership, tracker.progress));
    }
    let outgoing: Vec<_> = each(&state.voters_outgoing, ConfChangeKind::AddNode).collect();
    one_by_one(&outgoing)?;
    changes.splice(0..0, each(&state.voters_outgoing, ConfChangeKind::RemoveNode));
    Changer { tracker: &tracker, last_index }.enter_joint(state.auto_leave, &changes)
}

/// A membership while it is being changed.
struct Draft<'a> {
    tracker: &'a Tracker,
    next: Index,
    membership: Membership,
    progress: Vec<(NodeId, Progress)>,
}

impl Draft<'_> {
    fn apply(&mut self, changes: &[ConfChangeSingle]) -> Result<(), ChangeError> {
        for change in changes {
            // The application refused the change by clearing its node.
            if change.node_id.is_none() {
                continue;
            }
            match change.kind {
                ConfChangeKind::AddNode => self.make_voter(change.node_id),
                ConfChangeKind::AddLearnerNode => self.make_learner(change.node_id),
                ConfChangeKind::RemoveNode => self.remove(change.node_id),
                ConfChangeKind::UpdateNode => {}
            }
        }
        if self.membership.voters.incoming.is_empty() {
            return Err(ChangeError::NoVotersLeft);
        }
        Ok(())
    }

    fn make_voter(&mut self, id: NodeId) {
        self.progress_or_new(id).is_learner = false;
        take(&mut self.membership.learners, id);
        take(&mut self.membership.learners_next, id);
        insert(&mut self.membership.voters.incoming, id);
    }

    fn make_learner(&mut self, id: NodeId) {
        if self.membership.learners.contains(&id) {
            return;
        }
        take(&mut self.membership.voters.incoming, id);
        if self.membership.voters.outgoing.contains(&id) {
            // Still a voter of the outgoing half, and nobody may be both: demoted on leaving.
            self.progress_or_new(id);
            insert(&mut self.membership.learners_next, id);
        } else {
            self.progress_or_new(id).is_learner = true;
            insert(&mut self.membership.learners, id);
        }
    }

    fn remove(&mut self, id: NodeId) {
        take(&mut self.membership.voters.incoming, id);
        take(&mut self.membership.learners, id);
        take(&mut self.membership.learners_next, id);
        if !self.membership.voters.outgoing.contains(&id) {
            self.forget_progress(id);
        }
    }

    fn progress_mut(&mut self, id: NodeId) -> Option<&mut Progress> {
        self.progress.iter_mut().find(|(member, _)| *member == id).map(|(_, progress)| progress)
    }

    fn progress_or_new(&mut self, id: NodeId) -> &mut Progress {
        let at = match self.progress.binary_search_by_key(&id, |(member, _)| *member) {
            Ok(at) => at,
            Err(at) => {
                let mut progress = Progress::new(self.next, self.tracker.new_inflights(), false);
                // Give a new member until the next quorum check to show itself.
                progress.recent_active = true;
                self.progress.insert(at, (id, progress));
                at
            }
        };
        &mut self.progress[at].1
    }

    fn forget_progress(&mut self, id: NodeId) {
        self.progress.retain(|(member, _)| *member != id);
    }

    fn finish(self) -> Result<Changed, ChangeError> {
        self.check()?;
        Ok((self.membership, self.progress))
    }

    fn check(&self) -> Result<(), ChangeError> {
        let Membership { voters, learners, learners_next, auto_leave } = &self.membership;
        let progress = |id: &NodeId| {
            let at = self.progress.binary_search_by_key(id, |(member, _)| *member).ok()?;
            Some(&self.progress[at].1)
        };
        let all = [&voters.incoming, &voters.outgoing, learners, learners_next];
        if all.into_iter().flatten().any(|id| progress(id).is_none()) {
            return Err(ChangeError::Broken("a member has no progress"));
        }
        if learners_next.iter().any(|id| !voters.outgoing.contains(id)) {
            return Err(ChangeError::Broken("a learner-to-be is not an outgoing voter"));
        }
        if learners_next.iter().any(|id| progress(id).is_some_and(|p| p.is_learner)) {
            return Err(ChangeError::Broken("a learner-to-be is a learner already"));
        }
        if learners.iter().any(|id| voters.contains(*id)) {
            return Err(ChangeError::Broken("a learner is a voter"));
        }
        if learners.iter().any(|id| progress(id).is_some_and(|p| !p.is_learner)) {
            return Err(ChangeError::Broken("a learner is not marked as one"));
        }
        if !voters.is_joint() && (!learners_next.is_empty() || *auto_leave) {
            return Err(ChangeError::Broken("joint leftovers without a joint configuration"));
        }
        Ok(())
    }
}

fn insert(ids: &mut Vec<NodeId>, id: NodeId) {
    if let Err(at) = ids.binary_search(&id) {
        ids.insert(at, id);
    }
}

fn take(ids: &mut Vec<NodeId>, id: NodeId) {
    if let Ok(at) = ids.binary_search(&id) {
        ids.remove(at);
    }
}
