//! How a member is started.

use norn_server::runtime::net::address;

use super::state::State;
use crate::rng::Rng;

/// The command line of a member.
pub fn of(state: &State, host: usize) -> Vec<String> {
    let options = &state.options;
    let url = |host: usize, port: u16| format!("http://{}:{port}", address(host));
    let is_founder = host < options.nodes;
    let known = state.membership.borrow();
    let belongs = |n: &usize| if is_founder { *n < options.nodes } else { known.has(*n) };
    let members = (0..options.machines()).filter(belongs);
    let members = members.map(|n| format!("n{}={}", n + 1, url(n, 2380)));
    let own = Own::of(state, host);
    let flags = [
        ("name", format!("n{}", host + 1)),
        ("data-dir", format!("n{}.norn", host + 1)),
        ("listen-peer-urls", url(host, 2380)),
        ("initial-advertise-peer-urls", url(host, 2380)),
        ("listen-client-urls", url(host, 2379)),
        ("advertise-client-urls", url(host, 2379)),
        ("initial-cluster", members.collect::<Vec<_>>().join(",")),
        ("initial-cluster-token", "sim".to_owned()),
        ("initial-cluster-state", if is_founder { "new" } else { "existing" }.to_owned()),
        ("heartbeat-interval", options.tick_ms.to_string()),
        ("election-timeout", (options.tick_ms * u64::from(options.election_ticks)).to_string()),
        ("pre-vote", own.pre_vote.to_string()),
        ("snapshot-count", own.snapshot_count.to_string()),
        ("snapshot-catchup-entries", own.catch_up_entries.to_string()),
        ("watch-progress-notify-interval", format!("{}ms", own.watch_progress_ms)),
        ("strict-reconfig-check", own.strict_reconfig.to_string()),
        ("feature-gates", format!("LeaseCheckpoint={}", own.lease_checkpoint)),
    ];
    let mut args: Vec<String> =
        flags.map(|(name, value)| format!("--{name}={value}")).into_iter().collect();
    if options.quota_bytes > 0 {
        // (Once all is healed, the operator gives them as much room as they want.)
        let room = if state.is_healed.get() { -1 } else { options.quota_bytes.cast_signed() };
        args.push(format!("--quota-backend-bytes={room}"));
    }
    args
}

/// Flags that need not be the same on all members. (Those about elections must: etcd says so, and so does Norn.)
struct Own {
    pre_vote: bool,
    snapshot_count: u64,
    catch_up_entries: u64,
    watch_progress_ms: u64,
    strict_reconfig: bool,
    lease_checkpoint: bool,
}

impl Own {
    fn of(state: &State, host: usize) -> Own {
        let options = &state.options;
        if !options.hardships.has_mixed_flags {
            return Own {
                pre_vote: options.pre_vote,
                snapshot_count: options.snapshot_count,
                catch_up_entries: options.catch_up_entries,
                watch_progress_ms: options.watch_progress_ms,
                strict_reconfig: options.strict_reconfig,
                lease_checkpoint: options.lease_checkpoint,
            };
        }
        // As in a cluster whose members are changed one after the other: every start has flags of its own.
        let life = state.members.borrow()[host].incarnation;
        let mut rng = Rng::new(options.seed ^ 0x466c_6167_7300 ^ ((host as u64) << 48 | life));
        Own {
            pre_vote: rng.permille(500),
            snapshot_count: *rng.pick(&[10, 60, options.snapshot_count]),
            catch_up_entries: *rng.pick(&[10, 100, options.catch_up_entries]),
            watch_progress_ms: *rng.pick(&[200, 2_000, options.watch_progress_ms]),
            strict_reconfig: rng.permille(300),
            lease_checkpoint: rng.permille(500),
        }
    }
}
