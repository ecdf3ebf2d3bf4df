//! What subscribers are told. That the primary changed is read from the topology, so it is told the
//! moment it is published; the steps on the way there are the control plane's notices, those for
//! which Sentinel has a word.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::{MissedTickBehavior, interval};

use super::instance::{Condition, is_down};
use super::{Answer, Backend, Sentinel};
use crate::topology::{NodeId, Notice, Primary, Topology};

/// Words of the control plane that mean the same as Sentinel's.
const PASSED_ON: &[&str] = &[
    "+convert-to-slave",
    "+promoted-slave",
    "+selected-slave",
    "+slave-reconf-done",
    "+slave-reconf-sent",
    "+try-failover",
    "-failover-abort-no-good-slave",
];

/// How often replicas are looked at while somebody listens.
const LOOK: Duration = Duration::from_secs(1);

/// What is published to subscribers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Sentinel's event word.
    pub channel: &'static str,
    /// In Sentinel's form.
    pub payload: String,
}

/// What subscribers of one backend know.
struct Teller<'s> {
    sentinel: &'s Sentinel,
    index: usize,
    backend: &'s Backend,
    primary: Option<Primary>,
    replicas: Vec<NodeId>,
    /// They were told that the primary is down, subjectively or objectively.
    s_down: bool,
    o_down: bool,
    /// Replicas of which they were told the same.
    sick: BTreeSet<NodeId>,
}

/// Tells subscribers what happens to one backend, until its control plane ends.
pub(super) async fn tell(sentinel: Arc<Sentinel>, index: usize) {
    // A client of a listener never has to move, and is held while it could not be served.
    if sentinel.settings.answer == Answer::Proxy {
        return;
    }
    let backend = &sentinel.backends[index];
    let mut topology = backend.topology.clone();
    let mut notices = backend.notices.resubscribe();
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut teller = Teller {
        sentinel: &sentinel,
        index,
        backend,
        primary: None,
        replicas: Vec::new(),
        s_down: false,
        o_down: false,
        sick: BTreeSet::new(),
    };
    teller.published(&topology.current()).await;
    loop {
        tokio::select! {
            biased;
            changed = topology.changed() => match changed {
                Ok(now) => teller.published(&now).await,
                Err(_) => return,
            },
            notice = notices.recv() => match notice {
                Ok(notice) => teller.noticed(&notice),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            _ = look.tick() => teller.look().await,
        }
    }
}

impl Teller<'_> {
    fn say(&self, channel: &'static str, payload: String) {
        // Nobody may listen.
        let _ = self
            .sentinel
            .news
            .send(Arc::new(Message { channel, payload }));
    }

    /// `name ip port` of a primary.
    fn named(&self, node: &NodeId) -> String {
        format!("{} {}", self.backend.name, spaced(node))
    }

    /// A node as Sentinel names it in messages: a replica together with the primary it belongs to.
    fn instance(&self, node: &NodeId) -> String {
        match &self.primary {
            Some(primary) if primary.node != *node => {
                let of = self.named(&primary.node);
                format!("slave {node} {} @ {of}", spaced(node))
            }
            _ => format!("master {}", self.named(node)),
        }
    }

    async fn published(&mut self, now: &Topology) {
        // While another primary is being made, none is published; the one before is still meant.
        if let Some(primary) = &now.primary {
            self.serves(primary, &now.replicas);
        }
        let Some(primary) = &self.primary else { return };
        let master = format!("master {}", self.named(&primary.node));
        let status = match now.open_primary() {
            Some(_) => None,
            None => self.sentinel.status_now(self.index).await,
        };
        let down = Condition::of(now, true, status.as_deref()).is_down();
        if !down && std::mem::take(&mut self.o_down) {
            self.say("-odown", master.clone());
        }
        if down != std::mem::replace(&mut self.s_down, down) {
            self.say(if down { "+sdown" } else { "-sdown" }, master);
        }
    }

    /// `primary` is published, with these replicas.
    fn serves(&mut self, primary: &Primary, replicas: &[NodeId]) {
        let before = self.primary.replace(primary.clone());
        let stored = Arc::new(primary.clone());
        self.sentinel.before[self.index].store(Some(stored));
        let moved = before.as_ref().is_some_and(|p| p.node != primary.node);
        if let Some(before) = &before {
            self.compared(before, primary);
        }
        let known = std::mem::replace(&mut self.replicas, replicas.to_vec());
        for node in replicas {
            // After a switch Sentinel begins anew with every replica.
            if moved || !known.contains(node) {
                self.say("+slave", self.instance(node));
            }
        }
    }

    /// The same node as another process, or another node.
    fn compared(&mut self, old: &Primary, new: &Primary) {
        if old.node != new.node {
            let (from, to) = (self.named(&old.node), spaced(&new.node));
            self.say("+switch-master", format!("{from} {to}"));
            // Of the new primary nothing bad was told.
            (self.s_down, self.o_down) = (false, false);
            self.sick.clear();
        } else if old.run_id != new.run_id {
            self.say("+reboot", format!("master {}", self.named(&new.node)));
        }
    }

    fn noticed(&mut self, notice: &Notice) {
        let primary = self.primary.as_ref().map(|p| &p.node);
        let Some(node) = notice.node.as_ref().or(primary) else {
            return;
        };
        if notice.event == "+odown" && Some(node) == primary {
            self.o_down = true;
            self.say("+odown", format!("{} #quorum 1/1", self.instance(node)));
        }
        if let Some(event) = PASSED_ON.iter().find(|event| **event == notice.event) {
            self.say(event, self.instance(node));
        }
    }

    /// Replicas come and go without a publication.
    async fn look(&mut self) {
        if self.sentinel.news.receiver_count() == 0 {
            return;
        }
        let Some(status) = self.sentinel.status_now(self.index).await else {
            return;
        };
        let primary = self.primary.as_ref().map(|p| p.node.clone());
        for node in &status.nodes {
            if !node.announced || Some(&node.node) == primary.as_ref() {
                continue;
            }
            let down = is_down(node);
            let told = match down {
                true => !self.sick.insert(node.node.clone()),
                false => !self.sick.remove(&node.node),
            };
            if !told {
                self.say(
                    if down { "+sdown" } else { "-sdown" },
                    self.instance(&node.node),
                );
            }
        }
    }
}

/// `ip port`.
fn spaced(node: &NodeId) -> String {
    match node.host_port() {
        Some((host, port)) => format!("{host} {port}"),
        None => node.to_string(),
    }
}
