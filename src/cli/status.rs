//! `pointsman status`

use std::time::Duration;

use super::words::{self, ago, length, table};
use super::{AdminArgs, FAILED, OK, client, complain, failovers, print, print_json};
use crate::admin::{BackendAnswer, StatusAnswer};
use crate::clock;
use crate::failover::{Health, NodeRole, NodeStatus, SentinelStatus, ShardStatus};
use crate::topology::{Gate, NodeId};
use crate::vip::{VipState, VipStatus};

pub(super) const HELP: &str = "\
For each backend: the published primary (marked *), the phase, the epoch (grows by one
with each change of primary), whether requests flow, and every node: role, health, how
many bytes it is behind the primary, when it answered last, and why it would not be
promoted. Where Sentinel decides, every sentinel: whom it names, in which epoch. Of a
cluster, every shard: its primary, how many hash slots it has, its epoch. The admin server
of a vip agent says whether the address is there, and why.

Examples:
  pointsman status
  pointsman status --admin 10.0.0.9:9121
  pointsman status --json | jq '.backends[].topology.primary.node'";

pub(super) fn status(args: &AdminArgs) -> u8 {
    let answer: Answer = match client::get(&args.admin, "/api/status") {
        Ok(answer) => answer,
        Err(error) => {
            complain(error);
            return FAILED;
        }
    };
    if args.json {
        return print_json(&answer);
    }
    print(&match answer {
        Answer::Pointsman(answer) => render(&answer, clock::unix_time()),
        Answer::VipAgent(status) => render_vip(&status),
    });
    OK
}

/// Whoever has an admin server.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
enum Answer {
    Pointsman(Box<StatusAnswer>),
    VipAgent(Box<VipStatus>),
}

fn render_vip(status: &VipStatus) -> String {
    let state = match (status.state, &status.conflict) {
        (VipState::Held, None) => "held",
        (VipState::Held, Some(_)) => "held, CONFLICT",
        (VipState::Claiming, None) => "being taken",
        (VipState::Claiming, Some(_)) => "NOT taken, CONFLICT",
        (VipState::Free, _) => "not here",
    };
    let mut text = format!(
        "pointsman vip-agent {}\n\naddress {} on {}: {state}\n",
        status.version, status.vip, status.interface
    );
    if let Some(other) = &status.conflict {
        text.push_str(&format!("  another host answers for it: {other}\n"));
    }
    if let Some(reason) = &status.reason {
        text.push_str(&format!("  reason: {reason}\n"));
    }
    text.push_str(&format!(
        "  node {}, backend {}",
        status.node, status.backend
    ));
    if let (Some(primary), Some(epoch)) = (&status.primary, status.epoch) {
        text.push_str(&format!(", primary {primary}, epoch {epoch}"));
    }
    text.push('\n');
    for pointsman in &status.pointsmen {
        let error = pointsman.error.as_deref().unwrap_or("answers");
        text.push_str(&format!("  pointsman {}: {error}\n", pointsman.address));
    }
    text
}

fn render(answer: &StatusAnswer, now: Duration) -> String {
    let state = match (answer.stopping, answer.ready) {
        (true, _) => "stopping",
        (false, true) => "ready",
        (false, false) => "NOT ready",
    };
    let mut text = format!(
        "pointsman {}, {state}, up {}\n",
        answer.version,
        match answer.uptime_seconds {
            0 => "less than a second".to_owned(),
            seconds => length(Duration::from_secs(seconds)),
        },
    );
    for backend in &answer.backends {
        text.push('\n');
        text.push_str(&render_backend(backend, now));
    }
    text
}

fn render_backend(backend: &BackendAnswer, now: Duration) -> String {
    let topology = &backend.topology;
    let mut text = format!(
        "backend {}: {}, epoch {}, authority {}\n",
        backend.backend,
        phase(backend),
        topology.epoch,
        backend.authority,
    );
    if let Some(reason) = &backend.waiting_for {
        text.push_str(&format!("  waits for: {reason}\n"));
    } else if let Some(reason) = backend.status.as_ref().and_then(|s| s.undecided.as_ref()) {
        text.push_str(&format!("  decides nothing: {reason}\n"));
    }
    if !backend.listeners.is_empty() {
        text.push_str(&format!("  listens on {}\n", backend.listeners.join(", ")));
    }
    let primary = topology.primary.as_ref().map(|p| &p.node);
    match &backend.status {
        Some(status) => {
            text.push_str(&nodes(&status.nodes, primary));
            text.push_str(&sentinels(&status.sentinels));
            text.push_str(&shards(&status.shards));
        }
        None => text.push_str("  the control plane does not answer\n"),
    }
    if let Some(report) = &backend.last_report {
        text.push_str(&format!(
            "  last change: {}\n",
            failovers::headline(report, now)
        ));
    }
    text
}

/// What the backend does, and whether clients wait for it.
fn phase(backend: &BackendAnswer) -> String {
    let status = backend.status.as_ref();
    let phase = status.map_or("unknown", |s| s.phase.as_str());
    let mut words = phase.replace('_', " ");
    if let Some(step) = status.map(|s| s.step.as_str()).filter(|s| !s.is_empty())
        && phase != "serving"
    {
        words = format!("{words} ({step})");
    }
    if backend.topology.gate == Gate::Closed {
        words.push_str(", requests wait");
    }
    words
}

fn nodes(nodes: &[NodeStatus], primary: Option<&NodeId>) -> String {
    let headings = [
        "NODE", "ROLE", "HEALTH", "OFFSET", "BEHIND", "ANSWERED", "NOTE",
    ];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    for node in nodes {
        let mark = if primary == Some(&node.node) {
            "*"
        } else {
            " "
        };
        rows.push(vec![
            format!("{mark} {}", node.node),
            role(node.role).to_owned(),
            health(node.health).to_owned(),
            node.offset.map_or(String::new(), |o| o.to_string()),
            match node.lag_bytes {
                Some(lag) if primary != Some(&node.node) => words::bytes(lag),
                _ => String::new(),
            },
            node.last_seen.map_or("never".to_owned(), ago),
            note(node),
        ]);
    }
    rows[0][0].insert_str(0, "  ");
    table("  ", &rows)
}

/// Where Sentinel decides.
fn sentinels(sentinels: &[SentinelStatus]) -> String {
    if sentinels.is_empty() {
        return String::new();
    }
    let headings = ["  SENTINEL", "NAMES", "EPOCH", "NOTE"];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    for sentinel in sentinels {
        rows.push(vec![
            format!("  {}", sentinel.sentinel),
            sentinel
                .primary
                .as_ref()
                .map_or("?".to_owned(), NodeId::to_string),
            sentinel.epoch.map_or(String::new(), |e| e.to_string()),
            sentinel.note.clone().unwrap_or_default(),
        ]);
    }
    table("  ", &rows)
}

/// Of a cluster.
fn shards(shards: &[ShardStatus]) -> String {
    if shards.is_empty() {
        return String::new();
    }
    let headings = ["  SHARD", "PRIMARY", "SLOTS", "EPOCH", "NOTE"];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    for shard in shards {
        let note = match shard.serves {
            true => "",
            false => "its primary does not answer as one",
        };
        rows.push(vec![
            format!("  {}", shard.shard),
            shard
                .primary
                .as_ref()
                .map_or("?".to_owned(), NodeId::to_string),
            shard.slots.to_string(),
            shard.epoch.to_string(),
            note.to_owned(),
        ]);
    }
    table("  ", &rows)
}

fn role(role: Option<NodeRole>) -> &'static str {
    match role {
        Some(NodeRole::Primary) => "primary",
        Some(NodeRole::Replica) => "replica",
        None => "?",
    }
}

fn health(health: Health) -> &'static str {
    match health {
        Health::Unknown => "unknown",
        Health::Unasked => "not asked",
        Health::Up => "up",
        Health::Suspect => "suspect",
        Health::Refused => "REFUSED",
        Health::Unacked => "UNREACHABLE",
        Health::Silent => "HANGS",
        Health::ErrorReply => "ERRORS",
        Health::Reborn => "REBORN",
        Health::Denied => "DENIED",
        Health::Full => "FULL",
        Health::NotRedis => "NOT REDIS",
        Health::Unresolved => "UNRESOLVED",
    }
}

fn note(node: &NodeStatus) -> String {
    let mut notes = Vec::new();
    if node.role == Some(NodeRole::Replica) && node.link_up == Some(false) {
        notes.push("link to its primary down".to_owned());
    }
    notes.extend(node.repointing.clone());
    if let Some(reason) = &node.not_promotable {
        notes.push(format!("not promotable: {reason}"));
    }
    notes.extend(node.lacks.clone());
    notes.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::Status;
    use crate::topology::{Epoch, Primary, Topology};
    use std::sync::Arc;

    fn node(name: &str, role: Option<NodeRole>, health: Health, lag: Option<u64>) -> NodeStatus {
        NodeStatus {
            node: NodeId::new(name),
            role,
            health,
            run_id: None,
            follows: None,
            priority: None,
            announced: true,
            offset: lag.map(|lag| 73_014 - lag),
            lag_bytes: lag,
            link_up: Some(true),
            last_seen: lag.map(|_| Duration::from_millis(20)),
            not_promotable: None,
            repointing: None,
            lacks: None,
        }
    }

    fn answer() -> StatusAnswer {
        let mut topology = Topology::unknown("main");
        topology.epoch = Epoch(3);
        topology.gate = Gate::Open;
        topology.primary = Some(Primary {
            node: NodeId::new("10.0.0.2:6379"),
            run_id: "r".into(),
            repl_id: "h".into(),
        });
        let mut down = node("10.0.0.3:6379", None, Health::Refused, None);
        down.not_promotable = Some("does not answer".to_owned());
        let status = Status {
            backend: "main".into(),
            phase: "serving".to_owned(),
            step: String::new(),
            epoch: Epoch(3),
            gate: Gate::Open,
            primary: Some(NodeId::new("10.0.0.2:6379")),
            undecided: None,
            nodes: vec![
                node(
                    "10.0.0.1:6379",
                    Some(NodeRole::Replica),
                    Health::Up,
                    Some(56),
                ),
                node(
                    "10.0.0.2:6379",
                    Some(NodeRole::Primary),
                    Health::Up,
                    Some(0),
                ),
                down,
            ],
            sentinels: Vec::new(),
            shards: Vec::new(),
        };
        StatusAnswer {
            version: "0.1.0".to_owned(),
            uptime_seconds: 7_380,
            ready: true,
            stopping: false,
            backends: vec![BackendAnswer {
                backend: "main".into(),
                ready: true,
                waiting_for: None,
                authority: "embedded".to_owned(),
                listeners: vec!["127.0.0.1:6379".to_owned()],
                topology: Arc::new(topology),
                status: Some(status),
                last_report: None,
            }],
        }
    }

    #[test]
    fn a_healthy_backend_reads_well() {
        assert_eq!(
            render(&answer(), Duration::ZERO),
            "\
pointsman 0.1.0, ready, up 2 h 3 min

backend main: serving, epoch 3, authority embedded
  listens on 127.0.0.1:6379
    NODE           ROLE     HEALTH   OFFSET  BEHIND  ANSWERED  NOTE
    10.0.0.1:6379  replica  up       72958   56 B    just now
  * 10.0.0.2:6379  primary  up       73014           just now
    10.0.0.3:6379  ?        REFUSED                  never     not promotable: does not answer
"
        );
    }

    #[test]
    fn where_sentinel_decides_every_sentinel_is_shown() {
        let mut answer = answer();
        let status = answer.backends[0].status.as_mut().unwrap();
        status.nodes.clear();
        let sentinel = |name: &str, primary: Option<&str>, note: Option<&str>| SentinelStatus {
            sentinel: NodeId::new(name),
            primary: primary.map(NodeId::new),
            epoch: primary.map(|_| Epoch(3)),
            note: note.map(str::to_owned),
        };
        status.sentinels = vec![
            sentinel("s1:26379", Some("10.0.0.2:6379"), None),
            sentinel("s2:26379", None, Some("refuses connections")),
        ];
        let text = render(&answer, Duration::ZERO);
        let shown = "\
    SENTINEL  NAMES          EPOCH  NOTE
    s1:26379  10.0.0.2:6379  3
    s2:26379  ?                     refuses connections
";
        assert!(text.ends_with(shown), "{text}");
    }

    #[test]
    fn of_a_cluster_every_shard_is_shown() {
        let mut answer = answer();
        let status = answer.backends[0].status.as_mut().unwrap();
        status.nodes.clear();
        let shard = |shard, primary: &str, serves| ShardStatus {
            shard,
            primary: Some(NodeId::new(primary)),
            serves,
            epoch: Epoch(1),
            slots: 8192,
        };
        status.shards = vec![shard(0, "n1:6379", true), shard(1, "n2:6379", false)];
        let text = render(&answer, Duration::ZERO);
        let shown = "\
    SHARD  PRIMARY  SLOTS  EPOCH  NOTE
    0      n1:6379  8192   1
    1      n2:6379  8192   1      its primary does not answer as one
";
        assert!(text.ends_with(shown), "{text}");
    }

    #[test]
    fn a_backend_without_a_primary_says_what_it_waits_for() {
        let mut answer = answer();
        answer.ready = false;
        let backend = &mut answer.backends[0];
        backend.waiting_for = Some("no replica is fit".to_owned());
        backend.topology = Arc::new(Topology::unknown("main"));
        backend.status = None;
        assert_eq!(
            render(&answer, Duration::ZERO),
            "\
pointsman 0.1.0, NOT ready, up 2 h 3 min

backend main: unknown, requests wait, epoch 0, authority embedded
  waits for: no replica is fit
  listens on 127.0.0.1:6379
  the control plane does not answer
"
        );
    }
}
