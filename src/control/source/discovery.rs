//! Replicas that no configuration names: primaries list theirs in INFO, and replicas with replicas
//! of their own list those. A listed address counts only when a node answers there that is none of
//! the known ones under another name.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::resp::info::NodeInfo;
use crate::topology::{NodeId, Timestamp};

/// Pause between two tries to reach a listed address that did not answer.
const RETRY: Duration = Duration::from_secs(10);

/// A discovered node that no node lists and that does not answer is forgotten after this long.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// Listed addresses that are remembered; a node that lists more is not believed.
const MOST: usize = 256;

/// Keeps the set of nodes: the source's, then the discovered ones.
#[derive(Debug, Default)]
pub(in crate::control) struct Discovery {
    configured: Vec<NodeId>,
    discovered: Vec<(NodeId, Timestamp)>,
    /// Run ids of the nodes we know, by their address.
    runs: HashMap<NodeId, Arc<str>>,
    /// Addresses that were tried, and when.
    tried: HashMap<NodeId, Timestamp>,
}

impl Discovery {
    /// The source's set; its order stays.
    pub(in crate::control) fn configure(&mut self, nodes: Vec<NodeId>) {
        self.discovered.retain(|(node, _)| !nodes.contains(node));
        self.configured = nodes;
    }

    /// All nodes.
    pub(in crate::control) fn members(&self) -> Vec<NodeId> {
        let discovered = self.discovered.iter().map(|(node, _)| node.clone());
        self.configured.iter().cloned().chain(discovered).collect()
    }

    /// `node` answered. Returns the addresses it lists that are to be tried now.
    pub(in crate::control) fn answered(
        &mut self,
        node: &NodeId,
        info: &NodeInfo,
        now: Timestamp,
    ) -> Vec<NodeId> {
        self.runs.insert(node.clone(), info.run_id.clone());
        self.seen(node, now);
        let mut untried = Vec::new();
        for replica in &info.replicas {
            let listed = NodeId::of(&replica.host, replica.port);
            self.seen(&listed, now);
            let known = self.configured.contains(&listed)
                || self.discovered.iter().any(|(node, _)| *node == listed);
            let fresh = self.tried.get(&listed).is_none_or(|at| now - *at >= RETRY);
            if !known && fresh && (self.tried.len() < MOST || self.tried.contains_key(&listed)) {
                self.tried.insert(listed.clone(), now);
                untried.push(listed);
            }
        }
        untried
    }

    fn seen(&mut self, node: &NodeId, now: Timestamp) {
        if let Some((_, at)) = self.discovered.iter_mut().find(|(known, _)| known == node) {
            *at = now;
        }
    }

    /// A listed address answered. Whether it is a new node, and no known one by another name.
    pub(in crate::control) fn reached(
        &mut self,
        node: NodeId,
        info: &NodeInfo,
        now: Timestamp,
    ) -> bool {
        let known = self.runs.values().any(|run_id| *run_id == info.run_id)
            || self.members().contains(&node);
        // A configured node that was not reached yet may be this one: wait until it was.
        let all_heard = self
            .configured
            .iter()
            .all(|node| self.runs.contains_key(node));
        if known || !all_heard {
            return false;
        }
        self.runs.insert(node.clone(), info.run_id.clone());
        self.discovered.push((node, now));
        true
    }

    /// Forgets discovered nodes that are gone for good. Whether any was.
    pub(in crate::control) fn forget(&mut self, now: Timestamp) -> bool {
        let before = self.discovered.len();
        self.discovered
            .retain(|(_, at)| now - *at < FORGOTTEN_AFTER);
        let members = self.members();
        self.runs.retain(|node, _| members.contains(node));
        self.tried.retain(|_, at| now - *at < FORGOTTEN_AFTER);
        self.discovered.len() != before
    }
}

/// As a configuration would write it.
pub(in crate::control) fn address(host: &str, port: u16) -> NodeId {
    match host.contains(':') {
        true => NodeId::new(format!("[{host}]:{port}")),
        false => NodeId::new(format!("{host}:{port}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::info::parse;

    fn info(run_id: &str, lists: &[&str]) -> NodeInfo {
        let mut text = format!(
            "redis_version:7.0.0\nrun_id:{run_id}\nrole:master\nmaster_replid:x\n\
             master_repl_offset:0\n"
        );
        for (number, port) in lists.iter().enumerate() {
            text += &format!("slave{number}:ip=10.0.0.9,port={port},state=online,offset=0\n");
        }
        parse(text.as_bytes()).expect("info")
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_secs(seconds))
    }

    #[test]
    fn a_listed_node_counts_once_it_answered_and_is_new() {
        let (a, b) = (NodeId::new("db-a:1"), NodeId::new("10.0.0.9:7"));
        let mut discovery = Discovery::default();
        discovery.configure(vec![a.clone()]);
        let tries = discovery.answered(&a, &info("ra", &["7"]), at(1));
        assert_eq!(tries, std::slice::from_ref(&b));
        let before_it_answered = discovery.members();
        assert_eq!(before_it_answered, std::slice::from_ref(&a));
        assert!(
            discovery
                .answered(&a, &info("ra", &["7"]), at(2))
                .is_empty()
        );
        assert!(discovery.reached(b.clone(), &info("rb", &[]), at(2)));
        assert_eq!(discovery.members(), [a.clone(), b.clone()]);
        assert!(!discovery.forget(at(600)));
        assert!(discovery.forget(at(700)));
        assert_eq!(discovery.members(), [a]);
    }

    #[test]
    fn a_known_node_under_another_name_is_no_new_one() {
        let (a, b) = (NodeId::new("db-a:1"), NodeId::new("db-b:7"));
        let mut discovery = Discovery::default();
        discovery.configure(vec![a.clone(), b.clone()]);
        let listed = discovery.answered(&a, &info("ra", &["7"]), at(1));
        assert!(
            !discovery.reached(listed[0].clone(), &info("rb", &[]), at(1)),
            "db-b was not heard yet and may be the one"
        );
        discovery.answered(&b, &info("rb", &[]), at(2));
        let listed = discovery.answered(&a, &info("ra", &["7"]), at(20));
        assert!(!discovery.reached(listed[0].clone(), &info("rb", &[]), at(20)));
        assert_eq!(discovery.members(), [a, b]);
    }
}
