//! How long a sentinel's announcement may keep requests waiting, and how often.

use std::time::Duration;

use super::sentinel::Stage;
use crate::topology::{NodeId, Timestamp};

/// One sentinel alone doubts the primary: others agree soon, or they do not.
const SUBJECTIVE: Duration = Duration::from_millis(300);

/// From the first claim to the choice of a replica: an election takes up to a second.
const CLAIMED: Duration = Duration::from_secs(2);

/// The longest wait for a promotion that a leader announced, shorter than clients are held.
const CHOSEN_MOST: Duration = Duration::from_secs(8);

/// A leader counts its time limit from its next step, and looks at the clock ten times a second: until
/// then it may still take the promotion.
const GIVING_UP: Duration = Duration::from_millis(400);

/// A hold that led to nothing is followed by so many times its length in which the same
/// announcement of the same sentinel holds nothing: one that flaps or lies gets a tenth of the time.
const QUIET_FACTOR: u32 = 9;

/// What one sentinel's announcements do to the gate.
#[derive(Clone, Debug, Default)]
pub(super) struct Hold {
    doubt: Option<Doubt>,
    quiet: Option<(Stage, Timestamp)>,
}

/// An announcement that holds requests.
#[derive(Clone, Debug)]
pub(super) struct Doubt {
    pub stage: Stage,
    /// Who takes over, as soon as that is known.
    pub replica: Option<NodeId>,
    /// When the first announcement of this doubt came.
    since: Timestamp,
    /// When it ends if nothing follows.
    pub until: Timestamp,
}

impl Hold {
    /// The announcement that holds requests now.
    pub(super) fn doubt(&self) -> Option<&Doubt> {
        self.doubt.as_ref()
    }

    /// Takes in an announcement. A later stage prolongs the hold, the same one does not.
    pub(super) fn raise(
        &mut self,
        stage: Stage,
        replica: Option<NodeId>,
        failover_timeout: Duration,
        now: Timestamp,
    ) {
        if self
            .quiet
            .is_some_and(|(s, until)| stage <= s && now < until)
        {
            return;
        }
        let limit = match stage {
            Stage::Subjective => SUBJECTIVE,
            Stage::Objective | Stage::Claimed => CLAIMED,
            Stage::Elected | Stage::Chosen => (failover_timeout + GIVING_UP).min(CHOSEN_MOST),
        };
        match &mut self.doubt {
            Some(doubt) if stage <= doubt.stage => {
                doubt.replica = doubt.replica.take().or(replica);
            }
            Some(doubt) => {
                doubt.stage = stage;
                doubt.replica = doubt.replica.take().or(replica);
                doubt.until = now + limit;
            }
            None => {
                self.doubt = Some(Doubt {
                    stage,
                    replica,
                    since: now,
                    until: now + limit,
                });
            }
        }
    }

    /// The sentinel takes back what it doubted; a failover that it leads is not ended by that.
    pub(super) fn trust(&mut self, now: Timestamp) {
        if self
            .doubt
            .as_ref()
            .is_some_and(|d| d.stage < Stage::Claimed)
        {
            self.drop_doubt(now);
        }
    }

    /// The doubt led to nothing.
    pub(super) fn drop_doubt(&mut self, now: Timestamp) {
        if let Some(doubt) = self.doubt.take() {
            let quiet = (now - doubt.since) * QUIET_FACTOR;
            self.quiet = Some((doubt.stage, now + quiet));
        }
    }

    /// Ends what has lasted too long.
    pub(super) fn expire(&mut self, now: Timestamp) {
        if self.doubt.as_ref().is_some_and(|d| now >= d.until) {
            self.drop_doubt(now);
        }
    }

    /// The doubt was right: another node is primary.
    pub(super) fn clear(&mut self) {
        *self = Hold::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_millis(millis))
    }

    const LIMIT: Duration = Duration::from_secs(180);

    #[test]
    fn a_sentinel_that_repeats_itself_holds_no_longer() {
        let mut hold = Hold::default();
        hold.raise(Stage::Subjective, None, LIMIT, at(0));
        hold.raise(Stage::Subjective, None, LIMIT, at(290));
        hold.expire(at(299));
        assert!(hold.doubt().is_some());
        hold.expire(at(300));
        assert!(hold.doubt().is_none());
    }

    #[test]
    fn one_that_flaps_holds_a_tenth_of_the_time() {
        let mut hold = Hold::default();
        let mut held = 0;
        for now in 0..60_000 {
            match now % 20 {
                0 => hold.raise(Stage::Subjective, None, LIMIT, at(now)),
                15 => hold.trust(at(now)),
                _ => {}
            }
            hold.expire(at(now));
            held += u64::from(hold.doubt().is_some());
        }
        assert!((1000..=6000).contains(&held), "{held}");
    }

    #[test]
    fn a_later_stage_is_heard_in_the_quiet_after_an_earlier_one() {
        let mut hold = Hold::default();
        hold.raise(Stage::Claimed, None, LIMIT, at(0));
        hold.drop_doubt(at(1000));
        hold.raise(Stage::Claimed, None, LIMIT, at(1001));
        assert!(hold.doubt().is_none());
        let replica = Some(NodeId::new("a:1"));
        hold.raise(Stage::Chosen, replica.clone(), LIMIT, at(1002));
        assert_eq!(hold.doubt().and_then(|d| d.replica.clone()), replica);
        // It lasts as long as the failover may, at most 8 s.
        hold.expire(at(9001));
        assert!(hold.doubt().is_some());
        hold.expire(at(9002));
        assert!(hold.doubt().is_none());
    }

    #[test]
    fn a_failover_is_not_ended_by_a_sentinel_that_reaches_the_primary_again() {
        let mut hold = Hold::default();
        hold.raise(Stage::Chosen, None, LIMIT, at(0));
        hold.trust(at(1));
        assert!(hold.doubt().is_some());
        hold.drop_doubt(at(2));
        assert!(hold.doubt().is_none());
    }
}
