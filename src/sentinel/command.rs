//! SENTINEL ...: one function for each question. What would change what is monitored is refused: that
//! stands in the configuration.

use bytes::{Bytes, BytesMut};

use super::instance::{Fields, View, put_fields};
use super::session::{Session, put_arity, put_unknown_sub, word};
use crate::failover::Status;
use crate::resp::{put_array, put_bulk, put_error, put_integer, put_null, put_ok, put_simple};
use crate::topology::Outcome;

const NO_SUCH_NAME: &str = "ERR No such master with that name";

const IN_PROGRESS: &str = "INPROG Failover already in progress";

const NO_GOOD_REPLICA: &str = "NOGOODSLAVE No suitable replica to promote";

const HELP: &[&str] = &[
    "SENTINEL <subcommand> [<arg> [value] ...]. Subcommands are:",
    "CKQUORUM <master-name>",
    "    Check if pointsman could fail over this backend now.",
    "FAILOVER <master-name>",
    "    Move the primary to the best replica (a planned switchover).",
    "GET-MASTER-ADDR-BY-NAME <master-name>",
    "    Return the ip and port of the primary.",
    "IS-MASTER-DOWN-BY-ADDR <ip> <port> <current-epoch> <runid>",
    "    Say whether this primary is down; no vote is given.",
    "MASTER <master-name>",
    "    Show the state of the primary.",
    "MASTERS",
    "    Show the state of every primary.",
    "MYID",
    "    Return the id of this pointsman.",
    "REPLICAS <master-name>",
    "    Show the replicas.",
    "SENTINELS <master-name>",
    "    Show the other Sentinels: none.",
];

/// Commands of Sentinel that would change or simulate something.
const REFUSED: &[&str] = &[
    "config",
    "debug",
    "flushconfig",
    "info-cache",
    "monitor",
    "remove",
    "reset",
    "set",
    "simulate-failure",
];

pub(super) async fn sentinel(session: &Session, sub: &Bytes, args: &[Bytes], out: &mut BytesMut) {
    let name = word(sub);
    match (&*name, args) {
        ("myid", []) => put_bulk(out, session.sentinel.id.as_bytes()),
        ("masters", []) => masters(session, out).await,
        ("master", [name]) => {
            if let Some(view) = session.view(name, out).await {
                put_fields(out, &view.primary_fields(), session.resp3);
            }
        }
        ("replicas" | "slaves", [name]) => {
            if let Some(view) = session.view(name, out).await {
                let replicas = view.replicas();
                let all: Vec<Fields> = replicas.iter().map(|n| view.replica_fields(n)).collect();
                put_all(out, &all, session.resp3);
            }
        }
        ("sentinels", [name]) => match session.sentinel.index(name) {
            Some(_) => put_array(out, 0),
            None => put_error(out, NO_SUCH_NAME),
        },
        ("get-master-addr-by-name", [name]) => get_address(session, name, out),
        ("is-master-down-by-addr", [ip, port, _epoch, _run_id]) => {
            is_down_by_address(session, ip, port, out).await;
        }
        ("ckquorum", [name]) => {
            if let Some(view) = session.view(name, out).await {
                check_quorum(view.status.as_deref(), out);
            }
        }
        ("failover", [name]) => match session.sentinel.index(name) {
            Some(index) => failover(session, index, out).await,
            None => put_error(out, NO_SUCH_NAME),
        },
        ("pending-scripts", []) => put_array(out, 0),
        ("help", []) => {
            put_array(out, HELP.len());
            for line in HELP {
                put_simple(out, line);
            }
        }
        (known, _) if REFUSED.contains(&known) => {
            let text = format!(
                "ERR pointsman has no SENTINEL {}: what is served stands in its configuration",
                known.to_ascii_uppercase()
            );
            put_error(out, &text);
        }
        (known, _) if KNOWN.contains(&known) => put_arity(out, &format!("sentinel|{known}")),
        _ => put_unknown_sub(out, "SENTINEL", sub),
    }
}

/// Subcommands that have a wrong number of arguments when nothing else fits.
const KNOWN: &[&str] = &[
    "ckquorum",
    "failover",
    "get-master-addr-by-name",
    "help",
    "is-master-down-by-addr",
    "master",
    "masters",
    "myid",
    "pending-scripts",
    "replicas",
    "sentinels",
    "slaves",
];

impl Session {
    /// The backend of that name now; an error reply where there is none.
    async fn view(&self, name: &[u8], out: &mut BytesMut) -> Option<View<'_>> {
        match self.sentinel.index(name) {
            Some(index) => Some(View::now(&self.sentinel, index, self.local.ip()).await),
            None => {
                put_error(out, NO_SUCH_NAME);
                None
            }
        }
    }
}

async fn masters(session: &Session, out: &mut BytesMut) {
    let mut all = Vec::new();
    for index in 0..session.sentinel.backends.len() {
        let view = View::now(&session.sentinel, index, session.local.ip()).await;
        all.push(view.primary_fields());
    }
    put_all(out, &all, session.resp3);
}

fn put_all(out: &mut BytesMut, all: &[Fields], resp3: bool) {
    put_array(out, all.len());
    for fields in all {
        put_fields(out, fields, resp3);
    }
}

/// Nil for a name that is not ours, and while there is no primary: both mean "ask somebody else, or
/// later".
fn get_address(session: &Session, name: &[u8], out: &mut BytesMut) {
    let index = session.sentinel.index(name);
    let view = index.map(|i| View::published(&session.sentinel, i, session.local.ip()));
    match view.filter(View::is_known).and_then(|view| view.address()) {
        Some((ip, port)) => {
            put_array(out, 2);
            put_bulk(out, ip.as_bytes());
            put_bulk(out, port.to_string().as_bytes());
        }
        None if session.resp3 => put_null(out, true),
        None => out.extend_from_slice(b"*-1\r\n"),
    }
}

/// What another Sentinel asks. It gets our opinion and never our vote: `*` and epoch 0.
async fn is_down_by_address(session: &Session, ip: &[u8], port: &[u8], out: &mut BytesMut) {
    let mut down = false;
    for index in 0..session.sentinel.backends.len() {
        let view = View::now(&session.sentinel, index, session.local.ip()).await;
        let node = view.primary.as_ref().and_then(|p| p.node.host_port());
        let is = |(h, p): (&str, u16)| h.as_bytes() == ip && p.to_string().as_bytes() == port;
        down |= node.is_some_and(is) && view.node_condition().is_down();
    }
    put_array(out, 3);
    put_integer(out, i64::from(down));
    put_bulk(out, b"*");
    put_integer(out, 0);
}

/// Why a failover could not be decided here, if so.
fn objection(status: Option<&Status>) -> Option<String> {
    match status {
        None => Some("the control plane does not answer".to_owned()),
        Some(status) if status.phase == "following" => {
            Some("somebody else decides; pointsman follows".to_owned())
        }
        Some(status) => status.undecided.clone(),
    }
}

fn check_quorum(status: Option<&Status>, out: &mut BytesMut) {
    match objection(status) {
        None => put_simple(
            out,
            "OK 1 usable Sentinels. Quorum and failover authorization can be reached",
        ),
        Some(why) => put_error(
            out,
            &format!(
                "NOQUORUM 0 usable Sentinels. Not enough available Sentinels to reach the majority \
                 and authorize a failover: {why}"
            ),
        ),
    }
}

async fn failover(session: &Session, index: usize, out: &mut BytesMut) {
    let local = session.peer.ip().to_canonical().is_loopback();
    if !local && session.sentinel.settings.auth.is_none() {
        return put_error(
            out,
            "NOPERM SENTINEL FAILOVER from another machine needs a password: see auth in [sentinel] \
             of the configuration",
        );
    }
    let backend = &session.sentinel.backends[index];
    let Some(status) = session.sentinel.status_now(index).await else {
        return put_error(out, "ERR the control plane does not answer");
    };
    match status.phase.as_str() {
        "failing_over" | "switching_over" | "waiting" => return put_error(out, IN_PROGRESS),
        "following" => {
            return put_error(
                out,
                "ERR somebody else decides who is primary; pointsman follows",
            );
        }
        _ => {}
    }
    let primary = status.primary.as_ref();
    let mut others = status.nodes.iter().filter(|n| Some(&n.node) != primary);
    if others.all(|node| node.not_promotable.is_some()) {
        return put_error(out, NO_GOOD_REPLICA);
    }
    tracing::info!(backend = %backend.name, peer = %session.peer, "SENTINEL FAILOVER asked for");
    let wanted = backend.operator.switchover(None);
    match tokio::time::timeout(backend.switchover_timeout, wanted).await {
        // As Sentinel's own OK: it has begun.
        Err(_) => put_ok(out),
        Ok(Err(why)) => put_error(out, &format!("ERR {why}")),
        Ok(Ok(report)) => match report.outcome {
            Outcome::Done => put_ok(out),
            Outcome::Aborted(why) => put_error(out, &format!("ERR no failover: {why}")),
        },
    }
}

/// The section `Sentinel` of INFO.
pub(super) async fn info_section(session: &Session) -> String {
    let backends = &session.sentinel.backends;
    let mut text = format!(
        "# Sentinel\r\nsentinel_masters:{}\r\nsentinel_tilt:0\r\nsentinel_tilt_since_seconds:-1\r\n\
         sentinel_running_scripts:0\r\nsentinel_scripts_queue_length:0\r\n\
         sentinel_simulate_failure_flags:0\r\n",
        backends.len()
    );
    for (number, backend) in backends.iter().enumerate() {
        let view = View::now(&session.sentinel, number, session.local.ip()).await;
        let (ip, port) = view.address().unwrap_or(("?".to_owned(), 0));
        text += &format!(
            "master{number}:name={},status={},address={}:{port},slaves={},sentinels=1\r\n",
            backend.name,
            view.condition().word(),
            // An IPv6 address without brackets, as Sentinel has it.
            ip,
            view.replicas().len(),
        );
    }
    text
}
