//! `pointsman failovers`, and reports as every command shows them.

use std::time::Duration;

use clap::Args;

use super::words::{self, ago, length, wall_time};
use super::{AdminArgs, FAILED, OK, client, complain, print, print_json};
use crate::clock;
use crate::topology::{FailoverReport, Fault, Outcome, RequestCounts, Timestamp};

pub(super) const HELP: &str = "\
The running pointsman keeps its newest reports in memory; they are in its log too. Each tells what \
was seen, what was decided and done and when (milliseconds from the first line), what it meant for \
clients' requests, and how many bytes only the old primary had.

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
            "({} older, not shown; --last N shows more)\n\n",
            words::count(older, "report")
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
    let move_ = format!("{} -> {}", name(&report.from), name(&report.to));
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
    format!(
        "{} held, {} sent again, {} not executed, {} outcome unknown",
        counts.held, counts.replayed, counts.refused, counts.unknown
    )
}

fn data(report: &FailoverReport) -> String {
    match (report.bytes_lost, report.fault) {
        (Some(0), _) => "nothing was lost".to_owned(),
        (Some(lost), _) => format!(
            "{} of the replication stream only the old primary had",
            words::bytes(lost)
        ),
        (None, Fault::Switchover) => "nothing was lost (offsets were equal)".to_owned(),
        (None, _) => "what only the old primary had is known when it returns".to_owned(),
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
