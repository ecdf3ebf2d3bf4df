//! From observations to a verdict: is the recorded primary lost, and by which kind of silence.

use std::time::Duration;

use super::node::{Identity, Node};
use super::{Policy, ProbeError, Record};
use crate::resp::info::Role;
use crate::topology::{Fault, NodeId, Timestamp};

/// What follows from everything known about the primary.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Finding {
    /// It answers and is what the record says.
    Healthy,
    /// Same process and data under a new replication id.
    Renamed,
    /// Nothing follows yet; look again at this time.
    Undecided {
        /// When time alone may change the finding; `None` when only news can.
        until: Option<Timestamp>,
        /// Why nothing follows.
        why: &'static str,
        /// Whether requests should wait meanwhile.
        close: bool,
    },
    /// It is lost.
    Lost {
        /// The class of evidence.
        fault: Fault,
        /// For people.
        why: &'static str,
    },
}

fn undecided(until: Option<Timestamp>, why: &'static str, close: bool) -> Finding {
    Finding::Undecided { until, why, close }
}

/// Judges the recorded primary. `last_offset` is the greatest offset it showed.
pub(super) fn judge(
    nodes: &[Node],
    record: &Record,
    policy: &Policy,
    last_offset: u64,
    now: Timestamp,
) -> Finding {
    let Some(primary) = nodes.iter().find(|n| n.id == record.primary) else {
        return Finding::Lost {
            fault: Fault::Followed,
            why: "the recorded primary is not a node of this backend any more",
        };
    };
    match (&primary.streak, &primary.info) {
        (None, None) => undecided(None, "the primary was not probed yet", true),
        (None, Some(info)) => match Identity::of(info, record, last_offset) {
            Identity::Same if policy.promote_on_disk_error && !info.disk_ok => {
                disk_error(nodes, &primary.id)
            }
            Identity::Same => Finding::Healthy,
            Identity::Renamed => Finding::Renamed,
            Identity::Loading => undecided(None, "the primary is loading its data", true),
            Identity::Demoted if primary.agreeing < 2 => {
                undecided(None, "the primary says it is a replica, asking again", true)
            }
            Identity::Demoted => Finding::Lost {
                fault: Fault::Followed,
                why: "somebody made the primary a replica",
            },
            Identity::Reborn => Finding::Lost {
                fault: Fault::Reborn,
                why: "another process answers at the primary's address",
            },
        },
        (Some(_), _) => failing(nodes, primary, record, policy, now),
    }
}

/// The primary's persistence fails: lost only if some replica's does not.
fn disk_error(nodes: &[Node], primary: &NodeId) -> Finding {
    let better = nodes
        .iter()
        .filter(|n| n.id != *primary)
        .filter_map(Node::live)
        .any(|info| info.role == Role::Replica && info.disk_ok && info.link_up);
    if better {
        Finding::Lost {
            fault: Fault::ErrorReplies,
            why: "the primary can not persist, a replica can",
        }
    } else {
        Finding::Healthy
    }
}

fn failing(
    nodes: &[Node],
    primary: &Node,
    record: &Record,
    policy: &Policy,
    now: Timestamp,
) -> Finding {
    let Some(streak) = &primary.streak else {
        return Finding::Healthy;
    };
    let silent = silent_after(primary, policy);
    // The silence of a node that was never heard begins with its first failure.
    let from = match primary.info {
        Some(_) => primary.heard_at,
        None => primary.heard_at.max(streak.since),
    };
    let after = |limit: Duration, fault: Fault, why: &'static str, close_after: Duration| {
        if streak.count >= 2 && now >= from + limit {
            return Finding::Lost { fault, why };
        }
        let close = streak.count >= 2 && now >= from + close_after;
        let next = if close {
            from + limit
        } else {
            from + close_after
        };
        undecided(Some(next.max(now)), "the primary does not answer", close)
    };
    match &streak.last {
        ProbeError::Refused if streak.refused >= policy.refused_confirmations => {
            match witnesses(nodes, record, primary, streak.since) {
                Witnesses::LinkDown => Finding::Lost {
                    fault: Fault::Refused,
                    why: "connections reset, new ones refused, no replica has a link to it",
                },
                Witnesses::LinkUp if now >= from + policy.unacked_after => Finding::Lost {
                    fault: Fault::Refused,
                    why: "connections refused, and no replica advanced since",
                },
                Witnesses::LinkUp => undecided(
                    Some(from + policy.unacked_after),
                    "connections are refused, but a replica still has its link",
                    true,
                ),
                Witnesses::Awaited if now >= streak.since + policy.probe_timeout() => {
                    Finding::Lost {
                        fault: Fault::Refused,
                        why: "connections reset, new ones refused",
                    }
                }
                Witnesses::Awaited => undecided(
                    Some(streak.since + policy.probe_timeout()),
                    "connections are refused, the replicas are being asked",
                    true,
                ),
            }
        }
        ProbeError::Refused | ProbeError::ConnectionLost => undecided(
            None,
            "connections to the primary were lost, it is being probed",
            true,
        ),
        ProbeError::Unacked => after(
            policy.unacked_after,
            Fault::Unacked,
            "the primary's kernel does not acknowledge",
            policy.unacked_after / 2,
        ),
        ProbeError::Silent => after(
            silent,
            Fault::Silent,
            "the primary's kernel acknowledges, Redis does not answer",
            silent / 2,
        ),
        ProbeError::Unresolved | ProbeError::NotRedis => {
            match witnesses(nodes, record, primary, streak.since) {
                Witnesses::LinkDown => after(
                    silent,
                    Fault::Silent,
                    "no Redis at the primary's address, no replica has a link to it",
                    Duration::ZERO,
                ),
                _ => undecided(None, "the primary's name or service is wrong", false),
            }
        }
        ProbeError::ErrorReply(word) if &**word == "MISCONF" && policy.promote_on_disk_error => {
            disk_error(nodes, &primary.id)
        }
        ProbeError::ErrorReply(_) => {
            undecided(None, "the primary answers with an error: alive", false)
        }
        ProbeError::Auth(_) => undecided(None, "the primary refuses our credentials", false),
        ProbeError::MaxClients => undecided(None, "the primary has too many clients", false),
    }
}

/// The silence allowed to a node: longer after long forks.
pub(super) fn silent_after(node: &Node, policy: &Policy) -> Duration {
    let fork = node.info.as_ref().map_or(0, |i| i.latest_fork_usec);
    let stretched = Duration::from_micros(fork.saturating_mul(u64::from(policy.fork_factor)));
    policy.silent_after.max(stretched)
}

enum Witnesses {
    /// Every replica that answers says that its link is down (or none answers).
    LinkDown,
    /// One says that its link is up.
    LinkUp,
    /// One that answers was not asked yet.
    Awaited,
}

/// What the replicas of the recorded history say about their link since `then`.
fn witnesses(nodes: &[Node], record: &Record, primary: &Node, then: Timestamp) -> Witnesses {
    let mut result = Witnesses::LinkDown;
    for node in nodes.iter().filter(|n| n.id != primary.id) {
        let Some(info) = node.live() else { continue };
        if info.role != Role::Replica || info.repl_id != record.repl_id {
            continue;
        }
        if !follows_directly(nodes, node, primary) {
            continue;
        }
        if node.info_at < then {
            result = Witnesses::Awaited;
        } else if info.link_up {
            return Witnesses::LinkUp;
        }
    }
    result
}

/// Whether `node` is linked to the primary itself; one that is known to hang on another node of
/// the backend is no witness.
fn follows_directly(nodes: &[Node], node: &Node, primary: &Node) -> bool {
    let Some((host, port)) = node.info.as_ref().and_then(|i| i.upstream.as_ref()) else {
        return true;
    };
    !nodes
        .iter()
        .filter(|n| n.id != primary.id)
        .any(|n| n.id.host_port() == Some((&**host, *port)))
}

/// A replica's answer while the primary is under suspicion: an offset that advances proves that the
/// primary lives. Returns whether it vouches.
pub(super) fn vouch(nodes: &mut [Node], replica: &NodeId, record: &Record, now: Timestamp) -> bool {
    let Some(since) = nodes
        .iter()
        .find(|n| n.id == record.primary)
        .and_then(|p| p.streak.as_ref())
        .map(|s| s.since)
    else {
        return false;
    };
    let Some(node) = nodes.iter_mut().find(|n| n.id == *replica) else {
        return false;
    };
    let Some(info) = node.live_since(since) else {
        return false;
    };
    if info.role != Role::Replica || !info.link_up || info.repl_id != record.repl_id {
        return false;
    }
    let offset = info.offset;
    let vouches = node.baseline.is_some_and(|b| offset > b);
    node.baseline = Some(offset);
    if vouches && let Some(primary) = nodes.iter_mut().find(|n| n.id == record.primary) {
        primary.heard_at = now;
    }
    vouches
}
