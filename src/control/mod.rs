//! The control plane's shell: it does what the core asks and tells it what happened. It decides
//! nothing; an `if` about health or choice belongs in `failover/`.
//!
//! ```text
//!   probe   one task a node: INFO, kinds of silence ─┐
//!   source  which nodes there are                    ├─ events ─> driver ─> failover::Machine
//!   evidence from real requests, switchover requests ┘               │
//!                                                                 actions
//!   sentinel   what each sentinel says (where Sentinel decides) ─> events, the source's nodes
//!   ops        one task a node: fence, promote, repoint, ... <───────┤
//!   authority  the record: load, compare-and-swap          <─────────┤
//!   publisher  whoever does not connect through us         <─────────┤
//!   topology   the data plane's snapshot; who obeys it     <─────────┘
//! ```
//!
//! `cluster` is all of that for a Redis Cluster, which decides by itself.
//! `store` is the coordinator under a shared record: etcd, Consul, ZooKeeper.
//! `node` is the RESP connection under `probe` and `ops`. All backends run on one thread.

pub mod authority;
pub mod publisher;
pub mod sentinel;
pub mod source;

mod cluster;
mod codec;
mod driver;
mod failpoint;
mod gauges;
mod handle;
mod line;
mod node;
mod ops;
mod probe;
mod reports;
mod staff;
mod start;
mod store;
mod transaction;

pub use handle::ControlHandle;
pub use node::Access;
pub use ops::{Operator, Order, SharedReplicationAuth};
pub use probe::{Probe, ProbeCaller, Sighting};
pub use start::{
    AuthoritySettings, BackendControl, ClusterParts, Control, PublisherSettings, Role,
    SharedSettings, SourceSettings, StartError,
};
pub use store::{StoreKind, StoreSettings, TlsSettings};
