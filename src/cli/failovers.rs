//! `pointsman failovers`, and reports as every command shows them.

use std::time::Duration;

use clap::Args;

use super::words::{self, ago, length, wall_time};
use super::{AdminArgs, FAILED, OK, client, complain, print, print_json};
use crate::clock;
use crate::topology::{BytesLost, FailoverReport, Fault, Outcome, RequestCounts, Timestamp};

pub(super) const HELP: &str = "\
The running pointsman keeps its newest reports in memory; they are in its log too. Each
tells what was seen, what was decided and done and when (milliseconds from the first
line), what it meant for clients' requests, and how many bytes only the old primary had.

Examples:
  pointsman failovers
  pointsman failovers main --last 1
  pointsman failovers --json | jq '.[-1].evidence'";

#[derive(Args)]
pub(super) struct FailoversArgs {
    /// Only those of this backend
    backend: Option<String>,
    /// Only the newest N
    #[arg(long, value_name = "N", default_value_t = 10)]
    last: usize,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) fn failovers(args: &FailoversArgs) -> u8 {
    let path = match &args.backend {
        Some(name) => format!("/api/failovers?backend={}", encoded(name)),
        None => "/api/failovers".to_owned(),
    };
    let mut reports: Vec<FailoverReport> = match client::get(&args.admin.admin, &path) {
        Ok(reports) => reports,
        Err(error) => {
            complain(error);
            return FAILED;
        }
    };
    let older = reports.len().saturating_sub(args.last);
    reports.drain(..older);
    if args.admin.json {
        return print_json(&reports);
    }
    if reports.is_empty() {
        print("no failover and no switchover since pointsman started\n");
        return OK;
    }
    let now = clock::unix_time();
    let blocks: Vec<String> = reports.iter().map(|r| render(r, now)).collect();
    if older > 0 {
        print(&format!(
            "({} not shown; --last N shows more)\n\n",
            words::count(older, "older report")
        ));
    }
    print(&blocks.join("\n"));
    OK
}

/// Everything but letters, digits and `-._~` as `%XX` (RFC 3986, section 2.3).
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            b if b.is_ascii_alphanumeric() => out.push(b.into()),
            b => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

/// One line: what, from where to where, when, and what clients felt.
pub(super) fn headline(report: &FailoverReport, now: Duration) -> String {
    let when = ago(now.saturating_sub(Duration::from_millis(report.unix_millis)));
    let name = |node: &Option<crate::topology::NodeId>| match node {
        Some(node) => node.to_string(),
        None => "none".to_owned(),
    };
    let shard = report.shard.map(|shard| format!("shard {shard} "));
    let shard = shard.unwrap_or_default();
    let move_ = format!("{shard}{} -> {}", name(&report.from), name(&report.to));
    match &report.outcome {
        Outcome::Done => format!(
            "{} {move_}, {when}, clients waited {}",
            kind(report.fault),
            length(report.pause)
        ),
        Outcome::Aborted(reason) => {
            format!("{} given up, {when}: {reason}", kind(report.fault))
        }
    }
}

fn kind(fault: Fault) -> &'static str {
    match fault {
        Fault::Switchover => "switchover",
        Fault::Followed => "followed a change",
        _ => "failover",
    }
}

fn cause(fault: Fault) -> Option<&'static str> {
    match fault {
        Fault::Refused => Some("the primary refused connections: its process was gone"),
        Fault::Unacked => Some("the primary's host did not acknowledge anything"),
        Fault::Silent => Some("the primary's host acknowledged, Redis did not answer"),
        Fault::ErrorReplies => Some("the primary answered with errors"),
        Fault::Reborn => Some("the primary restarted as another process or with other data"),
        Fault::Switchover => None,
        Fault::Followed => Some("somebody else changed the primary"),
    }
}

/// The whole report.
pub(super) fn render(report: &FailoverReport, now: Duration) -> String {
    let mut text = format!(
        "backend {}, epoch {}: {}\n",
        report.backend,
        report.epoch,
        headline(report, now)
    );
    text.push_str(&format!("  started   {}\n", wall_time(report.unix_millis)));
    if let Some(cause) = cause(report.fault) {
        text.push_str(&format!("  because   {cause}\n"));
    }
    text.push_str(&format!("  requests  {}\n", requests(&report.requests)));
    if report.outcome == Outcome::Done {
        text.push_str(&format!("  data      {}\n", data(report)));
    }
    for (node, reason) in &report.passed_over {
        text.push_str(&format!("  not taken {node}: {reason}\n"));
    }
    text.push_str(&timeline(report));
    text
}

fn requests(counts: &RequestCounts) -> String {
    if *counts == RequestCounts::default() {
        return "none had to wait".to_owned();
    }
    format!(
        "{} held, {} sent again, {} not executed, {} outcome unknown",
        counts.held, counts.replayed, counts.refused, counts.unknown
    )
}

fn data(report: &FailoverReport) -> String {
    match report.bytes_lost {
        BytesLost::Exactly(0) => "nothing was lost".to_owned(),
        BytesLost::Exactly(lost) => format!(
            "{} of the replication stream only the old primary had",
            words::bytes(lost)
        ),
        BytesLost::AtLeast(0) => {
            "no loss was seen; the exact figure needs the old process itself".to_owned()
        }
        BytesLost::AtLeast(lost) => format!(
            "at least {} of the replication stream lost; the exact figure needs the old process \
             itself",
            words::bytes(lost)
        ),
        BytesLost::Unknown => "what was lost is not known: no offset to compare with".to_owned(),
    }
}

/// Evidence and phases in one order of time.
fn timeline(report: &FailoverReport) -> String {
    let seen = report.evidence.iter().map(|(at, what)| (*at, what.clone()));
    let done = report
        .phases
        .iter()
        .map(|p| (p.at, format!("[{}]", p.phase.replace('_', " "))));
    let mut lines: Vec<(Timestamp, String)> = seen.chain(done).collect();
    lines.sort_by_key(|(at, _)| *at);
    let Some((start, _)) = lines.first().cloned() else {
        return String::new();
    };
    let mut text = String::new();
    for (at, what) in lines {
        let since = at.since(start).as_secs_f64() * 1000.0;
        text.push_str(&format!("  {since:>9.1} ms  {what}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Epoch, NodeId, PhaseTime};

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_millis(millis))
    }

    fn report() -> FailoverReport {
        FailoverReport {
            backend: "main".to_owned(),
            shard: None,
            epoch: Epoch(4),
            fault: Fault::Refused,
            outcome: Outcome::Done,
            from: Some(NodeId::new("10.0.0.1:6379")),
            to: Some(NodeId::new("10.0.0.2:6379")),
            evidence: vec![
                (at(5_000), "10.0.0.1:6379: connection lost".to_owned()),
                (at(5_012), "10.0.0.1:6379: connect refused".to_owned()),
            ],
            phases: vec![PhaseTime {
                phase: "failing_over".to_owned(),
                at: at(5_013),
            }],
            pause: Duration::from_millis(87),
            requests: RequestCounts {
                held: 21,
                replayed: 3,
                refused: 0,
                unknown: 1,
            },
            bytes_lost: BytesLost::Exactly(120),
            passed_over: vec![(NodeId::new("10.0.0.3:6379"), "priority 0".to_owned())],
            unix_millis: 1_795_410_611_000,
        }
    }

    #[test]
    fn a_report_tells_the_story_in_order() {
        let now = Duration::from_secs(1_795_410_611 + 240);
        assert_eq!(
            render(&report(), now),
            "\
backend main, epoch 4: failover 10.0.0.1:6379 -> 10.0.0.2:6379, 4 min ago, clients waited 87 ms
  started   2026-11-23 05:10:11 UTC
  because   the primary refused connections: its process was gone
  requests  21 held, 3 sent again, 0 not executed, 1 outcome unknown
  data      120 B of the replication stream only the old primary had
  not taken 10.0.0.3:6379: priority 0
        0.0 ms  10.0.0.1:6379: connection lost
       12.0 ms  10.0.0.1:6379: connect refused
       13.0 ms  [failing over]
"
        );
    }

    #[test]
    fn of_a_cluster_the_shard_is_named() {
        let mut report = report();
        report.fault = Fault::Followed;
        report.shard = Some(2);
        let now = Duration::from_millis(report.unix_millis);
        assert_eq!(
            headline(&report, now),
            "followed a change shard 2 10.0.0.1:6379 -> 10.0.0.2:6379, just now, clients waited 87 ms"
        );
    }

    #[test]
    fn what_was_given_up_says_why() {
        let mut report = report();
        report.fault = Fault::Switchover;
        report.outcome = Outcome::Aborted("10.0.0.2:6379 lags by 17 MB".to_owned());
        let now = Duration::from_millis(report.unix_millis);
        assert_eq!(
            headline(&report, now),
            "switchover given up, just now: 10.0.0.2:6379 lags by 17 MB"
        );
        assert!(!render(&report, now).contains("data "));
    }

    #[test]
    fn names_are_encoded_for_the_query() {
        assert_eq!(encoded("a.b-1_x"), "a.b-1_x");
        assert_eq!(encoded("a b&c"), "a%20b%26c");
    }
}
