//! A program that is called as Sentinel calls `client-reconfig-script`:
//! `<master-name> <role> <state> <from-ip> <from-port> <to-ip> <to-port>`. Role is `leader` where this
//! pointsman made the change and `observer` where somebody else did; state is `start`, the only one
//! that Sentinel uses (its documentation says `failover`). Hosts are those of the configuration, as
//! with Sentinel's `announce-hostnames`. The environment also has `POINTSMAN_BACKEND`,
//! `POINTSMAN_EPOCH`, `POINTSMAN_CAUSE` (`failover` or `switchover`), `POINTSMAN_FROM` and
//! `POINTSMAN_TO` (`host:port`).
//!
//! Exit status 0 is success; anything else is tried again, and so is a program that runs too long,
//! after it and its children were killed. It hears of changes only.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::super::authority::Boxed;
use super::{Announcement, PublishError, Publisher};
use crate::metrics::PublisherKind;
use crate::topology::{Epoch, NodeId};

/// So much of what the program says on its standard error is shown when it fails, bytes.
const SHOWN: u64 = 1024;

/// How long the end of the standard error is waited for when the program has ended.
const LAST_WORDS: Duration = Duration::from_millis(20);

/// See the head of the file.
#[derive(Debug)]
pub struct HookPublisher {
    program: PathBuf,
    limit: Duration,
    published: Option<Epoch>,
}

impl HookPublisher {
    /// `program` is killed when it runs longer than `limit`.
    pub fn new(program: impl Into<PathBuf>, limit: Duration) -> Self {
        HookPublisher {
            program: program.into(),
            limit,
            published: None,
        }
    }

    async fn call(&self, announcement: &Announcement) -> Result<(), PublishError> {
        let failed = |why: String| PublishError::Failed(why);
        let mut child = command(&self.program, announcement)
            .spawn()
            .map_err(|error| failed(format!("can not be started: {error}")))?;
        let group = child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        match timeout(self.limit, watch(&mut child)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(failed(why)),
            Err(_) => {
                if let Some(group) = group {
                    // It may have ended this moment: then there is nothing to kill.
                    let _ = kill_process_group(group, Signal::KILL);
                }
                Err(failed(format!("killed after {:?}", self.limit)))
            }
        }
    }
}

impl Publisher for HookPublisher {
    fn name(&self) -> String {
        format!("hook {}", self.program.display())
    }

    fn kind(&self) -> PublisherKind {
        PublisherKind::Hook
    }

    fn only_changes(&self) -> bool {
        true
    }

    fn publish(&mut self, announcement: Announcement) -> Boxed<'_, Result<(), PublishError>> {
        Box::pin(async move {
            match self.published {
                Some(newest) if announcement.epoch < newest => {
                    return Err(PublishError::Older(newest));
                }
                Some(newest) if announcement.epoch == newest => return Ok(()),
                _ => {}
            }
            self.call(&announcement).await?;
            self.published = Some(announcement.epoch);
            Ok(())
        })
    }
}

fn command(program: &PathBuf, announcement: &Announcement) -> Command {
    let role = match announcement.decided {
        true => "leader",
        false => "observer",
    };
    let cause = match announcement.planned {
        true => "switchover",
        false => "failover",
    };
    let (from_host, from_port) = split(announcement.from.as_ref());
    let (to_host, to_port) = split(Some(&announcement.to));
    let name = |node: Option<&NodeId>| node.map(ToString::to_string).unwrap_or_default();
    let mut command = Command::new(program);
    command
        .arg(&*announcement.backend)
        .args([role, "start"])
        .args([from_host, from_port, to_host, to_port])
        .env("POINTSMAN_BACKEND", &*announcement.backend)
        .env("POINTSMAN_EPOCH", announcement.epoch.to_string())
        .env("POINTSMAN_CAUSE", cause)
        .env("POINTSMAN_FROM", name(announcement.from.as_ref()))
        .env("POINTSMAN_TO", announcement.to.as_str())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    command
}

fn split(node: Option<&NodeId>) -> (String, String) {
    match node.and_then(NodeId::host_port) {
        Some((host, port)) => (host.to_owned(), port.to_string()),
        None => (String::new(), "0".to_owned()),
    }
}

/// Waits for the end of the program itself, not of what it left in the background; the error says
/// how it failed and what it said.
async fn watch(child: &mut Child) -> Result<(), String> {
    let mut said = Vec::new();
    let stderr = child.stderr.take();
    let status = {
        let listen = async {
            let Some(mut stderr) = stderr else { return };
            let _ = (&mut stderr).take(SHOWN).read_to_end(&mut said).await;
            // Read on, or a talkative program would be stopped by a closed pipe.
            let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
        };
        tokio::pin!(listen);
        tokio::select! {
            status = child.wait() => {
                // What it said last may still be in the pipe.
                let _ = timeout(LAST_WORDS, listen).await;
                status
            }
            () = &mut listen => child.wait().await,
        }
    };
    match status.map_err(|error| error.to_string())? {
        status if status.success() => Ok(()),
        status => Err(format!(
            "{status}: {}",
            String::from_utf8_lossy(&said).trim()
        )),
    }
}
