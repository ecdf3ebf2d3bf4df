//! An operator's hand, where pointsman follows: it promotes a replica and, where a name says who is
//! primary, moves the name.

use std::path::PathBuf;
use std::time::Duration;

use super::bind::{Bind, ZONE};
use super::server::Server;
use super::{LabError, Shard, until};
use crate::clock;
use crate::topology::Timestamp;

/// How long a primary takes no write while it is moved, at most.
const PAUSED: &str = "5000";

/// How long the replica may take to have everything.
const EQUAL: Duration = Duration::from_secs(5);

/// What a hand did.
pub struct Moved<'a> {
    /// Primary now.
    pub to: &'a Server,
    /// When whoever asks was told so: the name stood for it, or, without a name, it said so itself.
    pub at: Timestamp,
}

impl Shard {
    /// Moves the primary as docs/follow.md has it, so that nothing is lost: it takes no write any more,
    /// a replica that has everything is promoted, the name moves, the old one becomes a replica.
    pub async fn move_by_hand(&self) -> Result<Moved<'_>, LabError> {
        let old = self.primary().await?;
        done(old, &["CLIENT", "PAUSE", PAUSED, "WRITE"]).await?;
        let everything = old.offset().await?;
        let new = self.another(old).await?;
        until("a replica that has everything", EQUAL, async || {
            match new.offset().await {
                Ok(offset) if offset >= everything => Ok(()),
                other => Err(format!("{other:?} of {everything}")),
            }
        })
        .await?;
        let moved = self.appoint(old, new).await?;
        follow(old, new).await?;
        done(old, &["CLIENT", "UNPAUSE"]).await?;
        Ok(moved)
    }

    /// What an operator does whose primary is gone: promotes the replica that has most, moves the name.
    pub async fn replace_by_hand(&self, gone: &Server) -> Result<Moved<'_>, LabError> {
        let new = self.another(gone).await?;
        self.appoint(gone, new).await
    }

    /// Makes a node that is back a replica of whoever is primary now.
    pub async fn demote_by_hand(&self, node: &Server) -> Result<(), LabError> {
        follow(node, self.primary().await?).await
    }

    /// The other node that has most.
    async fn another(&self, old: &Server) -> Result<&Server, LabError> {
        let offsets = self.cluster.offsets().await;
        let others = self.cluster.nodes().iter().zip(offsets);
        let others = others.filter(|(node, offset)| node.id() != old.id() && offset.is_some());
        let best = others.max_by_key(|(_, offset)| *offset);
        best.map(|(node, _)| node)
            .ok_or_else(|| LabError::Unexpected("no replica answers".into()))
    }

    async fn appoint<'a>(&'a self, old: &Server, new: &'a Server) -> Result<Moved<'a>, LabError> {
        done(new, &["REPLICAOF", "NO", "ONE"]).await?;
        if let Some(dns) = &self.dns {
            name(dns, new).await?;
        }
        let at = clock::now();
        let siblings = self.cluster.nodes().iter();
        for node in siblings.filter(|n| n.id() != old.id() && n.id() != new.id()) {
            follow(node, new).await?;
        }
        Ok(Moved { to: new, at })
    }
}

/// The name that stands for the primary.
pub(super) fn service() -> String {
    format!("_redis._tcp.wide.{ZONE}")
}

/// The name stands for this node, and nothing else.
pub(super) async fn name(dns: &Bind, node: &Server) -> Result<(), LabError> {
    dns.update(&naming(node)).await
}

/// A file for `nsupdate` that does the same.
pub(super) fn name_script(dns: &Bind, node: &Server) -> Result<PathBuf, LabError> {
    dns.script("move", &naming(node))
}

fn naming(node: &Server) -> String {
    let (service, port) = (service(), node.port());
    format!("update delete {service} SRV\nupdate add {service} 0 SRV 1 1 {port} ns.{ZONE}")
}

async fn follow(node: &Server, primary: &Server) -> Result<(), LabError> {
    let port = primary.port().to_string();
    done(node, &["REPLICAOF", "127.0.0.1", &port]).await
}

async fn done(node: &Server, request: &[&str]) -> Result<(), LabError> {
    let reply = node.cli(request).await?;
    match reply.is_ok() {
        true => Ok(()),
        false => Err(LabError::Unexpected(format!("{request:?}: {reply}"))),
    }
}
