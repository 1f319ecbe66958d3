//! The catalogue: what would be wrong, where the mistake was made before, and where to look for it.

/// The program that looks for a bug, and with which faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hunt {
    /// The simulator's core tier, with this profile.
    Core(&'static str),
    /// The simulator's cluster tier, with this profile.
    Cluster(&'static str),
    /// A fuzz target (`fuzz/exam`).
    Fuzz,
}

macro_rules! catalogue {
    ($($(#[doc = $cause:literal])+ $bug:ident: $origin:literal, $hunt:expr;)*) => {
        /// The catalogue. The text is what would be wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $($(#[doc = $cause])+ $bug,)*
        }

        impl Bug {
            pub const ALL: &[Bug] = &[$(Bug::$bug),*];

            pub fn name(self) -> &'static str {
                match self { $(Bug::$bug => stringify!($bug),)* }
            }

            /// What is wrong, in one line.
            pub fn cause(self) -> &'static str {
                match self { $(Bug::$bug => concat!($($cause),+).trim_ascii(),)* }
            }

            /// Who made this mistake, or one like it: an issue or pull request of etcd unless it says otherwise, or a section
            /// of the Raft thesis.
            pub fn origin(self) -> &'static str {
                match self { $(Bug::$bug => $origin,)* }
            }

            pub fn hunt(self) -> Hunt {
                match self { $(Bug::$bug => $hunt,)* }
            }
        }
    };
}

use Hunt::{Cluster, Core, Fuzz};

catalogue! {
    // Raft: votes.
    /// The vote is not read back after a restart.
    VoteForgotten: "thesis 3.8", Core("storm");
    /// A candidate counts its own vote before it is durable, and asks for others.
    OwnVoteEarly: "thesis 3.8", Core("storm");
    /// A candidate asks for votes before its own is durable.
    VoteAskedEarly: "found by this simulator (storm 732); etcd-io/raft with asynchronous writes", Core("storm");
    /// A second answer of the same voter counts as a second vote.
    VotesCountedTwice: "thesis 3.4", Core("storm");
    /// A node votes for whoever asks, also twice in a term.
    VoteTwice: "thesis 3.4", Core("storm");
    /// Votes and acknowledgements of an older term count in this one.
    StaleReplies: "thesis 3.3", Core("storm");
    /// Messages of an older term are ignored without telling the sender of the new one.
    LowerTermSilent: "8501, PR 8525", Core("storm");

    // Raft: the log.
    /// A leader counts its own entries before they are durable.
    OwnAppendEarly: "thesis 10.2.1", Core("storm");
    /// A single voter applies and answers what is not durable yet.
    SoleVoterHasty: "14370", Core("storm");
    /// Entries and votes count as saved when they were written, without a sync.
    SyncIgnored: "14143 (Jepsen)", Core("storm");
    /// The index that a majority has is looked for one place too high.
    QuorumOffByOne: "databendlabs/openraft 1802", Core("storm");
    /// A leader commits entries of older terms by counting who has them.
    OldTermCounted: "logcabin 44; thesis 3.6.2", Core("storm");
    /// A follower commits what it has, also where that was not compared with the leader's log.
    CommitUnverified: "thesis 3.5", Core("storm");
    /// An append replaces everything behind its predecessor, also entries that match.
    AppendTruncates: "thesis 3.5", Core("storm");
    /// A snapshot replaces the log even if that goes on beyond it.
    SnapshotOverwrites: "thesis 5.1", Core("storm");
    /// A write that was acknowledged counts for whatever entry has that index now.
    LogStableWithoutTerm: "etcd-io/raft, append ABA race", Core("storm");
    /// Handing out committed entries in pages takes the commit index back to the page.
    CommitPaged: "etcd-io/raft PR 10063", Core("storm");

    // Raft: reads.
    /// A linearizable read is answered without asking whether the leader still leads.
    ReadUnconfirmed: "thesis 6.4", Core("storm");
    /// A new leader answers reads before it has committed anything.
    ReadBeforeCommit: "7331, 12680", Core("storm");
    /// Rounds of reads share their numbers, so that a late echo of one confirms the next.
    ReadNumberReused: "20418, PR 21399", Core("storm");
    /// A leader trusts its clock instead of asking for echoes.
    ReadByLease: "thesis 6.4.1", Core("storm");
    /// A read is released one entry before what it must see is applied.
    ReadReleasedEarly: "constructed", Core("storm");

    // Raft: membership.
    /// A leader accepts a membership change before it has committed anything.
    ChangeBeforeCommit: "raft-dev 2015, single-server changes", Core("storm");
    /// A membership change is accepted while another is not applied.
    TwoChangesPending: "thesis 4.1", Core("storm");
    /// A restart makes voters of learners.
    LearnerRestoredAsVoter: "etcd-io/raft e515a67, bd3c759", Core("storm");
    /// What a learner has counts towards the majority that commits.
    LearnerCounts: "thesis 4.2.1", Core("storm");

    // Storage.
    /// The applied index is stored in a batch of its own, before what was applied.
    AppliedAhead: "13766", Core("storm");
    /// The applied index that is stored trails what was applied.
    AppliedBehind: "11651, PR 11652", Core("storm");
    /// A checkpoint has the applied index of the one before.
    CheckpointForgets: "14685, PR 14733", Core("storm");
    /// The WAL knows of a checkpoint before that is durable.
    CheckpointRecordedEarly: "10219, PR 11888", Core("storm");
    /// The name of a new WAL segment is not synced.
    CutUnsynced: "14098", Core("storm");
    /// The commit index is not read back after a restart.
    CommitForgotten: "constructed", Core("storm");
    /// The WAL reader takes a record whose checksum does not hold.
    WalChecksumUnread: "11918, PR 11924", Core("storm");
    /// A restart leaves out the last entry of the WAL.
    WalTailUnread: "14098 (Jepsen)", Core("storm");
    /// A received database is read into whatever the last attempt left behind.
    ImportOverLeftovers: "PR 11613", Core("storm");
    /// Cleaning up keeps the newest received database instead of the one that is about to be read.
    ReceivedSwept: "18055, 20133, 20657", Core("storm");
    /// A snapshot replaces the state while writes of the old one are under way.
    InstallBesideWrites: "20271, PR 20553", Core("storm");
    /// A snapshot replaces the state, but not the leases in memory.
    LeasesKept: "14571", Core("storm");

    // The key space.
    /// A restart takes the highest revision of a live key for the current one.
    RevisionOfSurvivors: "17780", Core("storm");
    /// A restart knows only the newest revision of a key.
    RestoreReplaces: "PR 8127", Core("storm");
    /// Compaction at the revision of a deletion drops the tombstone.
    TombstoneDropped: "18089", Core("storm");
    /// Compaction at the revision of a deletion drops the tombstone if a restart found nothing else of the key.
    TombstoneAloneDropped: "19179, PR 19188", Core("storm");
    /// Compaction takes the revision that a reader at its own revision needs.
    CompactionTakesLive: "constructed", Core("storm");
    /// A put may name a lease that is gone.
    PutWithoutLease: "Jepsen etcd 3.4.3", Core("storm");
    /// Members that have nobody to answer skip the ranges of a transaction, and the errors these make.
    TxnRangeSkipped: "18667", Core("storm");
    /// A transaction that fails in the middle leaves its first half behind.
    TxnHalfApplied: "PR 18799", Core("storm");
    /// Whether a put fits the quota is decided when it is applied, by the member's own size.
    QuotaInApply: "constructed", Core("storm");

    // Watching.
    /// A request for progress is answered with the current revision although events are waiting.
    ProgressUnsynced: "15220", Core("storm");
    /// The cursor of a watcher that is up to date stays behind; a snapshot sends it back there.
    CursorLeftBehind: "15271", Core("storm");
    /// A watcher that catches up is told the last revision of each step twice.
    CatchUpOverlaps: "17247, PR 17228", Core("storm");
    /// A slow watcher whose revisions were compacted goes on behind them, and is not told.
    CancelSkipped: "17529, PR 17555", Core("storm");
    /// A watch of the future begins now once a snapshot was received.
    FutureLowered: "20221, PR 20281", Core("storm");
    /// A watch that resumes at a revision begins with the one after it.
    WatchSkips: "constructed", Core("storm");
    /// Watchers are told of a transaction before reads at that member show it.
    ReadBehindWatch: "constructed", Core("storm");
    /// The previous value of an event is the one it has itself.
    PrevValueIsOwn: "constructed", Core("storm");

    // Limits.
    /// A watch stream has room however many responses are on their way.
    WatchRoomUnread: "constructed", Core("storm");
    /// The log in memory is kept for members that are behind, whatever its size.
    LogBytesUnread: "constructed", Core("storm");
    /// Applying goes on, however far the disk of the revision log is behind.
    UnwrittenUnbounded: "constructed", Core("storm");
    /// A call whose caller is gone is kept until it can be answered.
    ForgottenKept: "constructed", Core("storm");

    // Leases.
    /// A leader that was replaced keeps its clocks, and revokes what the new one renews.
    RevokeByExLeader: "12528, 15247", Core("storm");
    /// A leader that stood still renews leases without proving that it leads.
    RenewUnproved: "PR 20615", Core("storm");
    /// A new leader starts no clocks for the leases that there are.
    LeaseClockStopped: "9888, PR 13508", Core("storm");

    // The server around the node.
    /// A new stream of appends to a member goes on with the positions of the one before.
    StreamGoesOn: "constructed", Cluster("storm");

    // What only the fuzz targets are examined with.
    /// A torn tail of the WAL is reported and left in the file.
    WalTailUnrepaired: "14140", Fuzz;
    /// The revision log takes a batch that does not continue the chain.
    RevlogChainUnread: "constructed", Fuzz;
    /// Elements of a bbolt page are not checked to end within it.
    BoltElementUnchecked: "constructed", Fuzz;
    /// A snapshot file is taken whatever its checksum says.
    SnapChecksumUnread: "constructed", Fuzz;
    /// A proposal that was lost is never answered.
    ProposalNeverExpires: "constructed", Fuzz;
    /// A stream decoder forgets where the last append ended.
    AppendPositionKept: "constructed", Fuzz;
    /// The length of a field is believed, although the request ends before.
    RequestLengthBelieved: "constructed", Fuzz;
    /// A duration without a unit means seconds.
    DurationWithoutUnit: "constructed", Fuzz;
    /// The digits of an escape in JSON are not looked at.
    JsonEscapeUnread: "constructed", Fuzz;
    /// A duration in a configuration file is taken for milliseconds.
    FileDurationInMillis: "constructed", Fuzz;
}
