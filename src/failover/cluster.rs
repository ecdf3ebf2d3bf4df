//! Redis Cluster decides by itself who is primary of which slots; this makes one picture of what its nodes
//! say about it. Pure, like everything here.
//!
//! Of two claims to a slot the one with the greater config epoch is believed, whoever repeats it: that is
//! the rule of the nodes themselves. A new primary is believed when it says so itself (I5).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::report::{Ending, Recorder};
use super::{ProbeError, ShardStatus};
use crate::resp::cluster_nodes::ClusterNode;
use crate::topology::{
    BytesLost, Epoch, EvidenceKind, FailoverReport, Fault, HASH_SLOTS, NodeId, Outcome, Primary,
    Timestamp,
};

/// What one node said, about itself and about the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterView {
    /// Where it was asked.
    pub node: NodeId,
    /// `run_id` of its process.
    pub run_id: Arc<str>,
    /// `master_replid` of its history.
    pub repl_id: Arc<str>,
    /// Whether it says that it is a primary.
    pub primary: bool,
    /// Its answer to CLUSTER NODES.
    pub nodes: Vec<ClusterNode>,
}

impl ClusterView {
    fn myself(&self) -> Option<&ClusterNode> {
        self.nodes.iter().find(|node| node.myself)
    }
}

/// One shard: a primary with its replicas, under a number that never means another shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterShard {
    /// The primary's name in the cluster.
    name: Arc<str>,
    /// Grows by one with every change of primary.
    pub epoch: Epoch,
    /// Who serves it; `None` until it was heard, and when it is gone.
    pub primary: Option<Primary>,
    /// Every address the cluster has for it.
    pub addresses: BTreeSet<NodeId>,
    /// Its replicas.
    pub replicas: Vec<NodeId>,
}

/// What is believed of a cluster.
#[derive(Clone, Debug)]
pub struct ClusterPicture {
    views: BTreeMap<NodeId, ClusterView>,
    /// To which shard a node belongs, by name.
    members: BTreeMap<Arc<str>, u16>,
    shards: Vec<ClusterShard>,
    slots: Vec<Option<u16>>,
    home: Option<u16>,
    /// Of shards whose primary is in trouble: what was seen since.
    outages: BTreeMap<u16, Recorder>,
    /// Changes of primary that nobody has taken yet.
    reports: Vec<FailoverReport>,
    now: Timestamp,
}

impl Default for ClusterPicture {
    fn default() -> Self {
        ClusterPicture {
            views: BTreeMap::new(),
            members: BTreeMap::new(),
            shards: Vec::new(),
            slots: vec![None; HASH_SLOTS],
            home: None,
            outages: BTreeMap::new(),
            reports: Vec::new(),
            now: Timestamp::default(),
        }
    }
}

impl ClusterPicture {
    /// A node answered. Whether anything is new.
    pub fn heard(&mut self, view: ClusterView, now: Timestamp) -> bool {
        self.now = now;
        for number in self.served_by(&view.node) {
            let primary = self.shards[usize::from(number)].primary.as_ref();
            let same = primary.is_some_and(|p| p.run_id == view.run_id);
            match (same, view.primary) {
                (true, true) => {
                    self.outages.remove(&number);
                }
                (true, false) => self.note(number, format!("{} is a replica now", view.node)),
                (false, _) => self.note(number, format!("{} is another process", view.node)),
            }
        }
        if self.views.get(&view.node) == Some(&view) {
            return false;
        }
        self.views.insert(view.node.clone(), view);
        self.look();
        true
    }

    /// A node does not answer what it was asked at `asked`. Whether that is new.
    pub fn lost(&mut self, node: &NodeId, why: &ProbeError, asked: Timestamp) -> bool {
        self.now = asked;
        for number in self.served_by(node) {
            self.note(number, format!("{node} does not answer: {why:?}"));
        }
        self.forget(node)
    }

    /// Nobody asks the node any more. Whether that is new.
    pub fn forget(&mut self, node: &NodeId) -> bool {
        let known = self.views.remove(node).is_some();
        if known {
            self.look();
        }
        known
    }

    /// Requests met trouble at a node.
    pub fn suspected(&mut self, node: &NodeId, kind: EvidenceKind, now: Timestamp) {
        self.now = now;
        let what = match kind {
            EvidenceKind::ConnectionLost => "a connection of clients to it ended",
            EvidenceKind::ConnectRefused => "it refuses connections of clients",
            EvidenceKind::ConnectTimeout => "connections of clients to it are not answered",
            EvidenceKind::NotPrimary => "it serves clients as a replica",
            EvidenceKind::Reborn => "clients meet another process",
            EvidenceKind::Loading => "it loads its data",
            // About slots.
            EvidenceKind::Moved => return,
        };
        for number in self.served_by(node) {
            self.note(number, format!("{node}: {what}"));
        }
    }

    /// The changes of primary since the last call, oldest first. Their time is the time from the first sign of
    /// trouble until the new primary was believed; the backend's name is left to the caller.
    pub fn take_reports(&mut self) -> Vec<FailoverReport> {
        std::mem::take(&mut self.reports)
    }

    /// What an operator is shown.
    pub fn status(&self) -> Vec<ShardStatus> {
        let numbers = 0..self.shards.len() as u16;
        let all = numbers.map(|number| {
            let shard = &self.shards[usize::from(number)];
            ShardStatus {
                shard: number,
                primary: shard.primary.as_ref().map(|p| p.node.clone()),
                serves: self.is_well(number),
                epoch: shard.epoch,
                slots: self.slots.iter().filter(|s| **s == Some(number)).count(),
            }
        });
        all.filter(|shard| shard.primary.is_some() || shard.slots > 0)
            .collect()
    }

    fn served_by(&self, node: &NodeId) -> Vec<u16> {
        let serves = |shard: &ClusterShard| shard.primary.as_ref().is_some_and(|p| p.node == *node);
        let numbers = self.shards.iter().zip(0u16..);
        numbers
            .filter_map(|(shard, number)| serves(shard).then_some(number))
            .collect()
    }

    /// Notes something about the primary of a shard, which is in trouble from now on.
    fn note(&mut self, shard: u16, text: String) {
        let now = self.now;
        let recorder = self.outages.entry(shard).or_default();
        recorder.evidence(now, text);
        if recorder.closed_at.is_none() {
            recorder.phase(now, "the_cluster_decides");
        }
        // What was asked before may be found out afterwards.
        let began = recorder.closed_at.map_or(now, |at| at.min(now));
        recorder.closed_at = Some(began);
    }

    fn report(&mut self, shard: u16, from: NodeId, to: &NodeId, epoch: Epoch) {
        let now = self.now;
        let mut recorder = self.outages.remove(&shard).unwrap_or_default();
        recorder.evidence(now, format!("{to} is primary"));
        recorder.phase(now, "published");
        recorder.fault = Some(Fault::Followed);
        recorder.from = Some(from);
        let ending = Ending {
            epoch,
            outcome: Outcome::Done,
            to: Some(to.clone()),
            bytes_lost: BytesLost::Unknown,
        };
        self.reports.push(FailoverReport {
            shard: Some(shard),
            ..recorder.finish("", ending, now)
        });
    }

    /// By number.
    pub fn shards(&self) -> &[ClusterShard] {
        &self.shards
    }

    /// For each hash slot the number of its shard.
    pub fn slots(&self) -> &[Option<u16>] {
        &self.slots
    }

    /// The shard that answers what is about no key.
    pub fn home(&self) -> Option<u16> {
        self.home
    }

    /// Whether the shard's primary answers.
    pub fn is_well(&self, shard: u16) -> bool {
        let primary = self.shards[usize::from(shard)].primary.as_ref();
        primary.is_some_and(|p| self.says_primary(p))
    }

    fn says_primary(&self, primary: &Primary) -> bool {
        let mut views = self.views.values();
        views.any(|view| view.primary && view.run_id == primary.run_id)
    }

    /// Whether every slot has a shard whose primary answers.
    pub fn is_whole(&self) -> bool {
        self.slots.iter().all(Option::is_some)
            && (0..self.shards.len()).all(|shard| {
                let number = shard as u16;
                self.is_well(number) || !self.slots.contains(&Some(number))
            })
    }

    /// Whether this node's own view is known.
    pub fn knows(&self, node: &NodeId) -> bool {
        self.views.contains_key(node)
    }

    /// Where nodes are, by what the nodes say.
    pub fn addresses(&self) -> BTreeSet<NodeId> {
        let nodes = self.views.values().flat_map(|view| &view.nodes);
        let known = nodes.filter_map(|node| node.address.clone());
        known.map(NodeId::new).collect()
    }

    fn look(&mut self) {
        // Nobody says anything: all is as it was last.
        if self.views.is_empty() {
            return;
        }
        let owners = self.owners();
        let mut claimed: Vec<&Arc<str>> = Vec::new();
        for name in owners.iter().flatten() {
            if claimed.last() != Some(&name) && !claimed.contains(&name) {
                claimed.push(name);
            }
        }
        // Those with slots first, or a primary that lost its slots would keep the shard's number.
        let mut taken = BTreeSet::new();
        let mut numbers: BTreeMap<Arc<str>, u16> = BTreeMap::new();
        for name in &claimed {
            let number = self.number_of(name, &taken);
            taken.insert(number);
            numbers.insert(Arc::clone(name), number);
        }
        for name in self.slotless() {
            if !numbers.contains_key(&name) && !self.members.contains_key(&name) {
                let number = self.number_of(&name, &taken);
                taken.insert(number);
                numbers.insert(name, number);
            }
        }
        for (name, number) in &numbers {
            self.members.insert(name.clone(), *number);
            self.serve(name, *number);
        }
        self.slots = owners
            .iter()
            .map(|owner| owner.as_ref().and_then(|name| numbers.get(name).copied()))
            .collect();
        self.join_replicas();
        self.forget_the_gone();
        self.settle_home();
    }

    /// Who serves each slot: the claim with the greatest config epoch.
    fn owners(&self) -> Vec<Option<Arc<str>>> {
        let mut best: Vec<Option<(u64, &Arc<str>)>> = vec![None; HASH_SLOTS];
        for node in self.views.values().flat_map(|view| &view.nodes) {
            for (first, last) in node.slots.iter().filter(|_| node.primary) {
                for slot in &mut best[usize::from(*first)..=usize::from(*last)] {
                    if slot.is_none_or(|(epoch, _)| node.config_epoch > epoch) {
                        *slot = Some((node.config_epoch, &node.name));
                    }
                }
            }
        }
        best.into_iter()
            .map(|claim| claim.map(|(_, name)| name.clone()))
            .collect()
    }

    /// Primaries that say themselves that they have no slots: some may be on their way to them.
    fn slotless(&self) -> Vec<Arc<str>> {
        let views = self.views.values().filter(|view| view.primary);
        let own = views.filter_map(ClusterView::myself);
        own.filter(|node| node.primary && node.slots.is_empty())
            .map(|node| node.name.clone())
            .collect()
    }

    /// The shard's number of old, or a new one where another primary has it.
    fn number_of(&mut self, name: &Arc<str>, taken: &BTreeSet<u16>) -> u16 {
        let known = self.members.get(name).copied();
        match known.filter(|number| !taken.contains(number)) {
            Some(number) => number,
            None => {
                self.shards.push(ClusterShard::default());
                (self.shards.len() - 1) as u16
            }
        }
    }

    /// `name` is primary of the shard, as soon as it says so itself.
    fn serve(&mut self, name: &Arc<str>, number: u16) {
        let own = self
            .views
            .values()
            .find(|view| view.primary && view.myself().is_some_and(|node| node.name == *name));
        let Some(view) = own else { return };
        let mut before = None;
        let shard = &mut self.shards[usize::from(number)];
        let same = shard
            .primary
            .as_ref()
            .is_some_and(|p| p.run_id == view.run_id);
        if !same {
            shard.epoch = shard.epoch.next();
            shard.name = name.clone();
            let next = Primary {
                node: view.node.clone(),
                run_id: view.run_id.clone(),
                repl_id: view.repl_id.clone(),
            };
            before = shard.primary.replace(next);
        }
        let epoch = shard.epoch;
        let nodes = self.views.values().flat_map(|view| &view.nodes);
        let mut addresses: BTreeSet<NodeId> = nodes
            .filter(|node| node.name == *name)
            .flat_map(|node| [&node.address, &node.named_address])
            .flatten()
            .map(|address| NodeId::new(address.clone()))
            .collect();
        let node = view.node.clone();
        addresses.insert(node.clone());
        shard.addresses = addresses;
        if let Some(before) = before {
            self.report(number, before.node, &node, epoch);
        }
    }

    /// A replica belongs to its primary's shard, so that it keeps the number when it takes over.
    fn join_replicas(&mut self) {
        let mut replicas: Vec<BTreeSet<NodeId>> = vec![BTreeSet::new(); self.shards.len()];
        for node in self.views.values().flat_map(|view| &view.nodes) {
            let of = node.replicates.as_ref();
            let Some(number) = of.and_then(|name| self.members.get(name)).copied() else {
                continue;
            };
            if &self.shards[usize::from(number)].name == of.unwrap_or(&node.name) {
                self.members.insert(node.name.clone(), number);
                let address = node.address.clone().map(NodeId::new);
                replicas[usize::from(number)].extend(address);
            }
        }
        for (shard, replicas) in self.shards.iter_mut().zip(replicas) {
            shard.replicas = replicas.into_iter().collect();
        }
    }

    /// A primary without slots that no node knows any more, or that follows another one now.
    fn forget_the_gone(&mut self) {
        for number in 0..self.shards.len() {
            let shard = &self.shards[number];
            if self.slots.contains(&Some(number as u16)) {
                continue;
            }
            let nodes = self.views.values().flat_map(|view| &view.nodes);
            let known = nodes
                .filter(|node| node.name == shard.name)
                .any(|node| node.primary && !node.failed);
            if !known {
                self.shards[number].primary = None;
                self.shards[number].addresses.clear();
                self.outages.remove(&(number as u16));
            }
        }
    }

    /// Stays where it is as long as it can.
    fn settle_home(&mut self) {
        if self.home.is_some_and(|home| self.is_well(home)) {
            return;
        }
        let serving = (0..self.shards.len() as u16).filter(|n| self.slots.contains(&Some(*n)));
        let well = serving.into_iter().find(|number| self.is_well(*number));
        self.home = well.or(self.home);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::cluster_nodes::parse_cluster_nodes;

    /// What node `me` says: lines of `name role slots epoch`.
    fn view(me: &str, lines: &[&str]) -> ClusterView {
        let mut text = String::new();
        let mut primary = false;
        for line in lines {
            let [name, of, epoch, slots] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{line}");
            };
            let myself = if name == me { "myself," } else { "" };
            let (role, of) = match of {
                "-" => ("master", "-"),
                "fail" => ("master,fail", "-"),
                of => ("slave", of),
            };
            primary |= name == me && of == "-";
            let slots = slots.trim_matches('.');
            text +=
                &format!("{name} {name}:1@2 {myself}{role} {of} 0 0 {epoch} connected {slots}\n");
        }
        ClusterView {
            node: NodeId::new(format!("{me}:1")),
            run_id: format!("run-{me}").into(),
            repl_id: "history".into(),
            primary,
            nodes: parse_cluster_nodes(&text),
        }
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_start(std::time::Duration::from_millis(millis))
    }

    const START: &[&str] = &["a - 1 0-8191", "b - 2 8192-16383", "c a 1 .", "d b 2 ."];

    fn started() -> ClusterPicture {
        let mut picture = ClusterPicture::default();
        for node in ["a", "b", "c", "d"] {
            assert!(picture.heard(view(node, START), at(0)));
        }
        picture
    }

    fn primary(picture: &ClusterPicture, slot: usize) -> String {
        let shard = picture.slots()[slot].expect("somebody serves it");
        let primary = picture.shards()[usize::from(shard)].primary.as_ref();
        primary.expect("it was heard").node.to_string()
    }

    #[test]
    fn slots_go_to_the_primaries_that_claim_them() {
        let picture = started();
        assert_eq!(picture.shards().len(), 2);
        assert_eq!(primary(&picture, 0), "a:1");
        assert_eq!(primary(&picture, 16383), "b:1");
        assert!(picture.is_whole());
        assert_eq!(picture.shards()[0].replicas, [NodeId::new("c:1")]);
        assert!(!started().heard(view("a", START), at(0)), "nothing new");
    }

    #[test]
    fn a_replica_that_took_over_keeps_the_number_and_is_believed_when_it_says_so() {
        let mut picture = started();
        assert!(picture.lost(&NodeId::new("a:1"), &ProbeError::Refused, at(10)));
        assert!(!picture.is_whole());
        assert_eq!(
            picture.home(),
            Some(1),
            "home moves to a primary that answers"
        );
        let after = &["a fail 1 .", "b - 2 8192-16383", "c - 3 0-8191", "d b 2 ."];
        picture.heard(view("b", after), at(20));
        assert_eq!(primary(&picture, 0), "a:1", "b says so, c does not yet");
        picture.heard(view("c", after), at(2_000));
        assert_eq!(primary(&picture, 0), "c:1");
        assert_eq!(picture.slots()[0], Some(0));
        assert_eq!(picture.shards()[0].epoch, Epoch(2));
        assert!(picture.is_whole());
        let reports = picture.take_reports();
        let [report] = &reports[..] else {
            panic!("{reports:?}");
        };
        assert_eq!((report.shard, report.epoch), (Some(0), Epoch(2)));
        assert_eq!(report.from, Some(NodeId::new("a:1")));
        assert_eq!(report.to, Some(NodeId::new("c:1")));
        assert_eq!(report.pause, at(2_000) - at(10));
        assert_eq!(report.evidence[0].1, "a:1 does not answer: Refused");
        // The old primary comes back with its old claim, then follows.
        picture.heard(view("a", START), at(20));
        assert_eq!(primary(&picture, 0), "c:1");
        let follows = &["a c 3 .", "b - 2 8192-16383", "c - 3 0-8191", "d b 2 ."];
        picture.heard(view("a", follows), at(20));
        assert_eq!(picture.shards().len(), 2);
        assert_eq!(picture.shards()[0].epoch, Epoch(2));
        assert!(picture.take_reports().is_empty(), "no primary changed");
    }

    #[test]
    fn a_pause_begins_with_the_first_sign_of_trouble_that_is_not_taken_back() {
        let mut picture = started();
        let a = NodeId::new("a:1");
        picture.suspected(&a, EvidenceKind::ConnectionLost, at(10));
        picture.heard(view("a", START), at(20));
        picture.suspected(&a, EvidenceKind::Moved, at(30));
        picture.suspected(&a, EvidenceKind::ConnectionLost, at(40));
        let after = &["a c 1 .", "b - 2 8192-16383", "c - 3 0-8191", "d b 2 ."];
        picture.heard(view("a", after), at(45));
        picture.heard(view("c", after), at(50));
        let report = picture.take_reports().remove(0);
        assert_eq!(report.pause, at(50) - at(40));
        let seen: Vec<_> = report.evidence.iter().map(|(_, what)| &what[..]).collect();
        let lost = "a:1: a connection of clients to it ended";
        assert_eq!(seen, [lost, "a:1 is a replica now", "c:1 is primary"]);
    }

    #[test]
    fn a_slot_moves_with_the_greater_epoch_and_to_a_primary_that_had_none() {
        let mut picture = started();
        let joined = &[
            "a - 1 0-8191",
            "b - 2 8192-16383",
            "c a 1 .",
            "d b 2 .",
            "e - 0 .",
        ];
        picture.heard(view("e", joined), at(20));
        assert_eq!(picture.shards().len(), 3, "it may import slots");
        let moved = &[
            "a - 1 1-8191",
            "b - 2 8192-16383",
            "c a 1 .",
            "d b 2 .",
            "e - 5 0-0",
        ];
        picture.heard(view("e", moved), at(20));
        assert_eq!(primary(&picture, 0), "e:1");
        assert_eq!(primary(&picture, 1), "a:1");
        assert!(picture.shards()[0].epoch == Epoch(1), "no primary changed");
    }

    #[test]
    fn another_process_at_the_same_place_is_another_primary() {
        let mut picture = started();
        let mut reborn = view("a", START);
        reborn.run_id = "another".into();
        picture.heard(reborn, at(20));
        assert_eq!(picture.shards()[0].epoch, Epoch(2));
        assert_eq!(picture.shards().len(), 2);
    }

    #[test]
    fn in_any_order_of_answers_the_picture_is_the_same_in_the_end() {
        let after = &["a c 3 .", "b - 2 8192-16383", "c - 3 0-8191", "d b 2 ."];
        let mut seed = 1u64;
        for _ in 0..200 {
            let mut news: Vec<&str> = vec!["a", "b", "c", "d"];
            let mut picture = started();
            while !news.is_empty() {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
                let node = news.remove((seed >> 33) as usize % news.len());
                if seed >> 63 == 0 {
                    let node = NodeId::new(format!("{node}:1"));
                    picture.lost(&node, &ProbeError::Silent, at(15));
                }
                picture.heard(view(node, after), at(20));
            }
            assert_eq!(primary(&picture, 0), "c:1");
            assert_eq!(primary(&picture, 9000), "b:1");
            assert_eq!(picture.shards().len(), 2);
            assert!(picture.is_whole());
        }
    }
}
