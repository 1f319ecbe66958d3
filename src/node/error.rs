//! What a client is told when it cannot be told "done": etcd's codes and texts, in one table.

use std::fmt;

/// gRPC status codes that a service can answer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $code:ident, $text:literal;)*) => {
        /// A refused or failed request. Clients of etcd map these by text, so code and text are both exact.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Error {
            $($(#[$doc])* $name,)*
            /// The request bytes are not the message they should be.
            Malformed(String),
            /// The method exists, but this version of Norn does not serve it.
            Unimplemented(&'static str),
            /// The store could not read its own data; the node stops.
            Storage(String),
        }

        impl Error {
            /// Every error that has a fixed text.
            pub const FIXED: &[Error] = &[$(Error::$name),*];

            pub fn code(&self) -> Code {
                match self {
                    $(Error::$name => Code::$code,)*
                    Error::Malformed(_) | Error::Storage(_) => Code::Internal,
                    Error::Unimplemented(_) => Code::Unimplemented,
                }
            }
        }

        impl fmt::Display for Error {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Error::$name => f.write_str($text),)*
                    Error::Malformed(what) => write!(f, "grpc: error unmarshalling request: {what}"),
                    Error::Unimplemented(what) => write!(f, "{what}"),
                    Error::Storage(what) => write!(f, "{what}"),
                }
            }
        }
    };
}

errors! {
    EmptyKey = InvalidArgument, "etcdserver: key is not provided";
    KeyNotFound = InvalidArgument, "etcdserver: key not found";
    ValueProvided = InvalidArgument, "etcdserver: value is provided";
    LeaseProvided = InvalidArgument, "etcdserver: lease is provided";
    TooManyOps = InvalidArgument, "etcdserver: too many operations in txn request";
    DuplicateKey = InvalidArgument, "etcdserver: duplicate key given in txn request";
    InvalidSortOption = InvalidArgument, "etcdserver: invalid sort option";
    Compacted = OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    FutureRevision = OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    NoSpace = ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    LeaseNotFound = NotFound, "etcdserver: requested lease not found";
    LeaseExists = FailedPrecondition, "etcdserver: lease already exists";
    LeaseTtlTooLarge = OutOfRange, "etcdserver: too large lease TTL";
    MemberExists = FailedPrecondition, "etcdserver: member ID already exist";
    PeerUrlExists = FailedPrecondition, "etcdserver: Peer URLs already exists";
    /// etcd maps this one to an object without a status, so its code is Unknown.
    MemberNotEnoughStarted = Unknown,
        "etcdserver: re-configuration failed due to not enough started members";
    MemberBadUrls = InvalidArgument, "etcdserver: given member URLs are invalid";
    MemberNotFound = NotFound, "etcdserver: member not found";
    MemberNotLearner = FailedPrecondition, "etcdserver: can only promote a learner member";
    LearnerNotReady = FailedPrecondition,
        "etcdserver: can only promote a learner member which is in sync with leader";
    TooManyLearners = FailedPrecondition, "etcdserver: too many learner members in cluster";
    RequestTooLarge = InvalidArgument, "etcdserver: request is too large";
    /// As [`Error::MemberNotEnoughStarted`], code Unknown.
    TooManyRequests = Unknown, "etcdserver: too many requests";
    InvalidAuthToken = Unauthenticated, "etcdserver: invalid auth token";
    NotEnabledAuth = FailedPrecondition, "etcdserver: authentication is not enabled";
    NoLeader = Unavailable, "etcdserver: no leader";
    NotLeader = FailedPrecondition, "etcdserver: not leader";
    LeaderChanged = Unavailable, "etcdserver: leader changed";
    NotCapable = FailedPrecondition, "etcdserver: not capable";
    InvalidClientApiVersion = InvalidArgument, "etcdserver: invalid client api version";
    Stopped = Unavailable, "etcdserver: server stopped";
    Timeout = Unavailable, "etcdserver: request timed out";
    TimeoutDueToLeaderFail = Unavailable,
        "etcdserver: request timed out, possibly due to previous leader failure";
    TimeoutDueToConnectionLost = Unavailable,
        "etcdserver: request timed out, possibly due to connection lost";
    TimeoutWaitAppliedIndex = Unavailable,
        "etcdserver: request timed out, waiting for the applied index took too long";
    Unhealthy = Unavailable, "etcdserver: unhealthy cluster";
    Corrupt = DataLoss, "etcdserver: corrupt cluster";
    NotSupportedForLearner = FailedPrecondition, "etcdserver: rpc not supported for learner";
    WrongDowngradeVersionFormat = InvalidArgument,
        "etcdserver: wrong downgrade target version format";
    InvalidDowngradeTargetVersion = InvalidArgument, "etcdserver: invalid downgrade target version";
    ClusterVersionUnavailable = FailedPrecondition,
        "etcdserver: cluster version not found during downgrade";
    DowngradeInProcess = FailedPrecondition,
        "etcdserver: cluster has a downgrade job in progress";
    NoInflightDowngrade = FailedPrecondition, "etcdserver: no inflight downgrade job";
    BadLeaderTransferee = FailedPrecondition, "etcdserver: bad leader transferee";
    TransferTimeout = Unknown, "etcdserver: request timed out, leader transfer took too long";
    NotPrimaryLessor = Unknown, "not a primary lessor";
    ProposalDropped = Unknown, "raft proposal dropped";
    UnknownMethod = Unknown, "etcdserver: unknown method";
    /// The client's own deadline, or a write without a leader.
    DeadlineExceeded = DeadlineExceeded, "context deadline exceeded";
    WatchCanceled = Canceled, "etcdserver: watch canceled";
    RangeStreamSort = Unimplemented, "RangeStream does not support custom sort orders";
    RangeStreamFilter = Unimplemented, "RangeStream does not support revision filters";
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_unique() {
        let mut texts: Vec<String> = Error::FIXED.iter().map(ToString::to_string).collect();
        texts.sort();
        texts.dedup();
        assert_eq!(texts.len(), Error::FIXED.len());
    }
}
