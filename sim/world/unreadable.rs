//! Disks of which something cannot be read: the member must stop, or not even start, and say which file it is. Then its machine gets
//! a disk that can be read.

use super::World;
use crate::history::Failure;

/// Until the machine is there again.
const MENDED_US: u64 = 100_000;

impl World {
    pub(super) fn unreadable(&mut self, node: usize, nth: u64, at_start: bool, down_us: u64) {
        if self.members[node].host.is_none() {
            return;
        }
        if at_start {
            self.members[node].boot_read = nth;
            self.crash(node, true, down_us);
        } else {
            self.members[node].disk.inner.fail_read(nth);
        }
    }

    /// A member noticed.
    pub(super) fn unread(&mut self, node: usize, reason: &str) {
        self.counts.unread += 1;
        let (member, disk) = (&self.members[node], &self.members[node].disk.inner);
        let file = disk.unreadable().map(|file| file.to_string()).unwrap_or_default();
        // (It may have met something else first.)
        let is_else = member.is_rotten || member.may_fail || disk.is_limited();
        if !is_else && !reason.contains(&file) {
            let detail = format!("n{}, of {file}: {reason}", node + 1);
            return self.fail(Failure::new("An error of the disk names the file.", detail));
        }
        self.crash(node, true, MENDED_US);
    }
}
