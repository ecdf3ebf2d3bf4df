//! Whom most sentinels name.

use std::time::Duration;

use super::super::core::Core;
use super::super::council::Belief;
use super::super::sentinel::Stage;
use super::{Led, is_primary, serves};
use crate::resp::info::{NodeInfo, Role};
use crate::topology::NodeId;

/// How long a first look may take before the configuration is believed without a majority.
const FIRST_LOOK: Duration = Duration::from_secs(1);

impl Led {
    /// Takes over what most sentinels say. An older epoch than one that was believed counts only when
    /// nobody remembers that one any more (the sentinels were set up anew), its primary is gone, and
    /// ROLE agrees.
    pub(super) fn agree(&mut self, core: &mut Core) {
        let verdict = self.council.verdict(|a, b| core.is_same(a, b));
        let Some(verdict) = verdict.or_else(|| self.unopposed(core)) else {
            return;
        };
        let Some(agreed) = &self.agreed else {
            self.agreed = Some(verdict);
            self.join_failover(core);
            return;
        };
        if *agreed == verdict {
            return;
        }
        let serves = |node: &NodeId| serves(core, node);
        let takes_over = match verdict.epoch.cmp(&agreed.epoch) {
            std::cmp::Ordering::Greater => true,
            // The same node by another name, or two failovers that nobody can tell apart.
            std::cmp::Ordering::Equal => !serves(&agreed.node) && serves(&verdict.node),
            std::cmp::Ordering::Less => {
                let remembered = self
                    .council
                    .newest()
                    .is_some_and(|n| n.epoch >= agreed.epoch);
                !remembered && !serves(&agreed.node) && serves(&verdict.node)
            }
        };
        if takes_over {
            if !core.is_same(&agreed.node, &verdict.node) {
                core.note(format!(
                    "most sentinels name {} in epoch {}",
                    verdict.node, verdict.epoch
                ));
                core.probe_all();
                self.council.members_mut().for_each(|m| m.hold.clear());
                self.followers.clear();
            }
            self.agreed = Some(verdict);
        }
    }

    /// The first look may fall into a failover that was announced before.
    fn join_failover(&mut self, core: &mut Core) {
        let Some(agreed) = &self.agreed else { return };
        let agreeing = self.council.agreeing(agreed, |a, b| core.is_same(a, b));
        for sentinel in agreeing {
            let statement = self.council.member(&sentinel).statement.as_ref();
            let doubt = statement.and_then(|s| s.doubt);
            if let Some(stage) = doubt.filter(|stage| *stage >= Stage::Claimed) {
                self.raise(core, &sentinel, stage, None);
            }
        }
    }

    /// At a start without a majority: the newest configuration of those that answer, if every node
    /// answers, its primary is the only one, and all others replicate from it.
    fn unopposed(&self, core: &Core) -> Option<Belief> {
        let started = core.started.is_some_and(|at| core.now - at >= FIRST_LOOK);
        if self.agreed.is_some() || !started {
            return None;
        }
        let newest = self.council.newest()?;
        let answers = core.live_answers();
        let primary = answers.get(&newest.node).filter(|info| is_primary(info))?;
        let follows = |info: &NodeInfo| info.role == Role::Replica && info.link_up;
        let others = answers
            .values()
            .filter(|info| info.run_id != primary.run_id);
        let all_follow = others
            .clone()
            .all(|i| follows(i) && i.repl_id == primary.repl_id);
        let all_answer = answers.len() == core.nodes.len() && others.count() > 0;
        (all_answer && all_follow).then_some(newest)
    }
}
