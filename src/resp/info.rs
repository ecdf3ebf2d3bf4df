//! What a node says about itself: the parts of INFO that decisions need.

use std::sync::Arc;

/// A node's role as INFO `role:` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// `role:master`
    Primary,
    /// `role:slave`
    Replica,
}

/// Which program answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerKind {
    /// Redis.
    Redis,
    /// Valkey (`server_name:valkey`).
    Valkey,
}

/// One line `slaveN:` of a primary's INFO replication.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AttachedReplica {
    /// Address as the primary sees or was told it.
    pub host: Arc<str>,
    /// Port the replica listens on.
    pub port: u16,
    /// `state=online`.
    pub online: bool,
    /// Offset it acknowledged last.
    pub offset: u64,
}

/// A snapshot of INFO (sections server, memory, persistence, stats, replication, keyspace).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeInfo {
    /// Redis or Valkey.
    pub kind: ServerKind,
    /// `redis_version` / `valkey_version` as (major, minor, patch).
    pub version: (u16, u16, u16),
    /// `run_id`: changes with every start of the process.
    pub run_id: Arc<str>,
    /// Role.
    pub role: Role,
    /// `master_replid`.
    pub repl_id: Arc<str>,
    /// `master_replid2`, the history before the last promotion (all zeros: none).
    pub repl_id2: Arc<str>,
    /// `second_repl_offset`: offsets of `repl_id2` are valid below this one; -1: none.
    pub second_repl_offset: i64,
    /// `master_repl_offset` of a primary, `slave_repl_offset` of a replica (bytes).
    pub offset: u64,
    /// Replica: `master_host`, `master_port`.
    pub upstream: Option<(Arc<str>, u16)>,
    /// Replica: `master_link_status:up`.
    pub link_up: bool,
    /// Replica: `master_sync_in_progress:1`.
    pub sync_in_progress: bool,
    /// `loading:1` or `async_loading:1`.
    pub loading: bool,
    /// `slave_priority`; 0 means never promote.
    pub priority: u32,
    /// `replica_announced:0` means hidden from Sentinel; true when absent.
    pub announced: bool,
    /// `slave_read_only`; true when absent.
    pub read_only: bool,
    /// `rdb_last_bgsave_status` and `aof_last_write_status` are both ok.
    pub disk_ok: bool,
    /// Primary: its attached replicas.
    pub replicas: Vec<AttachedReplica>,
    /// `latest_fork_usec`.
    pub latest_fork_usec: u64,
    /// `used_memory`, bytes.
    pub used_memory: u64,
    /// `maxmemory`, bytes; 0 means no limit.
    pub maxmemory: u64,
    /// Sum of `keys=` over all databases of INFO keyspace.
    pub keys: u64,
    /// `uptime_in_seconds`.
    pub uptime_seconds: u64,
}
