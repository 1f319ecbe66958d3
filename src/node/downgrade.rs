//! Going back by one minor version: an operator enables it, the leader then lowers the cluster's version, members are replaced by
//! older ones one by one, and a leader that sees only such ones ends it. Members of this version never see that last part
//! of their own downgrade; but one of them may lead a cluster that comes from the next version.

use bytes::Bytes;
use norn_proto::{etcdserverpb as pb, membershippb};
use norn_storage::revlog::Table;
use pb::downgrade_request::DowngradeAction;

use crate::cluster::{parse_version, short_version};
use crate::command::Command;
use crate::input::Token;
use crate::reads::ReadKind;
use crate::wire::Writer;
use crate::{Error, Node, Reader};

/// What a call asks, once it is known to be well-formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Downgrade {
    Validate((u64, u64)),
    Enable((u64, u64)),
    Cancel,
}

/// As it is stored.
#[derive(serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Stored {
    #[serde(default)]
    target_version: String,
    #[serde(default)]
    enabled: bool,
}

impl<R: Reader> Node<R> {
    /// The version to which the cluster goes back, as it was set.
    pub fn downgrade_target(&self) -> Option<String> {
        let table = self.backend.log.table(Table::Cluster);
        let stored: Stored = serde_json::from_slice(&table.get(&b"downgrade"[..])?).ok()?;
        stored.enabled.then_some(stored.target_version)
    }

    /// Whether one is under way is asked with a read index: this member may be behind.
    pub(crate) fn downgrade(
        &mut self,
        token: Token,
        r: &pb::DowngradeRequest,
    ) -> Result<Option<Bytes>, Error> {
        let target = || parse_target(&r.version).ok_or(Error::WrongDowngradeVersionFormat);
        let downgrade = match DowngradeAction::try_from(r.action) {
            Ok(DowngradeAction::Validate) => Downgrade::Validate(target()?),
            Ok(DowngradeAction::Enable) => Downgrade::Enable(target()?),
            Ok(DowngradeAction::Cancel) => Downgrade::Cancel,
            Err(_) => return Err(Error::UnknownMethod),
        };
        if self.cluster_version.is_none() && downgrade != Downgrade::Cancel {
            return Err(Error::ClusterVersionUnavailable);
        }
        self.read(token, ReadKind::Downgrade(downgrade));
        Ok(None)
    }

    pub(crate) fn downgrade_confirmed(
        &mut self,
        token: Token,
        downgrade: Downgrade,
    ) -> Result<Option<Bytes>, Error> {
        let is_under_way = self.downgrade_target().is_some();
        let (target, is_enable) = match downgrade {
            Downgrade::Validate(target) => (target, false),
            Downgrade::Enable(target) => (target, true),
            Downgrade::Cancel if is_under_way => {
                let cancel = membershippb::DowngradeInfoSetRequest::default();
                return self.propose(token, &Command::DowngradeInfoSet(cancel));
            }
            Downgrade::Cancel => return Err(Error::NoInflightDowngrade),
        };
        let current = self.cluster_version.as_deref().and_then(parse_version);
        if current.and_then(one_below) != Some(target) {
            return Err(Error::InvalidDowngradeTargetVersion);
        }
        if is_under_way {
            return Err(Error::DowngradeInProcess);
        }
        if !is_enable {
            return Ok(Some(self.downgrade_reply()));
        }
        let ver = format!("{}.{}.0", target.0, target.1);
        let set = membershippb::DowngradeInfoSetRequest { enabled: true, ver };
        self.propose(token, &Command::DowngradeInfoSet(set))
    }

    pub(crate) fn apply_downgrade(&mut self, r: &membershippb::DowngradeInfoSetRequest) -> Bytes {
        let target = if r.enabled { r.ver.as_str() } else { "" };
        let target = serde_json::Value::from(target);
        let json = format!("{{\"target-version\":{target},\"enabled\":{}}}", r.enabled);
        self.backend.set(Table::Cluster, Bytes::from_static(b"downgrade"), json);
        self.downgrade_reply()
    }

    /// A header, and the version of the cluster at this moment.
    pub fn downgrade_reply(&self) -> Bytes {
        let mut w = Writer::default();
        w.header(&self.header());
        w.bytes(2, self.cluster_version.as_deref().map_or("", short_version).as_bytes());
        w.finish()
    }

    /// The version that the cluster should have while it goes back to `target`; `None`: the one it has. `lowest` is what members run.
    pub(crate) fn lowered(
        &mut self,
        target: &str,
        current: (u64, u64),
        lowest: (u64, u64),
    ) -> Option<(u64, u64)> {
        let wanted = parse_version(target)?;
        if wanted == current {
            return None;
        }
        let refused = if one_below(current) != Some(wanted) {
            Some(("Cannot downgrade from cluster-version to downgrade-target", current))
        } else if one_below(lowest) != Some(wanted) {
            Some(("Cannot downgrade from minimal-server-version to downgrade-target", lowest))
        } else {
            None
        };
        let Some((text, from)) = refused else { return Some(wanted) };
        let from = format!("{}.{}.0", from.0, from.1);
        self.warn(text, vec![("downgrade-target", target.to_owned()), ("from", from)]);
        None
    }

    /// The leader ends a downgrade when nobody is left who is not of the target's version.
    pub(crate) fn check_downgrade(&mut self) {
        let Some(every_ms) = self.config.downgrade_check_ms else { return };
        if self.now < self.next_downgrade_check {
            return;
        }
        // (All members keep the time, so that a new leader does not begin anew.)
        self.next_downgrade_check = self.now + every_ms;
        if self.raft.is_leader() && self.lessor.is_primary() {
            self.end_downgrade();
        }
    }

    fn end_downgrade(&mut self) {
        let Some(target) = self.downgrade_target() else { return };
        let wanted = parse_version(&target);
        let own = parse_version(crate::SERVER_VERSION);
        let version = |id| match id == self.id {
            true => own,
            false => self.peers.get(&id).and_then(|peer| peer.version),
        };
        if wanted.is_some() && self.members.iter().all(|member| version(member.id) == wanted) {
            self.info("the cluster has been downgraded", vec![("cluster-version", target)]);
            let cancel = membershippb::DowngradeInfoSetRequest::default();
            self.propose_own(&Command::DowngradeInfoSet(cancel));
        }
    }
}

/// Going below `X.0` leads nowhere.
fn one_below((major, minor): (u64, u64)) -> Option<(u64, u64)> {
    Some((major, minor.checked_sub(1)?))
}

/// `X.Y.Z`, with what semantic versions may have behind it, or `X.Y`; only major and minor count.
fn parse_target(text: &str) -> Option<(u64, u64)> {
    parse_semantic(text).or_else(|| parse_semantic(&format!("{text}.0")))
}

fn parse_semantic(text: &str) -> Option<(u64, u64)> {
    let is_plain = |part: &str| {
        part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
    };
    let (text, metadata) = text.split_once('+').unwrap_or((text, ""));
    let (text, pre_release) = text.split_once('-').unwrap_or((text, ""));
    if !is_plain(metadata) || !is_plain(pre_release) {
        return None;
    }
    let numbers: Option<Vec<u64>> = text
        .splitn(3, '.')
        .map(|part| part.parse::<i64>().ok().and_then(|number| u64::try_from(number).ok()))
        .collect();
    match numbers?[..] {
        [major, minor, _] => Some((major, minor)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        for text in ["3.6", "3.6.0", "3.6.9", "3.6.0-rc.1", "3.6.0+x", "03.6"] {
            assert_eq!(parse_target(text), Some((3, 6)), "{text}");
        }
        for text in ["", "3", "v3.6", "3.6.0.0", "3.x", "3.6.0-é", "-3.6", "3..6", "3.6 "] {
            assert_eq!(parse_target(text), None, "{text}");
        }
    }
}
