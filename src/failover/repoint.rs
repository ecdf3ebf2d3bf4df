//! Makes every other node follow the primary: siblings after a change, the former primary when it
//! returns, strays. Always straight to the primary, so that no loop can arise.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::core::{Core, Input};
use super::node::Node;
use super::{Action, NodeOp, NodeOpOutcome, OpId, Record};
use crate::resp::info::{NodeInfo, Role};
use crate::topology::{BytesLost, NodeId, Timestamp};

/// How long a replica may have no link to the primary, or one through another replica, before it is
/// pointed at the primary.
const LOST_LINK: Duration = Duration::from_secs(1);
/// How long the other monitors leave a node that says it is primary to the one that decided: only that one
/// can complete its report with the bytes that are nowhere else.
const DECIDER_FIRST: Duration = Duration::from_secs(1);
/// Waits before a refused or unanswered repointing is tried again: doubled up to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// A full resync that is not seen to begin or end in this time gives its place to the next node.
const SYNC_LIMIT: Duration = Duration::from_secs(60);

/// What is being done to one node.
#[derive(Clone, Debug)]
enum Task {
    /// It says that it is primary: no write may reach it before it follows.
    Fencing { op: OpId },
    /// The repointing was sent.
    Repointing { op: OpId, full: bool },
    /// Repointed; until its link is up.
    Syncing { since: Timestamp, full: bool },
    /// Failed; try again at `at`.
    Retry { at: Timestamp },
}

/// See the head of the file.
#[derive(Clone, Debug, Default)]
pub(super) struct Repointer {
    tasks: BTreeMap<NodeId, Task>,
    /// Nodes that have to follow the primary directly after a change of primary.
    flatten: BTreeSet<NodeId>,
    /// Since when a replica has had no link.
    unlinked: BTreeMap<NodeId, Timestamp>,
    /// Since when a node has said that it is primary too.
    strays: BTreeMap<NodeId, Timestamp>,
    /// Since when the record has been known to be newer than that.
    confirmed: BTreeMap<NodeId, Timestamp>,
    /// Nodes that refuse to be fenced; told once.
    unfenced: BTreeSet<NodeId>,
    /// Failures in a row, for the waits between tries; the last reason is told once.
    failures: BTreeMap<NodeId, (u32, String)>,
}

/// What a node needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    Demotion,
    Repointing,
}

impl Repointer {
    /// After a change of primary: chains are flattened, everybody follows `primary` directly.
    /// `demotion` is a repointing that was sent already.
    pub(super) fn flatten(
        &mut self,
        core: &Core,
        primary: &NodeId,
        demotion: Option<(NodeId, OpId)>,
    ) {
        if let Some((node, op)) = demotion {
            let full = false;
            self.tasks.insert(node, Task::Repointing { op, full });
        }
        self.flatten = core
            .members()
            .into_iter()
            .filter(|n| n != primary)
            .collect();
    }

    /// In words, for the status.
    pub(super) fn describe(&self, node: &NodeId) -> Option<String> {
        let why = self.failures.get(node).map(|(_, why)| why.as_str());
        match self.tasks.get(node)? {
            Task::Fencing { .. } => Some("being fenced".to_owned()),
            Task::Repointing { .. } => Some("being repointed".to_owned()),
            Task::Syncing { full: true, .. } => Some("in a full resync".to_owned()),
            Task::Syncing { full: false, .. } => Some("catching up".to_owned()),
            Task::Retry { .. } => Some(format!("will be tried again: {}", why.unwrap_or("failed"))),
        }
    }

    /// Takes in the answers to its own ops.
    pub(super) fn take_in(&mut self, core: &mut Core, input: &Input) {
        let Input::Done(done, outcome) = input else {
            return;
        };
        let found = self.tasks.iter().find_map(|(node, task)| match task {
            Task::Fencing { op } | Task::Repointing { op, .. } if op == done => {
                Some((node.clone(), task.clone()))
            }
            _ => None,
        });
        let Some((node, task)) = found else { return };
        match (task, outcome) {
            (Task::Fencing { .. }, NodeOpOutcome::Done(info)) => {
                diverged(core, &node, info);
                self.send(core, &node, true);
            }
            // REPLICAOF stops the writes as well, only later: two primaries that take writes are worse.
            (Task::Fencing { .. }, NodeOpOutcome::Refused(why)) => {
                if self.unfenced.insert(node.clone()) {
                    core.emit("-fence", Some(&node), why.clone(), true);
                }
                self.send(core, &node, true);
            }
            (Task::Repointing { full, .. }, NodeOpOutcome::Done(info))
                if info.role == Role::Replica =>
            {
                core.emit("+slave-reconf-sent", Some(&node), "", false);
                self.flatten.remove(&node);
                self.failures.remove(&node);
                self.unfenced.remove(&node);
                let since = core.now;
                self.tasks.insert(node, Task::Syncing { since, full });
            }
            (_, outcome) => {
                let why = match outcome {
                    NodeOpOutcome::Done(_) => "it is still a primary".to_owned(),
                    NodeOpOutcome::Refused(why) => why.clone(),
                    NodeOpOutcome::Unknown(_) => "no answer".to_owned(),
                    NodeOpOutcome::Unreachable(_) => "out of reach".to_owned(),
                };
                self.failed(core, node, why);
            }
        }
    }

    fn failed(&mut self, core: &mut Core, node: NodeId, why: String) {
        let (count, last) = self.failures.entry(node.clone()).or_default();
        if *last != why {
            *last = why.clone();
            core.emit("-slave-reconf", Some(&node), why, true);
        }
        let wait = (RETRY.0 * 2u32.saturating_pow(*count)).min(RETRY.1);
        *count = (*count + 1).min(8);
        let at = core.now + wait;
        self.tasks.insert(node, Task::Retry { at });
    }

    /// One look at every node; only while the published primary is verified and open.
    pub(super) fn step(&mut self, core: &mut Core, record: &Record) {
        if core.barred().is_some() {
            return;
        }
        let primary = core.node(&record.primary).and_then(|n| n.live().cloned());
        let Some(primary) = primary else { return };
        for node in core.members() {
            if node == record.primary {
                self.forget(&node);
                continue;
            }
            let Some(info) = core.node(&node).and_then(|n| n.live().cloned()) else {
                self.gone(&node);
                continue;
            };
            self.progress(core, &node, &info, &primary);
            if !self.tasks.contains_key(&node) {
                self.begin(core, record, &node, &info, &primary);
            }
        }
    }

    fn forget(&mut self, node: &NodeId) {
        self.tasks.remove(node);
        self.flatten.remove(node);
        self.strays.remove(node);
        self.confirmed.remove(node);
        self.unlinked.remove(node);
    }

    /// A node that does not answer holds no place in the queue of full resyncs.
    fn gone(&mut self, node: &NodeId) {
        self.strays.remove(node);
        self.confirmed.remove(node);
        self.unlinked.remove(node);
        if let Some(Task::Syncing { .. }) = self.tasks.get(node) {
            self.tasks.remove(node);
        }
    }

    /// Ends what is finished or due.
    fn progress(&mut self, core: &mut Core, node: &NodeId, info: &NodeInfo, primary: &NodeInfo) {
        match self.tasks.get(node) {
            Some(Task::Syncing { since, .. }) => {
                let linked = info.link_up && info.repl_id == primary.repl_id;
                let over = core.now - *since > SYNC_LIMIT && !info.sync_in_progress;
                let stray =
                    info.role == Role::Primary && core.node(node).is_some_and(|n| n.agreeing > 1);
                if linked || stray || over {
                    self.tasks.remove(node);
                }
                if linked {
                    core.emit("+slave-reconf-done", Some(node), "", false);
                }
            }
            Some(Task::Retry { at }) if core.now >= *at => {
                self.tasks.remove(node);
            }
            Some(Task::Retry { at }) => core.wake_at(*at),
            _ => {}
        }
    }

    fn begin(
        &mut self,
        core: &mut Core,
        record: &Record,
        node: &NodeId,
        info: &NodeInfo,
        primary: &NodeInfo,
    ) {
        match self.need(core, record, node, info, primary) {
            Need::Nothing => {}
            Need::Demotion => {
                if core.node(node).is_some_and(|n| n.agreeing < 2) {
                    core.probe(node);
                    return;
                }
                if !self.is_confirmed(core, node) || self.is_left_to_another(core, record, node) {
                    return;
                }
                core.emit("+convert-to-slave", Some(node), "it says primary", true);
                let op = core.node_op(node, NodeOp::Fence, core.policy.node_op_timeout);
                self.tasks.insert(node.clone(), Task::Fencing { op });
            }
            Need::Repointing => {
                let full = !partial_resync(info, primary);
                if full && self.full_resyncs() >= core.policy.parallel_full_syncs as usize {
                    return;
                }
                self.send(core, node, full);
            }
        }
    }

    fn send(&mut self, core: &mut Core, node: &NodeId, full: bool) {
        let Some(to) = core.record.as_ref().map(|r| r.primary.clone()) else {
            return;
        };
        let timeout = core.policy.node_op_timeout;
        let op = core.node_op(node, NodeOp::Repoint { to }, timeout);
        self.tasks
            .insert(node.clone(), Task::Repointing { op, full });
    }

    fn full_resyncs(&self) -> usize {
        self.tasks
            .values()
            .filter(|task| {
                matches!(
                    task,
                    Task::Repointing { full: true, .. } | Task::Syncing { full: true, .. }
                )
            })
            .count()
    }

    fn need(
        &mut self,
        core: &Core,
        record: &Record,
        node: &NodeId,
        info: &NodeInfo,
        primary: &NodeInfo,
    ) -> Need {
        if info.role == Role::Primary {
            self.strays.entry(node.clone()).or_insert(core.now);
            return Need::Demotion;
        }
        self.strays.remove(node);
        self.confirmed.remove(node);
        let upstream = info.upstream.as_ref().map(|(host, port)| (&**host, *port));
        if upstream.is_some() && upstream == record.primary.host_port() {
            self.flatten.remove(node);
            self.unlinked.remove(node);
            return Need::Nothing;
        }
        // A chain: fine for itself, but the next failover would have to follow it down.
        let chained = core
            .nodes
            .iter()
            .any(|n: &Node| n.id != record.primary && n.id.host_port() == upstream);
        let linked = info.link_up && info.repl_id == primary.repl_id && !chained;
        if linked || info.sync_in_progress {
            self.flatten.remove(node);
            self.unlinked.remove(node);
            return Need::Nothing;
        }
        if self.flatten.contains(node) {
            return Need::Repointing;
        }
        let since = *self.unlinked.entry(node.clone()).or_insert(core.now);
        if core.now - since >= LOST_LINK {
            Need::Repointing
        } else {
            Need::Nothing
        }
    }

    /// Where several monitors decide, another one may have just promoted this node: the record must
    /// have been read after it was first seen as primary.
    fn is_confirmed(&self, core: &mut Core, node: &NodeId) -> bool {
        let seen = self.strays.get(node).copied().unwrap_or(core.now);
        core.is_confirmed(seen)
    }

    /// Whether the monitor that decided should be given time to demote it.
    fn is_left_to_another(&mut self, core: &mut Core, record: &Record, node: &NodeId) -> bool {
        let since = *self.confirmed.entry(node.clone()).or_insert(core.now);
        let until = since + DECIDER_FIRST;
        let left = core.panel().is_some() && record.by != core.me && core.now < until;
        if left {
            core.wake_at(until);
        }
        left
    }
}

/// Whether `info`'s node can continue from the primary's stream without a full resync, as far as
/// histories tell (the backlog may still be too short).
fn partial_resync(info: &NodeInfo, primary: &NodeInfo) -> bool {
    let next = i64::try_from(info.offset.saturating_add(1)).unwrap_or(i64::MAX);
    if info.repl_id == primary.repl_id {
        info.offset <= primary.offset
    } else {
        info.repl_id == primary.repl_id2 && next <= primary.second_repl_offset
    }
}

/// The former primary is back and fenced: how many bytes only it has. Another process at its address
/// shows at most what it had saved, and takes the rest with it for ever.
fn diverged(core: &mut Core, node: &NodeId, info: &NodeInfo) {
    let primary = core.record.as_ref().and_then(|r| core.node(&r.primary));
    let heir = primary.and_then(Node::live).cloned();
    let former = core.former.take_if(|f| f.node == *node);
    let Some(heir) = heir else { return };
    let Some(former) = former else {
        return diverged_elsewhere(core, node, info, &heir);
    };
    if heir.repl_id2 != former.repl_id {
        return;
    }
    let beyond = |offset: u64| offset.saturating_sub(former.fork);
    let saved = u64::try_from(info.second_repl_offset).unwrap_or(0);
    let (bytes_lost, detail) = if info.run_id == former.run_id && info.repl_id == former.repl_id {
        let bytes = beyond(info.offset);
        let detail = format!("{bytes} bytes were only here");
        (BytesLost::Exactly(bytes), detail)
    } else if info.repl_id2 == former.repl_id && beyond(saved.saturating_sub(1)) > 0 {
        let bytes = beyond(saved.saturating_sub(1));
        let detail = format!("at least {bytes} bytes were only here");
        (BytesLost::AtLeast(bytes), detail)
    } else {
        return;
    };
    core.push(Action::AmendReport {
        epoch: former.epoch,
        bytes_lost,
    });
    let attention = bytes_lost != BytesLost::Exactly(0);
    core.emit("diverged", Some(node), detail, attention);
}

/// The same where another monitor decided, or this one before it was started anew: the report is not here,
/// and somebody should know all the same.
fn diverged_elsewhere(core: &mut Core, node: &NodeId, info: &NodeInfo, heir: &NodeInfo) {
    let fork = u64::try_from(heir.second_repl_offset).unwrap_or(0);
    if info.repl_id != heir.repl_id2 || fork == 0 {
        return;
    }
    let bytes = info.offset.saturating_sub(fork - 1);
    let detail = format!("{bytes} bytes were only here");
    core.emit("diverged", Some(node), detail, bytes > 0);
}
