//! Model sentinels: they watch the model primary, elect a leader, promote, and tell each other, with the
//! steps and the delays of the real ones (shortened where those are long).

use std::collections::BTreeMap;
use std::time::Duration;

use pointsman::failover::{
    AskOutcome, Event, NodeOp, OpId, SentinelEvent, SentinelNews, Stage, Statement,
};
use pointsman::resp::info::Role;
use pointsman::topology::{Epoch, Gate, NodeId};

use super::world::{Due, MS, World};
use super::{index_of, node_id};

/// `down-after-milliseconds`
const DOWN_AFTER: u64 = 1000 * MS;

/// `failover-timeout`
const FAILOVER_TIMEOUT: u64 = 3000 * MS;

/// Before a node that says master, and should not, is made a replica. The real ones wait 8 s.
const CONVERT_AFTER: u64 = 3000 * MS;

/// Between two looks of a sentinel.
const TICK: u64 = 100 * MS;

/// One model sentinel.
#[derive(Clone, Debug)]
pub struct ModelSentinel {
    pub alive: bool,
    /// Hears nothing from the others.
    pub deaf: bool,
    pub epoch: u64,
    pub primary: usize,
    current: u64,
    down_since: Option<u64>,
    doubt: Option<Stage>,
    lead: Option<Lead>,
    tried_at: Option<u64>,
    /// Since when a node says master that should not.
    wrong_since: BTreeMap<usize, u64>,
}

impl ModelSentinel {
    pub fn is_leading(&self) -> bool {
        self.lead.is_some()
    }
}

/// A failover that it leads.
#[derive(Clone, Debug)]
struct Lead {
    epoch: u64,
    replica: Option<usize>,
    since: u64,
}

/// What is due at a sentinel.
#[derive(Clone, Debug)]
pub enum SentinelDue {
    Tick,
    Poll {
        monitor: usize,
        life: u32,
        periodic: bool,
    },
    /// The next step of the failover of this epoch.
    Step(u64, Step),
    Asked {
        monitor: usize,
        life: u32,
        op: OpId,
        expires: u64,
    },
}

#[derive(Clone, Copy, Debug)]
pub enum Step {
    Elected,
    Select,
    Promote,
    Confirm,
}

/// What the world remembers of its sentinels.
#[derive(Clone, Debug, Default)]
pub struct Council {
    pub sentinels: Vec<ModelSentinel>,
    /// Percent of announcements that do not arrive.
    pub lost: u64,
    /// Every promotion: its failover's epoch, and the node.
    pub promotions: Vec<(u64, usize)>,
    /// What each monitor heard last: by monitor and sentinel.
    heard: BTreeMap<(usize, usize), Statement>,
    /// The newest configuration that most sentinels told a monitor.
    believed: BTreeMap<usize, (u64, usize)>,
}

fn address(sentinel: usize) -> NodeId {
    NodeId::new(format!("sentinel:{}", 26000 + sentinel))
}

fn number(address: &NodeId) -> usize {
    address
        .host_port()
        .map_or(0, |(_, port)| usize::from(port) - 26000)
}

impl World {
    /// Adds sentinels that name node 0 in epoch 0.
    pub fn with_sentinels(mut self, count: usize) -> World {
        let sentinel = ModelSentinel {
            alive: true,
            deaf: false,
            epoch: 0,
            primary: 0,
            current: 0,
            down_since: None,
            doubt: None,
            lead: None,
            tried_at: None,
            wrong_since: BTreeMap::new(),
        };
        self.council.sentinels = vec![sentinel; count];
        for number in 0..count {
            self.at(
                self.now + number as u64 * 37 * MS,
                Due::Sentinel(number, SentinelDue::Tick),
            );
        }
        for monitor in 0..self.monitors.len() {
            self.introduce_sentinels(monitor);
        }
        self
    }

    /// A monitor begins to ask and to listen.
    pub fn introduce_sentinels(&mut self, monitor: usize) {
        let count = self.council.sentinels.len();
        if count == 0 {
            return;
        }
        self.council.heard.retain(|(m, _), _| *m != monitor);
        self.council.believed.remove(&monitor);
        let life = self.monitors[monitor].life;
        let listed = (0..count).map(address).collect();
        self.deliver(monitor, Event::Sentinels { listed });
        for sentinel in 0..count {
            let poll = SentinelDue::Poll {
                monitor,
                life,
                periodic: true,
            };
            self.at(self.now + MS, Due::Sentinel(sentinel, poll));
        }
    }

    pub fn sentinel_happens(&mut self, sentinel: usize, due: SentinelDue) {
        match due {
            SentinelDue::Tick => {
                if self.council.sentinels[sentinel].alive {
                    self.sentinel_ticks(sentinel);
                }
                let again = self.now + TICK + self.rng.below(10 * MS);
                self.at(again, Due::Sentinel(sentinel, SentinelDue::Tick));
            }
            SentinelDue::Poll {
                monitor,
                life,
                periodic,
            } => self.sentinel_polled(sentinel, monitor, life, periodic),
            SentinelDue::Step(epoch, step) => self.sentinel_steps(sentinel, epoch, step),
            SentinelDue::Asked {
                monitor,
                life,
                op,
                expires,
            } => self.sentinel_asked(sentinel, monitor, life, op, expires),
        }
    }

    pub fn consult_sentinels(&mut self, monitor: usize) {
        let life = self.monitors[monitor].life;
        for sentinel in 0..self.council.sentinels.len() {
            let poll = SentinelDue::Poll {
                monitor,
                life,
                periodic: false,
            };
            self.at(self.now + self.latency, Due::Sentinel(sentinel, poll));
        }
    }

    pub fn ask_failover(&mut self, monitor: usize, op: OpId, sentinel: &NodeId, timeout: Duration) {
        let asked = SentinelDue::Asked {
            monitor,
            life: self.monitors[monitor].life,
            op,
            expires: self.now + timeout.as_nanos() as u64,
        };
        self.at(
            self.now + self.latency,
            Due::Sentinel(number(sentinel), asked),
        );
    }

    fn sentinel_polled(&mut self, sentinel: usize, monitor: usize, life: u32, periodic: bool) {
        if self.monitors[monitor].life != life {
            return;
        }
        let it = &self.council.sentinels[sentinel];
        let news = match it.alive {
            false => SentinelNews::Failed("refuses connections".into()),
            true => SentinelNews::Stated(Box::new(self.statement(sentinel))),
        };
        let lag = self.latency + self.rng.below(5 * MS);
        let event = Event::Sentinel {
            sentinel: address(sentinel),
            news,
        };
        self.deliver_at(self.now + lag, monitor, life, event);
        if periodic {
            let poll = SentinelDue::Poll {
                monitor,
                life,
                periodic,
            };
            self.at(self.now + 1000 * MS, Due::Sentinel(sentinel, poll));
        }
    }

    fn statement(&self, sentinel: usize) -> Statement {
        let it = &self.council.sentinels[sentinel];
        let others = (0..self.council.sentinels.len()).filter(|n| *n != sentinel);
        let lead = it.lead.as_ref().map(|lead| match lead.replica {
            Some(_) => Stage::Chosen,
            None => Stage::Claimed,
        });
        Statement {
            id: format!("id{sentinel}").into(),
            primary: node_id(it.primary),
            epoch: Epoch(it.epoch),
            doubt: lead.or(it.doubt),
            failover_timeout: Duration::from_nanos(FAILOVER_TIMEOUT),
            peers: others.map(|n| format!("id{n}").into()).collect(),
        }
    }

    /// Tells every monitor that hears it.
    pub fn announce(&mut self, sentinel: usize, event: SentinelEvent) {
        self.log(format!("sentinel {sentinel}: {event:?}"));
        for monitor in 0..self.monitors.len() {
            if self.rng.chance(self.council.lost) {
                continue;
            }
            let life = self.monitors[monitor].life;
            let lag = self.latency + self.rng.below(2 * MS);
            let event = Event::Sentinel {
                sentinel: address(sentinel),
                news: SentinelNews::Announced(event.clone()),
            };
            self.deliver_at(self.now + lag, monitor, life, event);
        }
    }

    fn doubts(&mut self, sentinel: usize, stage: Stage, replica: Option<usize>) {
        let primary = node_id(self.council.sentinels[sentinel].primary);
        let replica = replica.map(node_id);
        self.announce(
            sentinel,
            SentinelEvent::Doubts {
                stage,
                primary,
                replica,
            },
        );
    }

    pub fn kill_sentinel(&mut self, sentinel: usize) {
        self.log(format!("KILL sentinel {sentinel}"));
        let it = &mut self.council.sentinels[sentinel];
        it.alive = false;
        it.lead = None;
        it.doubt = None;
        it.down_since = None;
        for monitor in 0..self.monitors.len() {
            let life = self.monitors[monitor].life;
            let news = SentinelNews::Failed("ended the connection".into());
            let event = Event::Sentinel {
                sentinel: address(sentinel),
                news,
            };
            self.deliver_at(self.now + self.latency, monitor, life, event);
        }
    }

    fn sentinel_ticks(&mut self, sentinel: usize) {
        self.adopt(sentinel);
        let it = self.council.sentinels[sentinel].clone();
        let node = &self.nodes[it.primary];
        let up = node.answers() && node.role == Role::Primary && !node.is_loading(self.now);
        let (now, primary) = (self.now, it.primary);
        if up {
            self.council.sentinels[sentinel].down_since = None;
            if self.council.sentinels[sentinel].doubt.take().is_some() {
                let primary = node_id(primary);
                self.announce(sentinel, SentinelEvent::Trusts { primary });
            }
            self.make_replicas(sentinel);
            return;
        }
        let since = *self.council.sentinels[sentinel]
            .down_since
            .get_or_insert(now);
        if now - since < DOWN_AFTER {
            return;
        }
        if it.doubt.is_none() {
            self.council.sentinels[sentinel].doubt = Some(Stage::Subjective);
            self.doubts(sentinel, Stage::Subjective, None);
        }
        let down = |s: &&ModelSentinel| s.alive && s.doubt.is_some() && s.primary == primary;
        if self.council.sentinels.iter().filter(down).count() < 2 {
            return;
        }
        if it.doubt != Some(Stage::Objective) {
            self.council.sentinels[sentinel].doubt = Some(Stage::Objective);
            self.doubts(sentinel, Stage::Objective, None);
        }
        let led = self.council.sentinels.iter().any(|s| s.lead.is_some());
        let tried = self
            .council
            .sentinels
            .iter()
            .filter_map(|s| s.tried_at)
            .max();
        let rests = tried.is_some_and(|at| now - at < 2 * FAILOVER_TIMEOUT);
        if !led && !rests {
            self.begin_failover(sentinel);
        }
    }

    /// Hears of a newer configuration.
    fn adopt(&mut self, sentinel: usize) {
        if self.council.sentinels[sentinel].deaf {
            return;
        }
        let alive = self.council.sentinels.iter().filter(|s| s.alive);
        let Some(newest) = alive.max_by_key(|s| s.epoch).cloned() else {
            return;
        };
        let it = &mut self.council.sentinels[sentinel];
        if newest.epoch > it.epoch {
            it.epoch = newest.epoch;
            it.primary = newest.primary;
            it.current = it.current.max(newest.epoch);
            it.doubt = None;
            it.down_since = None;
            it.lead = None;
            it.tried_at = None;
            it.wrong_since.clear();
        }
    }

    /// The primary serves: whoever does not follow it is made to.
    fn make_replicas(&mut self, sentinel: usize) {
        let primary = self.council.sentinels[sentinel].primary;
        for node in 0..self.nodes.len() {
            let it = &self.nodes[node];
            let wrong = node != primary && it.master != Some(primary) && it.answers();
            let since = &mut self.council.sentinels[sentinel].wrong_since;
            if !wrong {
                since.remove(&node);
                continue;
            }
            let since = *since.entry(node).or_insert(self.now);
            if self.now - since >= CONVERT_AFTER {
                let to = node_id(primary);
                self.operate(node, &NodeOp::Repoint { to });
            }
        }
    }

    /// Begins to lead; `false`: it leads already.
    pub fn begin_failover(&mut self, sentinel: usize) -> bool {
        let newest = self.council.sentinels.iter().map(|s| s.current).max();
        let epoch = newest.unwrap_or(0) + 1;
        let it = &mut self.council.sentinels[sentinel];
        if it.lead.is_some() || !it.alive {
            return false;
        }
        it.current = epoch;
        it.lead = Some(Lead {
            epoch,
            replica: None,
            since: self.now,
        });
        it.tried_at = Some(self.now);
        self.announce(sentinel, SentinelEvent::NewEpoch(Epoch(epoch)));
        self.doubts(sentinel, Stage::Claimed, None);
        let wait = self.rng.below(150 * MS);
        self.sentinel_step(sentinel, wait, epoch, Step::Elected);
        true
    }

    fn sentinel_step(&mut self, sentinel: usize, wait: u64, epoch: u64, step: Step) {
        let due = Due::Sentinel(sentinel, SentinelDue::Step(epoch, step));
        self.at(self.now + wait, due);
    }

    fn sentinel_steps(&mut self, sentinel: usize, epoch: u64, step: Step) {
        let it = self.council.sentinels[sentinel].clone();
        let Some(lead) = it.lead.filter(|lead| lead.epoch == epoch && it.alive) else {
            return;
        };
        let late = self.now - lead.since > FAILOVER_TIMEOUT;
        match (step, lead.replica) {
            (Step::Elected, _) => {
                self.doubts(sentinel, Stage::Elected, None);
                self.sentinel_step(sentinel, TICK, epoch, Step::Select);
            }
            (Step::Select, _) => match self.good_replica(it.primary) {
                Some(replica) => {
                    if let Some(lead) = &mut self.council.sentinels[sentinel].lead {
                        lead.replica = Some(replica);
                    }
                    self.doubts(sentinel, Stage::Chosen, Some(replica));
                    self.sentinel_step(sentinel, 80 * MS, epoch, Step::Promote);
                }
                None => self.give_up(sentinel, "-failover-abort-no-good-slave"),
            },
            (Step::Promote | Step::Confirm, Some(_)) if late => {
                self.give_up(sentinel, "-failover-abort-slave-timeout");
            }
            (Step::Promote, Some(replica)) => {
                if !self.nodes[replica].answers() {
                    return self.sentinel_step(sentinel, TICK, epoch, Step::Promote);
                }
                self.council.promotions.push((epoch, replica));
                self.operate(replica, &NodeOp::Promote);
                let wait = self.rng.below(1000 * MS);
                self.sentinel_step(sentinel, wait, epoch, Step::Confirm);
            }
            (Step::Confirm, Some(replica)) => {
                let node = &self.nodes[replica];
                if !node.answers() || node.role != Role::Primary {
                    return self.sentinel_step(sentinel, TICK, epoch, Step::Confirm);
                }
                self.log(format!(
                    "sentinel {sentinel} names {replica} in epoch {epoch}"
                ));
                let it = &mut self.council.sentinels[sentinel];
                it.epoch = epoch;
                it.primary = replica;
                it.lead = None;
                it.doubt = None;
                it.down_since = None;
                it.tried_at = None;
            }
            (Step::Promote | Step::Confirm, None) => {}
        }
    }

    fn good_replica(&self, primary: usize) -> Option<usize> {
        let good = |n: &&super::ModelNode| {
            n.index != primary && n.answers() && n.priority > 0 && !n.is_loading(self.now)
        };
        let good = self.nodes.iter().filter(good);
        good.max_by_key(|n| n.offset).map(|n| n.index)
    }

    pub fn give_up(&mut self, sentinel: usize, word: &str) {
        self.council.sentinels[sentinel].lead = None;
        self.announce(sentinel, SentinelEvent::GaveUp { word: word.into() });
    }

    fn sentinel_asked(
        &mut self,
        sentinel: usize,
        monitor: usize,
        life: u32,
        op: OpId,
        expires: u64,
    ) {
        let it = &self.council.sentinels[sentinel];
        let refused = |why: &str| AskOutcome::Refused(why.to_owned());
        let outcome = if !it.alive {
            refused("refuses connections")
        } else if it.lead.is_some() {
            refused("INPROG")
        } else if self.good_replica(it.primary).is_none() {
            refused("NOGOODSLAVE")
        } else {
            self.begin_failover(sentinel);
            AskOutcome::Done
        };
        let (at, outcome) = match self.rng.chance(self.noise.lost_replies) {
            true => (expires, AskOutcome::Unknown("no answer in time".to_owned())),
            false => (self.now + self.latency, outcome),
        };
        self.deliver_at(at, monitor, life, Event::FailoverAsked { op, outcome });
    }

    // ---- what must hold ----

    /// Remembers what a monitor was told.
    pub fn note_statement(&mut self, monitor: usize, event: &Event) {
        let Event::Sentinel { sentinel, news } = event else {
            return;
        };
        let key = (monitor, number(sentinel));
        match news {
            SentinelNews::Stated(statement) => {
                self.council.heard.insert(key, (**statement).clone());
            }
            SentinelNews::Failed(_) => {
                self.council.heard.remove(&key);
            }
            SentinelNews::Announced(_) => return,
        }
        let said: Vec<(u64, usize)> = self
            .council
            .heard
            .iter()
            .filter(|((m, _), _)| *m == monitor)
            .map(|(_, s)| (s.epoch.0, index_of(&s.primary)))
            .collect();
        let majority = self.council.sentinels.len() / 2 + 1;
        let agreed = said
            .iter()
            .find(|one| said.iter().filter(|other| other == one).count() >= majority);
        if let Some(agreed) = agreed {
            let believed = self.council.believed.entry(monitor).or_insert(*agreed);
            *believed = (*believed).max(*agreed);
        }
    }

    /// An open gate leads to whom most sentinels named last, or to a replica that a newer failover
    /// promoted.
    pub fn check_led(&mut self, monitor: usize) {
        let view = self.monitors[monitor].view.as_ref();
        let open = view.filter(|v| v.gate == Gate::Open);
        let Some(node) = open
            .and_then(|v| v.primary.as_ref())
            .map(|p| index_of(&p.node))
        else {
            return;
        };
        match self.council.believed.get(&monitor).copied() {
            Some((_, named)) if named == node => {}
            Some((epoch, named)) => {
                let newer = |(e, n): &(u64, usize)| *e > epoch && *n == node;
                if !self.council.promotions.iter().any(newer) {
                    self.violate(format!(
                        "node {node} gets traffic, and most sentinels name {named} in epoch {epoch}"
                    ));
                }
            }
            // Without a majority the nodes themselves must agree; the core's own rule.
            None => {}
        }
    }
}
