//! The loop: learns, asks [`Duty`], and takes, renews, announces or drops the address.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::duty::{Duty, NodeSays, Published, Reason, Verdict};
use super::frame::Mac;
use super::kernel::Kernel;
use super::local;
use super::settings::VipSettings;
use super::status::{VipState, VipStatus};
use super::wire::Wire;
use crate::admin::PrimaryAnswer;
use crate::clock;
use crate::metrics::{VipDrop, VipMetrics};
use crate::topology::{Primary, Timestamp};

/// The address is free when so many probes in a row were not answered.
const PROBES: u32 = 3;

/// Between two probes: hosts of one network answer in a fraction of it.
const PROBE_GAP: Duration = Duration::from_millis(40);

/// A host that still answers this long after the address should have been free is worth a warning.
const CONFLICT_AFTER: Duration = Duration::from_secs(1);

/// When the address is announced, after it was taken: any of these frames may be lost.
const ANNOUNCEMENTS: &[Duration] = &[
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(3),
];

/// After those: for a neighbour or switch that missed all of them.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(30);

/// While it is here, this often another host that has it too is looked for.
const CHECK: Duration = Duration::from_secs(10);

/// A conflict that was not seen for this long is over.
const CONFLICT_OVER: Duration = Duration::from_secs(25);

/// RFC 5227, `DEFEND_INTERVAL`: not more often does an announcement answer a conflict.
const DEFEND: Duration = Duration::from_secs(10);

/// What the kernel or the interface refused is tried again after this.
const RETRY: Duration = Duration::from_millis(500);

/// Ending connections must not hold up the dropping of the address for longer.
const END_LIMIT: Duration = Duration::from_millis(200);

/// The error of a pointsman before its first answer.
pub(super) const NOT_ASKED: &str = "not asked yet";

/// What the tasks around the loop saw.
pub(super) enum Event {
    /// Which pointsman, and what it said or why it said nothing.
    Monitor(usize, Result<News, String>),
    /// The node, asked at that time.
    Node(NodeSays, Timestamp),
    /// The node gives no answer of use.
    NodeSilent(String),
}

/// An answer, and when its question was sent.
pub(super) struct News {
    pub(super) answer: PrimaryAnswer,
    pub(super) asked: Timestamp,
}

/// Whether the address is here.
#[derive(Debug)]
pub(super) enum State {
    Free,
    Claiming {
        since: Timestamp,
        /// Probes in a row that nobody answered.
        silence: u32,
        next: Timestamp,
    },
    Held {
        since: Timestamp,
        renew: Timestamp,
        announced: usize,
        announce: Timestamp,
        check: Timestamp,
    },
}

/// Another host that answers for the address.
#[derive(Debug)]
pub(super) struct Conflict {
    mac: Mac,
    seen: Timestamp,
    /// Last answered with an announcement.
    defended: Option<Timestamp>,
}

/// The agent for one address.
pub struct Agent {
    pub(super) settings: VipSettings,
    pub(super) duty: Duty,
    pub(super) state: State,
    pub(super) conflict: Option<Conflict>,
    pub(super) kernel: Kernel,
    /// `None` after an error, until it can be opened again.
    pub(super) wire: Option<Wire>,
    pub(super) reopen: Timestamp,
    /// What the kernel or the interface refused last; said once.
    pub(super) trouble: Option<String>,
    pub(super) metrics: VipMetrics,
    pub(super) status: watch::Sender<VipStatus>,
    /// Why the node gives no answer of use.
    pub(super) node_error: Option<String>,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) ask_node: Arc<Notify>,
    /// Ask the node and the pointsmen; they end with the agent.
    pub(super) _tasks: JoinSet<()>,
}

impl Agent {
    /// What the agent says about itself.
    pub fn status(&self) -> watch::Receiver<VipStatus> {
        self.status.subscribe()
    }

    /// Runs until `stop`, then drops the address.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            self.step().await;
            self.tell();
            let pause = self.next().since(clock::now());
            tokio::select! {
                biased;
                () = &mut stop => break,
                Some(event) = self.events.recv() => self.note(event),
                seen = claimant(self.wire.as_ref()) => self.seen(seen),
                () = sleep(pause) => {}
            }
        }
        if matches!(self.state, State::Held { .. }) {
            self.release("the agent was told to stop".to_owned(), VipDrop::Stopped)
                .await;
        }
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Node(says, asked) => {
                self.node_error = None;
                self.duty.node_says(says, asked);
            }
            Event::NodeSilent(why) => self.node_error = Some(why),
            Event::Monitor(index, said) => {
                let said = said.and_then(|news| self.learn(news));
                self.note_pointsman(index, said.err());
            }
        }
    }

    fn learn(&mut self, news: News) -> Result<(), String> {
        let follows = news.answer.authority == "follow";
        if follows && self.settings.pointsmen.len() > 1 {
            return Err(
                "it follows and decides nothing: ask those that decide, or it alone".into(),
            );
        }
        let node = &self.settings.node;
        let known =
            |primary: &Primary| primary.node == *node || news.answer.replicas.contains(node);
        if !news.answer.primary.as_ref().is_none_or(known) {
            return Err(format!("it does not know the node {node}"));
        }
        let published = Published {
            epoch: news.answer.epoch,
            gate: news.answer.gate,
            primary: news.answer.primary,
        };
        let changed = self.duty.newest() != Some(&published);
        let nobody = published.primary.is_none();
        if !self.duty.published(published, !follows, news.asked) {
            return Err(match nobody {
                true => "it has no primary yet".to_owned(),
                false => format!("it is behind: it publishes epoch {}", news.answer.epoch),
            });
        }
        if changed {
            // What the node said before may be old news now.
            self.ask_node.notify_one();
        }
        Ok(())
    }

    fn note_pointsman(&self, index: usize, error: Option<String>) {
        self.metrics.pointsman_up(index, error.is_none());
        let known = self.status.borrow().pointsmen[index].clone();
        let pointsman = &known.address;
        // Once for each time that it is away, however the reason changes.
        let was_away = matches!(&known.error, Some(why) if why != NOT_ASKED);
        match &error {
            Some(why) if !was_away => {
                tracing::warn!(%pointsman, why, "a pointsman gives no answer of use");
            }
            None if known.error.is_some() => tracing::info!(%pointsman, "a pointsman answers"),
            _ => {}
        }
        self.status
            .send_modify(|status| status.pointsmen[index].error = error);
    }

    /// Another host says that it has the address, or the wire failed.
    fn seen(&mut self, seen: io::Result<Mac>) {
        match seen {
            Ok(mac) => self.other_answers(mac),
            Err(error) => self.wire_failed(&error),
        }
    }

    fn wire_failed(&mut self, error: &io::Error) {
        self.troubled("the interface can not be used", error);
        self.wire = None;
        self.reopen = clock::now() + RETRY;
        if let State::Claiming { silence, .. } = &mut self.state {
            // Nobody was asked.
            *silence = 0;
        }
    }

    /// Says once what does not work, until it works or something else does not.
    fn troubled(&mut self, what: &str, error: &io::Error) {
        let trouble = format!("{what}: {error}");
        self.metrics.failures.increment(1);
        if self.trouble.as_ref() != Some(&trouble) {
            let (address, interface) = (self.settings.address, &self.settings.interface);
            tracing::error!(%address, interface, trouble, "this host can not do what is due");
            self.trouble = Some(trouble);
        }
    }

    /// Opens the wire again. The interface may be another one of the same name by now, and its
    /// neighbours may have forgotten.
    fn reopen(&mut self, now: Timestamp) {
        match Wire::open(&self.settings.interface, self.settings.address) {
            Ok(wire) => {
                self.kernel.moved_to(wire.index());
                self.wire = Some(wire);
                if let State::Held {
                    since,
                    renew,
                    announced,
                    announce,
                    ..
                } = &mut self.state
                {
                    (*since, *renew, *announced, *announce) = (now, now, 0, now);
                }
            }
            Err(error) => self.wire_failed(&error),
        }
    }

    fn other_answers(&mut self, mac: Mac) {
        let now = clock::now();
        let worth_saying = match &mut self.state {
            // Somebody has it, as it should be.
            State::Free => return,
            State::Claiming { since, silence, .. } => {
                *silence = 0;
                now.since(*since) >= CONFLICT_AFTER
            }
            State::Held { .. } => true,
        };
        if !worth_saying {
            return;
        }
        let known = self.conflict.as_ref().filter(|known| known.mac == mac);
        let mut defended = known.and_then(|known| known.defended);
        if known.is_none() {
            let address = self.settings.address;
            match self.state {
                State::Held { .. } => {
                    tracing::warn!(event = "vip-conflict", %address, other = %mac,
                    "another host answers for the address too; it stays here, where it belongs")
                }
                _ => tracing::warn!(event = "vip-conflict", %address, other = %mac,
                    "another host answers for the address; it is not taken before that ends"),
            }
        }
        if let State::Held { announce, .. } = &mut self.state
            && defended.is_none_or(|at| now.since(at) >= DEFEND)
        {
            *announce = now;
            defended = Some(now);
        }
        self.conflict = Some(Conflict {
            mac,
            seen: now,
            defended,
        });
    }

    /// Does what is due.
    async fn step(&mut self) {
        let now = clock::now();
        if self.wire.is_none() && self.reopen <= now {
            self.reopen(now);
        }
        match (self.duty.verdict(now), &self.state) {
            (Verdict::Leave(reason), State::Held { .. }) => {
                self.release(reason.to_string(), reason.label()).await;
            }
            (Verdict::Leave(_) | Verdict::Keep { .. }, State::Claiming { .. }) => {
                self.state = State::Free;
                self.conflict = None;
            }
            (Verdict::Leave(_) | Verdict::Keep { .. }, State::Free) => {}
            (Verdict::Take { .. }, State::Free) => {
                self.state = State::Claiming {
                    since: now,
                    silence: 0,
                    next: now,
                };
                self.claim(now).await;
            }
            (Verdict::Take { .. }, State::Claiming { .. }) => self.claim(now).await,
            (Verdict::Take { until } | Verdict::Keep { until }, State::Held { .. }) => {
                self.hold(now, until).await;
            }
        }
    }

    async fn claim(&mut self, now: Timestamp) {
        // Answers may have waited longer than the pause between two probes, when this process did.
        while let Some(seen) = self.wire.as_ref().and_then(Wire::waiting) {
            self.seen(seen);
        }
        let (Some(wire), State::Claiming { silence, next, .. }) = (&self.wire, &mut self.state)
        else {
            return;
        };
        if now < *next {
            return;
        }
        if *silence < PROBES {
            *next = now + PROBE_GAP;
            match wire.probe() {
                Ok(()) => {
                    *silence += 1;
                    self.trouble = None;
                }
                Err(error) => self.wire_failed(&error),
            }
            return;
        }
        self.take(now).await;
    }

    async fn take(&mut self, now: Timestamp) {
        let Verdict::Take { until } = self.duty.verdict(clock::now()) else {
            return;
        };
        let address = self.settings.address;
        if let Err(error) = self.kernel.give(until.since(now)).await {
            self.troubled("the address can not be taken", &error);
            if let State::Claiming { next, .. } = &mut self.state {
                *next = now + RETRY;
            }
            return;
        }
        let epoch = self.duty.newest().map_or(0, |newest| newest.epoch.0);
        tracing::info!(event = "+vip", %address, epoch, "this host has the address now");
        self.trouble = None;
        self.metrics.taken.increment(1);
        self.conflict = None;
        self.state = State::Held {
            since: now,
            renew: now + self.settings.lease / 4,
            announced: 0,
            announce: now,
            check: now + CHECK,
        };
        self.hold(now, until).await;
    }

    async fn hold(&mut self, now: Timestamp, until: Timestamp) {
        let State::Held {
            since,
            renew,
            announced,
            announce,
            check,
        } = &mut self.state
        else {
            return;
        };
        let mut sent = None;
        if let Some(wire) = &self.wire {
            if *announce <= now {
                sent = Some(wire.announce());
                *announced += 1;
                *announce = match ANNOUNCEMENTS.get(*announced) {
                    Some(after) => *since + *after,
                    None => now + ANNOUNCE_AGAIN,
                };
            }
            if *check <= now {
                *check = now + CHECK;
                sent = Some(wire.probe());
            }
        }
        if *renew <= now {
            *renew = now + self.settings.lease / 4;
            if let Err(error) = self.kernel.give(until.since(now)).await {
                self.troubled("the address can not be renewed", &error);
            }
        }
        match sent {
            Some(Ok(())) => self.trouble = None,
            Some(Err(error)) => self.wire_failed(&error),
            None => {}
        }
        let over = |conflict: &Conflict| now.since(conflict.seen) >= CONFLICT_OVER;
        if self.conflict.as_ref().is_some_and(over) {
            let address = self.settings.address;
            tracing::info!(%address, "no other host answers for the address any more");
            self.conflict = None;
        }
    }

    /// Ends connections while the other end can still be told, takes the address away, and ends what
    /// was opened in between.
    async fn release(&mut self, reason: String, label: VipDrop) {
        let address = self.settings.address;
        let before = self.end_connections().await;
        if let Err(error) = self.kernel.take_away().await {
            self.metrics.failures.increment(1);
            tracing::error!(%address, %error,
                "the address can not be taken away; it is not renewed and ends with its lifetime");
        }
        let after = self.end_connections().await;
        let connections = before + after;
        match label {
            VipDrop::OtherPrimary | VipDrop::Stopped => {
                tracing::info!(event = "-vip", %address, reason, connections,
                    "this host has dropped the address");
            }
            _ => tracing::warn!(event = "-vip", %address, reason, connections,
                    "this host has dropped the address"),
        }
        self.metrics.dropped(label);
        self.metrics.connections_ended.increment(connections);
        self.state = State::Free;
        self.conflict = None;
    }

    async fn end_connections(&self) -> u64 {
        end_connections(&self.settings, &self.kernel).await
    }

    /// When something is due although nothing happens.
    fn next(&self) -> Timestamp {
        let now = clock::now();
        let due = match &self.state {
            State::Free => now + self.settings.lease,
            State::Claiming { next, .. } => match self.wire {
                Some(_) => *next,
                None => self.reopen,
            },
            State::Held {
                renew,
                announce,
                check,
                ..
            } => {
                let timers = match self.wire {
                    Some(_) => (*renew).min(*announce).min(*check),
                    None => (*renew).min(self.reopen),
                };
                match self.duty.verdict(now) {
                    Verdict::Take { until } | Verdict::Keep { until } => timers.min(until),
                    Verdict::Leave(_) => now,
                }
            }
        };
        match self.wire {
            Some(_) => due,
            None => due.min(self.reopen),
        }
    }

    fn tell(&self) {
        let verdict = self.duty.verdict(clock::now());
        let held = matches!(self.state, State::Held { .. });
        self.metrics.held.set(f64::from(u8::from(held)));
        let conflict = self.conflict.as_ref().map(|other| other.mac.to_string());
        let contested = f64::from(u8::from(conflict.is_some()));
        self.metrics.conflict.set(contested);
        let reason = match (&self.state, verdict) {
            _ if self.trouble.is_some() => self.trouble.clone(),
            (State::Held { .. }, _) => None,
            (_, Verdict::Leave(Reason::NodeUnknown | Reason::NodeSilent))
                if self.node_error.is_some() =>
            {
                self.node_error
                    .as_ref()
                    .map(|why| format!("the node: {why}"))
            }
            (_, Verdict::Leave(reason)) => Some(reason.to_string()),
            (_, Verdict::Keep { .. }) => Some("requests wait: the gate is closed".to_owned()),
            (_, Verdict::Take { .. }) if conflict.is_some() => {
                Some("another host answers for the address".to_owned())
            }
            (_, Verdict::Take { .. }) => None,
        };
        let newest = self.duty.newest();
        let next = |status: &VipStatus| VipStatus {
            state: match self.state {
                State::Free => VipState::Free,
                State::Claiming { .. } => VipState::Claiming,
                State::Held { .. } => VipState::Held,
            },
            reason,
            conflict,
            epoch: newest.map(|newest| newest.epoch),
            primary: newest.and_then(|newest| Some(newest.primary.as_ref()?.node.clone())),
            ..status.clone()
        };
        self.status.send_if_modified(|status| {
            let new = next(status);
            let changed = new != *status;
            *status = new;
            changed
        });
    }
}

async fn claimant(wire: Option<&Wire>) -> io::Result<Mac> {
    match wire {
        Some(wire) => wire.claimant().await,
        None => std::future::pending().await,
    }
}

/// Ends every connection to the address; by the node itself where the kernel can not.
pub(super) async fn end_connections(settings: &VipSettings, kernel: &Kernel) -> u64 {
    let ending = async {
        let error = match kernel.end_connections().await {
            Ok(ended) => return ended,
            Err(error) => error,
        };
        let (node, auth) = (&settings.node, settings.auth.as_ref());
        match local::end_clients(node, auth, settings.address).await {
            Ok(ended) => ended,
            Err(why) => {
                tracing::warn!(%error, why, "connections to the address were not ended");
                0
            }
        }
    };
    timeout(END_LIMIT, ending).await.unwrap_or(0)
}
