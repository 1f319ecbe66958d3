//! etcd's protobuf messages, generated from the `.proto` files in `etcd/`, one module per package; nothing by hand.
//! With the feature `grpc` the modules also hold tonic's client and server stubs.

#![allow(clippy::all, unreachable_pub, missing_docs)]

macro_rules! package {
    ($module:ident) => {
        pub mod $module {
            include!(concat!(env!("OUT_DIR"), "/", stringify!($module), ".rs"));
        }
    };
}

package!(authpb);
package!(etcdserverpb);
package!(leasepb);
package!(membershippb);
package!(mvccpb);
package!(v3electionpb);
package!(v3lockpb);

/// What the `.proto` files say, as a `google.protobuf.FileDescriptorSet`: for whoever must know the names of fields.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
