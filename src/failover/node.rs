//! What is known of one node: its last answer, and the streak of failures since.

use std::sync::Arc;
use std::time::Duration;

use super::{Health, Observation, ProbeError, Record};
use crate::resp::info::{NodeInfo, Role};
use crate::topology::{EvidenceKind, NodeId, Timestamp};

/// One node as seen from here.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub id: NodeId,
    /// Its last answer; kept while it fails, because its offsets still count.
    pub info: Option<NodeInfo>,
    /// When `info` was heard.
    pub info_at: Timestamp,
    /// Last sign of life of any kind: an answer, a client's reply, a replica that vouches.
    pub heard_at: Timestamp,
    /// Answers in a row with this run id and role. An answer that was under way while the role was
    /// changed may arrive late, so one alone proves no change of role.
    pub agreeing: u32,
    /// The failures since the last answer.
    pub streak: Option<Streak>,
    /// Its run id when the backend was last healthy: another one now means that it restarted
    /// during the outage.
    pub settled_run_id: Option<Arc<str>>,
    /// The last history and offset it showed while in sync.
    pub in_sync: Option<(Arc<str>, u64)>,
    /// First offset read after the primary came under suspicion: a greater one later proves that
    /// the primary lives.
    pub baseline: Option<u64>,
    /// Its `notify-keyspace-events`, where it told.
    pub notifies: Option<Arc<str>>,
    /// Whether it was told that it lacks a setting of the primary.
    pub told_lack: bool,
}

/// Failures in a row.
#[derive(Clone, Debug)]
pub(super) struct Streak {
    /// When the first one was told.
    pub since: Timestamp,
    /// When the last one was told.
    pub at: Timestamp,
    pub last: ProbeError,
    pub count: u32,
    /// Refused connects among them, the workers' included.
    pub refused: u32,
}

impl Node {
    pub(super) fn new(id: NodeId, now: Timestamp) -> Self {
        Node {
            id,
            info: None,
            info_at: now,
            heard_at: now,
            agreeing: 0,
            streak: None,
            settled_run_id: None,
            in_sync: None,
            baseline: None,
            notifies: None,
            told_lack: false,
        }
    }

    /// Takes in a probe's end.
    pub(super) fn observe(&mut self, observation: Observation, now: Timestamp) {
        match observation {
            Observation::Info(info) => self.answered(*info, now),
            Observation::Failed(error) => self.failed(error, now),
        }
    }

    /// Takes in an answer, however it was asked for.
    pub(super) fn answered(&mut self, info: NodeInfo, now: Timestamp) {
        if !info.sync_in_progress && !info.loading && info.offset > 0 {
            self.in_sync = Some((info.repl_id.clone(), info.offset));
        }
        let agrees = self
            .info
            .as_ref()
            .is_some_and(|i| i.run_id == info.run_id && i.role == info.role);
        self.agreeing = if agrees {
            self.agreeing.saturating_add(1)
        } else {
            1
        };
        self.info = Some(info);
        self.info_at = now;
        self.heard_at = now;
        self.streak = None;
    }

    /// Takes in a failure. An error reply is a sign of life; a lost connection alone is none of
    /// either.
    pub(super) fn failed(&mut self, error: ProbeError, now: Timestamp) {
        if is_alive(&error) {
            self.heard_at = now;
        }
        let refused = u32::from(error == ProbeError::Refused);
        let streak = self.streak.get_or_insert(Streak {
            since: now,
            at: now,
            last: error.clone(),
            count: 0,
            refused: 0,
        });
        // A process that listens again is not the one that refused.
        if is_alive(&error) || error == ProbeError::Silent {
            streak.refused = 0;
        }
        streak.at = now;
        streak.count += 1;
        streak.refused += refused;
        streak.last = error;
    }

    /// Takes in what a worker saw. Returns whether it is a reason to close the gate.
    pub(super) fn evidence(&mut self, kind: EvidenceKind, now: Timestamp) -> bool {
        match kind {
            EvidenceKind::ConnectionLost => {
                if self.streak.is_none() {
                    self.failed(ProbeError::ConnectionLost, now);
                }
                true
            }
            EvidenceKind::ConnectRefused => {
                self.failed(ProbeError::Refused, now);
                true
            }
            EvidenceKind::NotPrimary | EvidenceKind::Reborn | EvidenceKind::Loading => true,
            // Of clusters nothing is decided here.
            EvidenceKind::ConnectTimeout | EvidenceKind::Moved => false,
        }
    }

    /// A span in which this monitor itself did not run is nobody's silence.
    pub(super) fn discount(&mut self, gap: Duration) {
        self.heard_at = self.heard_at + gap;
        if let Some(streak) = &mut self.streak {
            streak.since = streak.since + gap;
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.info.is_some() && self.streak.is_none()
    }

    /// Its last answer, if nothing failed since.
    pub(super) fn live(&self) -> Option<&NodeInfo> {
        self.info.as_ref().filter(|_| self.streak.is_none())
    }

    /// Its last answer, if it was heard after `then` and nothing failed since.
    pub(super) fn live_since(&self, then: Timestamp) -> Option<&NodeInfo> {
        self.live().filter(|_| self.info_at >= then)
    }

    /// Whether it is another process than before the outage. Not knowing an earlier one, a young
    /// process counts as restarted.
    pub(super) fn restarted(&self, info: &NodeInfo) -> bool {
        match &self.settled_run_id {
            Some(run_id) => *run_id != info.run_id,
            None => info.uptime_seconds < 30,
        }
    }

    /// What would end if it took over from a primary whose `notify-keyspace-events` is `flags`.
    pub(super) fn lacks(&self, flags: &str) -> Option<String> {
        // All that is about keys, but for those classes that make more than events of keys.
        const ALL: &str = "g$lshzxetd";
        let own = self.notifies.as_deref()?;
        let has = |flag| own.contains(flag) || own.contains('A') && ALL.contains(flag);
        (!flags.chars().all(has)).then(|| {
            format!(
                "its notify-keyspace-events is {own:?}, the primary's {flags:?}: keyspace notifications would \
                 end with a failover"
            )
        })
    }

    /// Its health in one word.
    pub(super) fn health(&self, record: Option<&Record>) -> Health {
        let Some(streak) = &self.streak else {
            return match (&self.info, record) {
                (None, _) => Health::Unknown,
                (Some(info), Some(r)) if r.primary == self.id && info.run_id != r.run_id => {
                    Health::Reborn
                }
                (Some(_), _) => Health::Up,
            };
        };
        match &streak.last {
            ProbeError::ErrorReply(_) => Health::ErrorReply,
            ProbeError::Auth(_) => Health::Denied,
            ProbeError::MaxClients => Health::Full,
            ProbeError::NotRedis => Health::NotRedis,
            ProbeError::Unresolved => Health::Unresolved,
            _ if streak.count < 2 => Health::Suspect,
            ProbeError::ConnectionLost => Health::Suspect,
            ProbeError::Refused => Health::Refused,
            ProbeError::Unacked => Health::Unacked,
            ProbeError::Silent => Health::Silent,
        }
    }
}

/// Whether a probe that failed this way proves that a process answers.
pub(super) fn is_alive(error: &ProbeError) -> bool {
    matches!(
        error,
        ProbeError::ErrorReply(_) | ProbeError::Auth(_) | ProbeError::MaxClients
    )
}

/// How the process at the recorded primary's address relates to the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// Same process, same history, role primary: it serves.
    Same,
    /// Same process and data under a new replication id (a primary without replicas renews it).
    Renamed,
    /// Same process, loading its data.
    Loading,
    /// Same process, but a replica.
    Demoted,
    /// Another process, or a history that went back.
    Reborn,
}

impl Identity {
    pub(super) fn of(info: &NodeInfo, record: &Record, last_offset: u64) -> Identity {
        if info.run_id != record.run_id {
            Identity::Reborn
        } else if info.role == Role::Replica {
            Identity::Demoted
        } else if info.loading {
            Identity::Loading
        } else if info.repl_id == record.repl_id {
            Identity::Same
        } else if info.repl_id2 == record.repl_id || info.offset >= last_offset {
            Identity::Renamed
        } else {
            Identity::Reborn
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_lacks_what_its_notifications_do_not_cover() {
        let mut node = Node::new(NodeId::new("b:1"), Timestamp::default());
        // It does not tell, or has not told yet.
        assert_eq!(node.lacks("AKE"), None);
        for (own, primary, lacks) in [
            ("", "", false),
            ("AKE", "", false),
            ("", "xE", true),
            ("xE", "xE", false),
            ("AKE", "g$xKE", false),
            ("g$xKE", "AKE", true),
            ("AE", "xK", true),
            ("AKE", "AKEm", true),
            ("AKEm", "mKE", false),
        ] {
            node.notifies = Some(own.into());
            assert_eq!(node.lacks(primary).is_some(), lacks, "{own:?} {primary:?}");
        }
    }
}
