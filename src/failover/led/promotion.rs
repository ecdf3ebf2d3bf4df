//! A promotion that a leader announced, from when ROLE shows it until a configuration names it.

use super::super::core::Core;
use super::super::council::Belief;
use super::{Led, is_primary, primary_of, serves};
use crate::resp::info::Role;
use crate::topology::{Primary, Timestamp};

/// A replica that a leader chose, and that became a primary with the history of the former one.
#[derive(Clone, Debug)]
pub(super) struct Promoted {
    pub(super) belief: Belief,
    /// Whether the leader announced that epoch.
    pub(super) is_announced: bool,
    pub(super) primary: Primary,
    /// When the failover ends by its time limit.
    pub(super) until: Timestamp,
}

impl Led {
    /// A node that was a replica until now, and that a leader chose, says that it is a primary, with the
    /// history of the believed one: nobody but the failover can have done that.
    pub(super) fn notice_promotion(&mut self, core: &mut Core) {
        let Some(agreed) = self.agreed.clone() else {
            return;
        };
        if self.promoted.is_some() {
            return;
        }
        let mut histories: Vec<_> = Vec::new();
        if let Some(published) = &core.published.primary {
            histories.push(published.repl_id.clone());
        }
        if let Some(info) = core.node(&agreed.node).and_then(|n| n.info.as_ref()) {
            histories.push(info.repl_id.clone());
        }
        let found = self.council.members_mut().find_map(|member| {
            let replica = member.hold.doubt()?.replica.clone()?;
            let info = core.node(&replica)?.live().filter(|i| is_primary(i))?;
            let forked = histories.contains(&info.repl_id2);
            let followed = self.followers.contains(&replica);
            if !forked || !followed || core.is_same(&replica, &agreed.node) {
                return None;
            }
            let announced = member.epoch.filter(|epoch| *epoch > agreed.epoch);
            let statement = member.statement.as_ref()?;
            let stated = Some(statement.epoch).filter(|epoch| *epoch > agreed.epoch);
            Some(Promoted {
                belief: Belief {
                    epoch: stated.or(announced).unwrap_or(agreed.epoch.next()),
                    node: replica.clone(),
                },
                is_announced: stated.or(announced).is_some(),
                primary: primary_of(&replica, info),
                until: core.now + statement.failover_timeout,
            })
        });
        if let Some(promoted) = &found {
            core.note(format!(
                "{} says that it is a primary",
                promoted.belief.node
            ));
        }
        self.promoted = found;
    }

    /// A promotion counts until a configuration names its epoch, the node is made a replica again (its
    /// leader ended before it could tell the others), or the failover's time is over and most sentinels
    /// still name the old primary, which serves.
    pub(super) fn give_up_promotion(&mut self, core: &mut Core) {
        let (Some(promoted), Some(agreed)) = (&self.promoted, &self.agreed) else {
            return;
        };
        let node = &promoted.belief.node;
        if agreed.epoch >= promoted.belief.epoch {
            if !core.is_same(&agreed.node, node) {
                let detail = "promoted, and not named by the sentinels afterwards";
                core.emit("-promoted-slave", Some(node), detail, true);
            }
            self.promoted = None;
            return;
        }
        let undone = core
            .node(node)
            .filter(|n| n.live().is_some_and(|i| i.role == Role::Replica))
            .is_some_and(|n| n.agreeing > 1);
        let verdict = self.council.verdict(|a, b| core.is_same(a, b));
        let void = verdict.as_ref() == Some(agreed) && serves(core, &agreed.node);
        if undone || (core.now >= promoted.until && void) {
            let detail = "promoted, and given up by the sentinels: what it took meanwhile is lost";
            core.emit("-promoted-slave", Some(node), detail, true);
            self.promoted = None;
        } else {
            core.wake_at(promoted.until);
        }
    }
}
