//! Model nodes for the simulation and the model check: what of a Redis server matters to the core.
//! Replication follows the server's rules: PSYNC by replid or replid2 and offset, full resync
//! otherwise, a full resync empties the replica before it fills it, a reborn process has a new
//! history.

#![allow(dead_code)] // each of the tests uses a part

pub mod seeds;
pub mod sentinels;
pub mod world;

use std::sync::Arc;

use pointsman::failover::{NodeOp, NodeOpOutcome};
use pointsman::resp::info::{AttachedReplica, NodeInfo, Role, ServerKind};
use pointsman::topology::NodeId;

/// Bytes of the replication stream per write.
pub const WRITE_BYTES: u64 = 10;

/// State of a replica's link.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Link {
    Down {
        retry_at: u64,
    },
    Up {
        peer_run: Arc<str>,
    },
    /// Receiving a full copy until `loads_at`; loading it (emptied) until `done_at`.
    Syncing {
        peer_run: Arc<str>,
        loads_at: u64,
        done_at: u64,
    },
}

/// What a restart finds on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// RDB saved at shutdown: everything, and the replication id.
    Saved,
    /// An append-only file: everything, but no replication id.
    Data,
    /// Nothing.
    Empty,
}

/// One model server. Times are nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelNode {
    pub index: usize,
    pub running: bool,
    /// SIGSTOP.
    pub stopped: bool,
    pub run_id: Arc<str>,
    pub role: Role,
    /// Index of the primary it follows.
    pub master: Option<usize>,
    pub repl_id: Arc<str>,
    pub repl_id2: Arc<str>,
    pub second: i64,
    pub offset: u64,
    /// The writes it holds, in order.
    pub log: Vec<u32>,
    pub link: Link,
    pub loading_until: u64,
    pub priority: u32,
    pub fenced: bool,
    pub paused_until: u64,
    pub fork_usec: u64,
    pub started_at: u64,
    /// When it last received writes.
    pub received_at: u64,
    /// Refuses promotions (no permission).
    pub stubborn: bool,
    /// Refuses to be fenced (no permission).
    pub unfenceable: bool,
    incarnation: u32,
    histories: u32,
}

fn none_id() -> Arc<str> {
    "0".into()
}

impl ModelNode {
    /// Node 0 is primary, the others follow it and are in sync.
    pub fn cluster(count: usize) -> Vec<ModelNode> {
        (0..count)
            .map(|index| ModelNode {
                index,
                running: true,
                stopped: false,
                run_id: format!("run{index}.0").into(),
                role: if index == 0 {
                    Role::Primary
                } else {
                    Role::Replica
                },
                master: (index > 0).then_some(0),
                repl_id: "h0.0".into(),
                repl_id2: none_id(),
                second: -1,
                offset: WRITE_BYTES,
                log: vec![0],
                link: if index == 0 {
                    Link::Down { retry_at: 0 }
                } else {
                    Link::Up {
                        peer_run: "run0.0".into(),
                    }
                },
                loading_until: 0,
                priority: 100,
                fenced: false,
                paused_until: 0,
                fork_usec: 0,
                started_at: 0,
                received_at: 0,
                stubborn: false,
                unfenceable: false,
                incarnation: 0,
                histories: 0,
            })
            .collect()
    }

    pub fn id(&self) -> NodeId {
        node_id(self.index)
    }

    pub fn answers(&self) -> bool {
        self.running && !self.stopped
    }

    pub fn is_loading(&self, now: u64) -> bool {
        let copying = matches!(self.link, Link::Syncing { loads_at, .. }
            if self.role == Role::Replica && now >= loads_at);
        copying || now < self.loading_until
    }

    /// Everything but the data, which is dear to copy.
    fn without_log(&self) -> ModelNode {
        ModelNode {
            index: self.index,
            log: Vec::new(),
            run_id: self.run_id.clone(),
            repl_id: self.repl_id.clone(),
            repl_id2: self.repl_id2.clone(),
            link: self.link.clone(),
            ..*self
        }
    }

    fn new_history(&mut self) -> Arc<str> {
        self.histories += 1;
        format!("h{}.{}", self.index, self.histories).into()
    }

    /// A client's write; whether it was acknowledged.
    pub fn write(&mut self, id: u32, now: u64) -> bool {
        let accepts = self.answers()
            && self.role == Role::Primary
            && !self.fenced
            && now >= self.paused_until
            && !self.is_loading(now);
        if accepts {
            self.log.push(id);
            self.offset += WRITE_BYTES;
        }
        accepts
    }

    pub fn kill(&mut self) {
        self.running = false;
        self.stopped = false;
    }

    /// Starts the process again. `as_replica_of` is what its configuration file says.
    pub fn restart(&mut self, disk: Disk, as_replica_of: Option<usize>, load: u64, now: u64) {
        self.running = true;
        self.stopped = false;
        self.incarnation += 1;
        self.run_id = format!("run{}.{}", self.index, self.incarnation).into();
        self.fenced = false;
        self.paused_until = 0;
        self.started_at = now;
        self.master = as_replica_of;
        self.link = Link::Down {
            retry_at: now + load,
        };
        self.loading_until = now + load;
        let old = self.repl_id.clone();
        let fresh = self.new_history();
        match (disk, as_replica_of) {
            (Disk::Saved, Some(_)) => self.repl_id2 = none_id(),
            (Disk::Saved, None) => {
                self.repl_id = fresh;
                self.repl_id2 = old;
                self.second = self.offset as i64 + 1;
            }
            (Disk::Data | Disk::Empty, _) => {
                self.repl_id = fresh;
                self.repl_id2 = none_id();
                self.second = -1;
                self.offset = 0;
                if disk == Disk::Empty {
                    self.log.clear();
                    self.loading_until = 0;
                }
            }
        }
        self.role = if as_replica_of.is_some() {
            Role::Replica
        } else {
            Role::Primary
        };
    }

    /// Executes a command; the outcome the server would answer.
    pub fn execute(
        &mut self,
        what: &NodeOp,
        index_of: impl Fn(&NodeId) -> usize,
        now: u64,
    ) -> NodeOpOutcome {
        match what {
            NodeOp::Promote | NodeOp::Repoint { .. } if self.is_loading(now) => {
                return NodeOpOutcome::Refused("LOADING".to_owned());
            }
            NodeOp::Promote if self.stubborn => {
                return NodeOpOutcome::Refused("NOPERM".to_owned());
            }
            NodeOp::Fence if self.unfenceable => {
                return NodeOpOutcome::Refused("NOPERM".to_owned());
            }
            NodeOp::Promote => {
                self.fenced = false;
                if self.role == Role::Replica {
                    self.role = Role::Primary;
                    self.master = None;
                    self.link = Link::Down { retry_at: 0 };
                    self.repl_id2 = self.repl_id.clone();
                    self.second = self.offset as i64 + 1;
                    self.repl_id = self.new_history();
                }
            }
            NodeOp::Repoint { to } => {
                let to = index_of(to);
                self.fenced = false;
                if self.master != Some(to) {
                    self.role = Role::Replica;
                    self.master = Some(to);
                    self.link = Link::Down { retry_at: now };
                }
            }
            NodeOp::Fence => self.fenced = true,
            NodeOp::Unfence => self.fenced = false,
            NodeOp::Pause { duration } => {
                self.paused_until = self.paused_until.max(now + duration.as_nanos() as u64);
            }
            NodeOp::Unpause => self.paused_until = 0,
            NodeOp::Inspect | NodeOp::CheckAuth { .. } => {}
        }
        NodeOpOutcome::Done(Box::new(self.info(now, &[])))
    }

    /// What INFO says. `all` are the cluster's nodes, to name attached replicas.
    pub fn info(&self, now: u64, all: &[ModelNode]) -> NodeInfo {
        let syncing = matches!(self.link, Link::Syncing { .. }) && self.role == Role::Replica;
        NodeInfo {
            kind: ServerKind::Redis,
            version: (7, 0, 15),
            run_id: self.run_id.clone(),
            role: self.role,
            repl_id: self.repl_id.clone(),
            repl_id2: self.repl_id2.clone(),
            second_repl_offset: self.second,
            // The server forgets its position when a full resync begins.
            offset: if syncing { 1 } else { self.offset },
            upstream: self.master.map(|m| ("node".into(), 7000 + m as u16)),
            link_up: self.role == Role::Replica && matches!(self.link, Link::Up { .. }),
            sync_in_progress: syncing,
            loading: self.is_loading(now),
            priority: self.priority,
            announced: true,
            read_only: true,
            disk_ok: true,
            replicas: all
                .iter()
                .filter(|n| n.running && n.master == Some(self.index) && n.is_linked_to(self))
                .map(|n| AttachedReplica {
                    host: "node".into(),
                    port: 7000 + n.index as u16,
                    online: true,
                    offset: n.offset,
                })
                .collect(),
            needs_replicas: self.fenced,
            latest_fork_usec: self.fork_usec,
            used_memory: 0,
            maxmemory: 0,
            keys: self.log.len() as u64,
            uptime_seconds: (now - self.started_at) / 1_000_000_000
                + if self.incarnation == 0 { 1000 } else { 0 },
        }
    }

    fn is_linked_to(&self, primary: &ModelNode) -> bool {
        matches!(&self.link, Link::Up { peer_run } if *peer_run == primary.run_id)
    }
}

/// The name of node `index`.
pub fn node_id(index: usize) -> NodeId {
    NodeId::new(format!("node:{}", 7000 + index))
}

/// The node of that name.
pub fn index_of(id: &NodeId) -> usize {
    id.host_port()
        .map_or(0, |(_, port)| usize::from(port) - 7000)
}

/// Lets every replica replicate for a moment. `cut(a, b)`: nothing passes between two nodes.
pub fn replicate(
    nodes: &mut [ModelNode],
    now: u64,
    timing: Timing,
    cut: impl Fn(usize, usize) -> bool,
) {
    for index in 0..nodes.len() {
        let node = &nodes[index];
        let Some(master) = node.master else { continue };
        if !node.answers() || now < node.loading_until || node.role != Role::Replica {
            continue;
        }
        if in_step(node, &nodes[master]) {
            continue;
        }
        let mut peer = nodes[master].without_log();
        let copies = peer.offset != nodes[index].offset || peer.repl_id != nodes[index].repl_id;
        if copies {
            peer.log = nodes[master].log.clone();
        }
        let node = &mut nodes[index];
        let reachable = !cut(index, master);
        let serves = reachable && peer.answers() && !peer.is_loading(now) && master != index;
        let linked_run = match &node.link {
            Link::Up { peer_run } | Link::Syncing { peer_run, .. } => Some(peer_run.clone()),
            Link::Down { .. } => None,
        };
        // A process that ended resets its connections; a silent one does not.
        if linked_run.is_some_and(|run| reachable && (!peer.running || run != peer.run_id)) {
            if now < loads_at(&node.link) {
                node.link = Link::Down {
                    retry_at: now + timing.retry,
                };
            } else {
                // Emptied and half filled: nothing is left of it.
                node.lose_everything(now + timing.retry);
            }
        }
        match node.link.clone() {
            Link::Down { retry_at } if serves && now >= retry_at => {
                node.connect(&peer, now, timing)
            }
            Link::Syncing {
                loads_at, done_at, ..
            } => {
                if now >= loads_at && now < done_at {
                    node.log.clear();
                }
                if now >= done_at && serves {
                    node.copy_all(&peer, now);
                }
            }
            Link::Up { .. }
                if serves && peer.repl_id == node.repl_id && peer.offset > node.offset =>
            {
                node.log = peer.log.clone();
                node.offset = peer.offset;
                node.received_at = now;
            }
            // Its own primary changed history (a chain): the server resynchronises.
            Link::Up { .. } if serves && peer.repl_id != node.repl_id => {
                node.connect(&peer, now, timing);
            }
            _ => {}
        }
    }
}

/// Nothing to do: linked, and nothing new.
fn in_step(node: &ModelNode, peer: &ModelNode) -> bool {
    peer.running
        && peer.offset == node.offset
        && peer.repl_id == node.repl_id
        && matches!(&node.link, Link::Up { peer_run } if *peer_run == peer.run_id)
}

fn loads_at(link: &Link) -> u64 {
    match link {
        Link::Syncing { loads_at, .. } => *loads_at,
        _ => u64::MAX,
    }
}

/// How fast replication is.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Between two attempts to connect to the primary.
    pub retry: u64,
    /// Of a full copy's transfer.
    pub transfer: u64,
    /// Of loading it.
    pub load: u64,
}

impl ModelNode {
    fn lose_everything(&mut self, retry_at: u64) {
        self.log.clear();
        self.offset = 0;
        self.repl_id = self.new_history();
        self.repl_id2 = none_id();
        self.second = -1;
        self.link = Link::Down { retry_at };
    }

    fn connect(&mut self, peer: &ModelNode, now: u64, timing: Timing) {
        let same = peer.repl_id == self.repl_id && self.offset <= peer.offset;
        let before = peer.repl_id2 == self.repl_id && (self.offset as i64) < peer.second;
        let ready = peer.role == Role::Primary || matches!(peer.link, Link::Up { .. });
        if !ready {
            self.link = Link::Down {
                retry_at: now + timing.retry,
            };
        } else if self.offset > 0 && (same || before) {
            if self.repl_id != peer.repl_id {
                self.repl_id2 = self.repl_id.clone();
                self.second = self.offset as i64 + 1;
                self.repl_id = peer.repl_id.clone();
            }
            self.link = Link::Up {
                peer_run: peer.run_id.clone(),
            };
        } else {
            self.link = Link::Syncing {
                peer_run: peer.run_id.clone(),
                loads_at: now + timing.transfer,
                done_at: now + timing.transfer + timing.load,
            };
        }
    }

    fn copy_all(&mut self, peer: &ModelNode, now: u64) {
        self.log = peer.log.clone();
        self.offset = peer.offset;
        self.repl_id = peer.repl_id.clone();
        self.repl_id2 = none_id();
        self.second = -1;
        self.link = Link::Up {
            peer_run: peer.run_id.clone(),
        };
        self.received_at = now;
    }
}
