//! The unplanned change of primary: claim the next epoch, fence, read fresh offsets, choose,
//! promote, verify, commit. Every step is idempotent, so that it can be resumed after a crash.
//!
//! ```text
//! Claiming -> Choosing -> Promoting -> (commit)
//!     ^          ^  ^________|  |refused, not done
//!     |          |__________ Examining   outcome unknown: look before anything else
//!     |________________________|  it may be primary and can not be asked: next epoch
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use super::candidate::{Candidate, fitness, position};
use super::choice::Choice;
use super::commit::{Commit, Elected};
use super::core::{Core, Input};
use super::fencing::Fencing;
use super::machine::{Next, Phase};
use super::roll::RollCall;
use super::round::Round;
use super::swap::{Outcome, Proposal};
use super::{Decline, NodeOp, NodeOpOutcome, OpId, ProbeError, Record, RecordPhase};
use crate::resp::info::{NodeInfo, Role};
use crate::topology::{BytesLost, Epoch, Fault, Gate, NodeId, Timestamp};

/// How long the winner of a swap may begin promotions under it. Another monitor takes a half-done
/// decision over only after this and the bound of one command have passed.
pub(super) const TENURE: Duration = Duration::from_secs(2);
/// The longest wait for the authority's answer before its outcome counts as unknown.
const SWAP_LIMIT: Duration = Duration::from_secs(5);
/// Between two readings that shall prove that offsets stand still.
const SETTLE: Duration = Duration::from_millis(3);
/// Between two looks while nobody can be promoted.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long a candidate that failed is passed over before it may be tried again.
const EXCLUSION: Duration = Duration::from_secs(1);
/// The longest wait for the workers to obey the closed gate of the new epoch.
const OBEY_LIMIT: Duration = Duration::from_millis(250);

/// See the head of the file.
#[derive(Clone, Debug)]
pub(super) struct Failover {
    fault: Fault,
    /// The record before the claim: whose history counts.
    old: Record,
    /// When the claim in force was sent.
    claimed_at: Timestamp,
    /// The claim in force and when it was confirmed.
    owned: Option<(Epoch, Timestamp)>,
    /// From the first of our claims on, which nobody who reads the record overlooks.
    others: Option<RollCall>,
    /// In strict mode: everybody who carries requests has acknowledged that.
    acknowledged: bool,
    /// Since when it has been unknown whether the present candidate was promoted.
    doubtful_since: Option<Timestamp>,
    /// What was asked before this is out of date: the claim was confirmed then, or a fence sent.
    current_since: Timestamp,
    obeying: Option<(OpId, Timestamp)>,
    excluded: BTreeMap<NodeId, (String, Timestamp)>,
    round: Round,
    /// The offsets of the round before, to see whether they stand still.
    before: Option<BTreeMap<NodeId, u64>>,
    next_round_at: Option<Timestamp>,
    fencing: Fencing,
    stage: Stage,
}

#[derive(Clone, Debug)]
enum Stage {
    /// The record of the next epoch is being swapped in.
    Claiming(Proposal),
    Choosing,
    Promoting {
        op: OpId,
        candidate: Box<Candidate>,
        deadline: Timestamp,
    },
    /// The promotion's outcome is unknown.
    Examining {
        op: OpId,
        candidate: Box<Candidate>,
        since: Timestamp,
    },
}

impl Failover {
    /// Begins: claims the epoch after the known record's, and reads offsets at the same time.
    pub(super) fn claim(core: &mut Core, record: Record, fault: Fault, why: &str) -> Phase {
        let now = core.now;
        core.recorder().fault.get_or_insert(fault);
        core.note(why.to_owned());
        core.phase("claim");
        // Told when it began; another try to write the record is no news.
        let news = core.swap_failure.is_none();
        if news {
            core.set_undecided(None);
        }
        core.emit("+try-failover", Some(&record.primary), why, news);
        let round = Round::start(core);
        let stage = Stage::Claiming(claim(core, &record));
        Phase::FailingOver(Box::new(Failover {
            fault,
            old: record,
            claimed_at: now,
            owned: None,
            others: None,
            acknowledged: false,
            doubtful_since: None,
            current_since: now,
            obeying: None,
            excluded: BTreeMap::new(),
            round,
            before: None,
            next_round_at: None,
            fencing: Fencing::default(),
            stage,
        }))
    }

    pub(super) fn fault(&self) -> Fault {
        self.fault
    }

    /// Where it stands, for the status.
    pub(super) fn stage_name(&self) -> &'static str {
        match &self.stage {
            Stage::Claiming(claim) if claim.is_unknown() => {
                "reading the record after a swap of unknown outcome"
            }
            Stage::Claiming(_) => "claiming the next epoch",
            Stage::Choosing if self.obeying.is_some() => "waiting for the workers to stop",
            Stage::Choosing if self.fencing.is_under_way() => "fencing",
            Stage::Choosing => "choosing",
            Stage::Promoting { .. } => "promoting",
            Stage::Examining { .. } => "examining a promotion of unknown outcome",
        }
    }

    pub(super) fn step(mut self: Box<Self>, core: &mut Core, input: &Input) -> Next {
        self.take_in(core, input);
        if matches!(input, Input::Loaded) && self.is_overtaken(core) {
            return Next::Go(core.route("another monitor took over"));
        }
        let stage = std::mem::replace(&mut self.stage, Stage::Choosing);
        match stage {
            Stage::Claiming(claim) => self.claiming(core, input, claim),
            Stage::Choosing => self.choosing(core),
            Stage::Promoting {
                op,
                candidate,
                deadline,
            } => self.promoting(core, input, op, candidate, deadline),
            Stage::Examining {
                op,
                candidate,
                since,
            } => self.examining(core, input, op, candidate, since),
        }
    }

    /// Whether the record that was just read is another monitor's. While a swap is under way its
    /// own answer tells.
    fn is_overtaken(&self, core: &Core) -> bool {
        let acting = !matches!(self.stage, Stage::Claiming(_));
        let ours = core.record.as_ref().is_some_and(|r| {
            r.by == core.me && self.owned.is_some_and(|(epoch, _)| epoch == r.epoch)
        });
        acting && !ours
    }

    fn stay(mut self: Box<Self>, stage: Stage) -> Next {
        self.stage = stage;
        Next::Stay(Phase::FailingOver(self))
    }

    fn go(mut self: Box<Self>, stage: Stage) -> Next {
        self.stage = stage;
        Next::Go(Phase::FailingOver(self))
    }

    /// Answers that count whatever the stage.
    fn take_in(&mut self, core: &mut Core, input: &Input) {
        let now = core.now;
        self.excluded.retain(|_, (_, until)| now < *until);
        match input {
            Input::Done(op, outcome) => {
                self.round.done(*op, outcome);
                self.fencing.take_in(core, input, &self.old);
            }
            Input::Obeyed(op) if self.obeying.is_some_and(|(o, _)| o == *op) => {
                self.obeying = None;
            }
            _ => {}
        }
        self.hear_others(core);
        if let Some((_, deadline)) = self.obeying {
            if now >= deadline {
                self.obeying = None;
                let text = "not every worker obeyed the closed gate in time";
                core.note(text.to_owned());
                core.emit("gate-not-obeyed", None, text, true);
            } else {
                core.wake_at(deadline);
            }
        }
    }

    /// In strict mode: whether everybody else has acknowledged by now; then the next look is at once.
    fn hear_others(&mut self, core: &mut Core) {
        let strict = core.view_lease().is_some() && core.panel().is_some();
        if !strict || self.acknowledged || !matches!(self.stage, Stage::Choosing) {
            return;
        }
        if self.others.is_some_and(|call| call.is_complete(core)) {
            self.acknowledged = true;
            self.next_round_at = self.next_round_at.map(|at| at.min(core.now));
        }
    }

    // ---- claim ----

    /// Claims once more, for an epoch after this one.
    fn claim_again(mut self: Box<Self>, core: &mut Core) -> Next {
        self.claimed_at = core.now;
        self.stage = Stage::Claiming(claim(core, &self.old));
        Next::Stay(Phase::FailingOver(self))
    }

    fn claiming(self: Box<Self>, core: &mut Core, input: &Input, mut claim: Proposal) -> Next {
        match claim.step(core, input) {
            Outcome::Pending => {
                if claim.is_unknown() {
                    core.barred_from_failover();
                }
                self.stay(Stage::Claiming(claim))
            }
            Outcome::Stored => self.claimed(core),
            Outcome::Lost => {
                core.decline(Decline::SwapLost);
                Next::Go(core.route("another monitor decided first"))
            }
            Outcome::Missing => Next::Go(core.route("the epoch could not be claimed")),
        }
    }

    /// The epoch is ours: every proxy is fenced by publishing it with the gate closed.
    fn claimed(mut self: Box<Self>, core: &mut Core) -> Next {
        let Some(record) = core.record.clone() else {
            return Next::Go(core.route("the record vanished"));
        };
        self.owned = Some((record.epoch, core.now));
        self.others.get_or_insert_with(|| RollCall::begin(core));
        self.current_since = core.now;
        core.phase("fence");
        core.emit("+odown", Some(&self.old.primary), "epoch claimed", false);
        if let Some(op) = core.publish(record.epoch, Gate::Closed, None, true) {
            self.obeying = Some((op, core.now + OBEY_LIMIT));
            core.wake_at(core.now + OBEY_LIMIT);
        }
        self.go(Stage::Choosing)
    }

    // ---- choose ----

    fn choosing(mut self: Box<Self>, core: &mut Core) -> Next {
        if !self.round.is_complete(core) {
            return self.stay(Stage::Choosing);
        }
        if let Some(at) = self.next_round_at {
            if core.now < at {
                core.wake_at(at);
                return self.stay(Stage::Choosing);
            }
            return self.read_again(core);
        }
        if self.obeying.is_some() || self.fencing.is_under_way() {
            return self.stay(Stage::Choosing);
        }
        if self.round.has_missed(core) {
            return self.read_again(core);
        }
        core.phase("choose");
        let excluded = self
            .excluded
            .iter()
            .map(|(node, (why, _))| (node.clone(), why.clone()))
            .collect();
        let (choice, ranking) = core.choose(&self.round.answers, &excluded, self.fault);
        core.recorder().passed_over(&ranking.passed_over);
        match choice {
            Choice::Wait { why, until } => {
                core.decline(Decline::NoCandidate);
                if core.undecided.as_ref() != Some(&why) {
                    core.emit("-failover-abort-no-good-slave", None, why.clone(), true);
                }
                core.undecided = Some(why);
                if let Some(until) = until {
                    core.wake_at(until);
                }
                self.look_again(core, LOOK_AGAIN)
            }
            Choice::Take(candidate) => {
                core.undecided = None;
                match self.better_one_missing(core, &candidate) {
                    Some((node, until)) => self.await_answer(core, &node, until),
                    None => self.chosen(core, candidate),
                }
            }
        }
    }

    /// A sibling that showed more than the candidate has, answered lately and is only slow; and until
    /// when it is waited for.
    fn better_one_missing(
        &self,
        core: &Core,
        candidate: &Candidate,
    ) -> Option<(NodeId, Timestamp)> {
        let patience = core.policy.node_op_timeout;
        let until = self.claimed_at + patience;
        if candidate.incumbent || core.now >= until {
            return None;
        }
        let here = candidate.position(&self.old);
        let remembered = core.remembered();
        let missing = core.nodes.iter().find(|n| {
            let gone = n.streak.as_ref().is_some_and(|s| {
                matches!(s.last, ProbeError::Refused | ProbeError::ConnectionLost)
            });
            let fit = n
                .info
                .as_ref()
                .is_some_and(|i| fitness(i, &self.old).is_ok());
            n.id != self.old.primary
                && !self.round.answers.contains_key(&n.id)
                && !self.excluded.contains_key(&n.id)
                && !gone
                && fit
                && core.now - n.heard_at < patience
                && remembered.get(&n.id).is_some_and(|shown| *shown > here)
        })?;
        Some((missing.id.clone(), until.min(missing.heard_at + patience)))
    }

    /// Waits for the answer that is on its way, or asks again.
    fn await_answer(self: Box<Self>, core: &mut Core, node: &NodeId, until: Timestamp) -> Next {
        core.note(format!(
            "{node} showed more than the others have; waiting for it"
        ));
        if !self.round.is_asked(node) {
            return self.look_again(core, LOOK_AGAIN);
        }
        core.wake_at(until);
        self.stay(Stage::Choosing)
    }

    fn look_again(mut self: Box<Self>, core: &mut Core, after: Duration) -> Next {
        if after.is_zero() {
            return self.read_again(core);
        }
        let at = core.now + after;
        self.next_round_at = Some(at);
        core.wake_at(at);
        self.stay(Stage::Choosing)
    }

    fn read_again(mut self: Box<Self>, core: &mut Core) -> Next {
        self.next_round_at = None;
        self.before = Some(offsets(&self.round));
        self.round = self.round.next(core, self.current_since);
        self.stay(Stage::Choosing)
    }

    fn chosen(mut self: Box<Self>, core: &mut Core, candidate: Box<Candidate>) -> Next {
        let answers = &self.round.answers;
        let chosen = &candidate.node;
        if self.fencing.fence_others(core, answers, chosen, &self.old) {
            // What the fenced ones wrote until now may still be on its way to the candidate.
            self.current_since = core.now;
            return self.look_again(core, Duration::ZERO);
        }
        if candidate.incumbent && !self.is_fresh() {
            return self.look_again(core, Duration::ZERO);
        }
        if !candidate.incumbent && !self.stands_still(core, &candidate) {
            return self.look_again(core, SETTLE);
        }
        if let Some(why) = core.barred_from_failover() {
            core.set_undecided(Some(why));
            return self.look_again(core, LOOK_AGAIN);
        }
        if self.tenure_is_over(core) {
            return self.claim_again(core);
        }
        let lease_end = self.lease_end(core, &candidate);
        if let Some(until) = lease_end.filter(|until| core.now < *until) {
            core.phase("view lease");
            core.wake_at(until);
            return self.look_again(core, LOOK_AGAIN);
        }
        let node = candidate.node.clone();
        core.emit("+selected-slave", Some(&node), "highest offset", false);
        if candidate.incumbent && !self.fencing.holds(&node) {
            return self.commit(core, &node, candidate.info, BytesLost::Exactly(0));
        }
        self.promote(core, candidate)
    }

    /// In strict mode proxies that have not acknowledged the claim may not have heard of it, and forward to
    /// the old primary until then, unless it is known to accept no write.
    fn lease_end(&self, core: &Core, candidate: &Candidate) -> Option<Timestamp> {
        let lease = core.view_lease()?;
        let old = &self.old;
        let info = core.node(&old.primary).and_then(|n| n.live());
        // Nobody who obeys the old record talks to another process, or to a replica.
        let gone = info.is_some_and(|i| i.run_id != old.run_id || i.role == Role::Replica);
        if self.acknowledged || gone || candidate.incumbent || self.fencing.has_fenced(&old.primary)
        {
            return None;
        }
        // Clocks may differ a little in speed.
        Some(self.others?.since + lease + lease / 10)
    }

    /// Whether no more bytes can reach the candidate: its link is down, or two readings agree and a
    /// fenced primary that it is connected to has nothing it lacks. Not waited for without end:
    /// somebody who can not be fenced may go on writing.
    fn stands_still(&self, core: &mut Core, candidate: &Candidate) -> bool {
        let info = &candidate.info;
        if info.role == Role::Primary || !info.link_up {
            return true;
        }
        let here = position(info, &self.old).unwrap_or(0);
        if self.fencing.is_ahead_of(here, core) {
            return false;
        }
        if !self.is_fresh() || self.before.as_ref() == Some(&offsets(&self.round)) {
            return self.is_fresh();
        }
        let patience = core.policy.catch_up_timeout;
        let over = self.owned.is_some_and(|(_, at)| core.now - at >= patience);
        if over {
            core.note("offsets do not stand still".to_owned());
        }
        over
    }

    /// Whether the answers at hand were asked for after the epoch was claimed.
    fn is_fresh(&self) -> bool {
        self.owned.is_some_and(|(_, at)| self.round.started >= at)
    }

    // ---- promote ----

    fn promote(self: Box<Self>, core: &mut Core, candidate: Box<Candidate>) -> Next {
        core.phase("promote");
        let timeout = core.policy.node_op_timeout;
        let op = core.node_op(&candidate.node, NodeOp::Promote, timeout);
        let deadline = core.now + timeout * 2;
        core.wake_at(deadline);
        self.stay(Stage::Promoting {
            op,
            candidate,
            deadline,
        })
    }

    fn promoting(
        self: Box<Self>,
        core: &mut Core,
        input: &Input,
        op: OpId,
        candidate: Box<Candidate>,
        deadline: Timestamp,
    ) -> Next {
        let outcome = match input {
            Input::Done(done, outcome) if *done == op => outcome,
            _ if core.now >= deadline => {
                return self.examine(core, candidate);
            }
            _ => {
                core.wake_at(deadline);
                return self.stay(Stage::Promoting {
                    op,
                    candidate,
                    deadline,
                });
            }
        };
        match outcome {
            NodeOpOutcome::Done(info) => self.promoted(core, candidate, info),
            NodeOpOutcome::Refused(why) => self.next_candidate(core, &candidate.node, why.clone()),
            NodeOpOutcome::Unreachable(error) => {
                self.next_candidate(core, &candidate.node, format!("unreachable ({error:?})"))
            }
            NodeOpOutcome::Unknown(_) => self.examine(core, candidate),
        }
    }

    /// Believes ROLE, of the process that was chosen, and nothing else.
    fn promoted(
        self: Box<Self>,
        core: &mut Core,
        candidate: Box<Candidate>,
        info: &NodeInfo,
    ) -> Next {
        if info.role != Role::Primary {
            let why = "its role is still replica".to_owned();
            return self.next_candidate(core, &candidate.node, why);
        }
        if info.run_id != candidate.info.run_id {
            let why = "it restarted while it was promoted".to_owned();
            return self.next_candidate(core, &candidate.node, why);
        }
        core.emit("+promoted-slave", Some(&candidate.node), "verified", false);
        let lost = core.bytes_lost(&self.old, info);
        if let BytesLost::AtLeast(_) = lost {
            let ago = (core.now - core.last_offset_at).as_millis();
            let old = &self.old.primary;
            core.note(format!("{old} showed its offset last {ago} ms ago"));
        }
        self.commit(core, &candidate.node, info.clone(), lost)
    }

    fn commit(
        self: Box<Self>,
        core: &mut Core,
        node: &NodeId,
        info: NodeInfo,
        bytes_lost: BytesLost,
    ) -> Next {
        let epoch = core.record.as_ref().map_or(self.old.epoch, |r| r.epoch);
        let elected = Elected {
            epoch,
            node,
            info,
            bytes_lost,
            demotion: None,
        };
        Next::Stay(Commit::begin(core, self.fault, self.old, elected))
    }

    fn next_candidate(mut self: Box<Self>, core: &mut Core, node: &NodeId, why: String) -> Next {
        core.note(format!("{node} was not promoted: {why}"));
        core.emit("-promotion-failed", Some(node), why.clone(), true);
        self.excluded
            .insert(node.clone(), (why, core.now + EXCLUSION));
        self.fencing.forget(node);
        self.doubtful_since = None;
        self.look_again(core, Duration::ZERO)
    }

    /// Whether other monitors may take over, so that nothing may be begun under this claim.
    fn tenure_is_over(&self, core: &Core) -> bool {
        core.panel().is_some() && core.now - self.claimed_at > TENURE
    }

    fn examine(mut self: Box<Self>, core: &mut Core, candidate: Box<Candidate>) -> Next {
        core.phase("examine");
        self.doubtful_since.get_or_insert(core.now);
        let since = core.now;
        let op = core.node_op(
            &candidate.node,
            NodeOp::Inspect,
            core.policy.probe_timeout(),
        );
        self.stay(Stage::Examining {
            op,
            candidate,
            since,
        })
    }

    fn examining(
        self: Box<Self>,
        core: &mut Core,
        input: &Input,
        op: OpId,
        candidate: Box<Candidate>,
        since: Timestamp,
    ) -> Next {
        let timeout = core.policy.node_op_timeout;
        // Promotions whose answers are lost again and again come to an end too.
        let first = self.doubtful_since.unwrap_or(since);
        let limit = (since + timeout).min(first + timeout * 2);
        let Input::Done(done, outcome) = input else {
            if core.now >= limit {
                return self.abandon(core, &candidate.node, "no answer");
            }
            core.wake_at(limit);
            return self.stay(Stage::Examining {
                op,
                candidate,
                since,
            });
        };
        if *done != op {
            core.wake_at(limit);
            return self.stay(Stage::Examining {
                op,
                candidate,
                since,
            });
        }
        match outcome {
            NodeOpOutcome::Done(info) if info.run_id != candidate.info.run_id => {
                self.abandon(core, &candidate.node, "it restarted")
            }
            // This monitor slept: another one may have decided since.
            NodeOpOutcome::Done(_) if self.tenure_is_over(core) => {
                self.abandon(core, &candidate.node, "the tenure is over")
            }
            // Not done, or not yet: the same promotion again, never another one beside it.
            NodeOpOutcome::Done(_) if core.now < limit => self.promote(core, candidate),
            NodeOpOutcome::Unreachable(ProbeError::Refused) => {
                self.abandon(core, &candidate.node, "its process is gone")
            }
            _ if core.now >= limit => self.abandon(core, &candidate.node, "no answer"),
            _ => {
                let timeout = core.policy.probe_timeout();
                let op = core.node_op(&candidate.node, NodeOp::Inspect, timeout);
                core.wake_at(limit);
                self.stay(Stage::Examining {
                    op,
                    candidate,
                    since,
                })
            }
        }
    }

    /// The candidate may have become primary and can not be asked: the next one gets an epoch of
    /// its own, so that nobody who heard of this one believes it.
    fn abandon(mut self: Box<Self>, core: &mut Core, node: &NodeId, why: &str) -> Next {
        core.note(format!("{node} may have been promoted, given up: {why}"));
        core.emit("-promotion-unknown", Some(node), why, true);
        let until = core.now + EXCLUSION;
        self.excluded.insert(node.clone(), (why.to_owned(), until));
        self.doubtful_since = None;
        self.before = None;
        self.round = Round::start(core);
        self.claim_again(core)
    }
}

/// Proposes the epoch after the known record's.
fn claim(core: &mut Core, old: &Record) -> Proposal {
    let base = core.record.clone().unwrap_or_else(|| old.clone());
    let record = core.successor(&base, RecordPhase::FailingOver);
    Proposal::send(core, record, SWAP_LIMIT)
}

/// The offsets of the nodes that may become primary.
fn offsets(round: &Round) -> BTreeMap<NodeId, u64> {
    round
        .answers
        .iter()
        .filter(|(_, info)| info.role == Role::Replica)
        .map(|(node, info)| (node.clone(), info.offset))
        .collect()
}
