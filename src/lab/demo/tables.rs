//! What stays on the screen: the report of a failover, what the clients saw, the verdict.

use std::time::Duration;

use super::super::history::ErrorClass;
use super::super::judge::Tally;
use super::act::{ActOutcome, Fault};
use super::screen::{Screen, grouped, millis};
use crate::topology::{BytesLost, FailoverReport, Fault as Cause, Outcome};

/// The phases of one failover with their times.
pub(super) fn report(screen: &mut Screen, report: &FailoverReport) {
    let node = |id: &Option<crate::topology::NodeId>| match id {
        Some(id) => id.to_string(),
        None => "-".to_owned(),
    };
    screen.say("");
    let (shard, waited) = match report.shard {
        Some(shard) => (format!("shard {shard}, "), "requests waited"),
        None => (String::new(), "gate closed for"),
    };
    let head = format!(
        "  Report: {shard}{} -> {}, epoch {}, {}, {waited} {}",
        node(&report.from),
        node(&report.to),
        report.epoch,
        cause(report.fault),
        millis(report.pause),
    );
    let head = screen.bold(&head);
    screen.say(&head);
    let start = report.evidence.iter().map(|(at, _)| *at);
    let start = start
        .chain(report.phases.iter().map(|phase| phase.at))
        .min();
    let start = start.unwrap_or_default();
    let mut lines: Vec<_> = report
        .evidence
        .iter()
        .map(|(at, text)| (*at, format!("saw  {text}")))
        .chain(
            report
                .phases
                .iter()
                .map(|phase| (phase.at, format!("did  {}", phase.phase.replace('_', " ")))),
        )
        .collect();
    lines.sort_by_key(|(at, _)| *at);
    for (at, text) in lines {
        let time = at.since(start).as_secs_f64() * 1000.0;
        screen.say(&format!("    +{time:>8.1} ms   {text}"));
    }
    for (node, reason) in &report.passed_over {
        screen.say(&format!("    not chosen: {node}, {reason}"));
    }
    if let Outcome::Aborted(reason) = &report.outcome {
        let line = screen.bad(&format!("    aborted: {reason}"));
        screen.say(&line);
    }
    let requests = &report.requests;
    let mut counts = vec![
        format!("{} held", grouped(requests.held)),
        format!("{} sent again", grouped(requests.replayed)),
    ];
    for (count, what) in [
        (requests.refused, "refused"),
        (requests.unknown, "outcome unknown"),
    ] {
        if count > 0 {
            counts.push(format!("{} {what}", grouped(count)));
        }
    }
    screen.say(&format!("    requests: {}", counts.join(", ")));
    let lost = match report.bytes_lost {
        BytesLost::Exactly(bytes) => format!("{} bytes", grouped(bytes)),
        BytesLost::AtLeast(bytes) => format!("at least {} bytes", grouped(bytes)),
        BytesLost::Unknown => "not known".to_owned(),
    };
    screen.say(&format!("    replication stream that was lost: {lost}"));
}

fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Refused => "the process was gone",
        Cause::Unacked => "the host was gone",
        Cause::Silent => "it hung",
        Cause::ErrorReplies => "it answered with errors",
        Cause::Reborn => "another process at its address",
        Cause::Switchover => "asked for",
        Cause::Followed => "decided by somebody else",
    }
}

/// One row for each kind of client.
pub(super) fn clients(screen: &mut Screen, outcome: &ActOutcome) {
    screen.say("");
    let head = row_head("what the clients saw");
    let head = screen.bold(&head);
    screen.say(&head);
    for (kind, tally) in &outcome.verdict.kinds {
        let pause = match kind.waits_for_others() {
            true => None,
            false => Some(tally.longest_pause),
        };
        let line = row(screen, kind.name(), tally, pause);
        screen.say(&line);
    }
    let total = outcome.verdict.total();
    let line = row(screen, "all", &total, Some(total.longest_pause));
    screen.say(&line);
    // What is said below for all of them needs no example.
    let alarming = |example: &&String| !example.contains("outcome unknown");
    for example in total.examples.iter().filter(alarming).take(3) {
        let line = screen.dim(&format!("    {example}"));
        screen.say(&line);
    }
}

fn row_head(title: &str) -> String {
    format!(
        "  {title:<22} {:>9} {:>7} {:>8} {:>14} {:>6} {:>8}",
        "requests", "errors", "unknown", "longest pause", "lost", "doubled"
    )
}

fn row(screen: &Screen, name: &str, tally: &Tally, pause: Option<Duration>) -> String {
    let count = |number: u64, width: usize, alarming: bool| {
        let text = format!("{:>width$}", grouped(number));
        match (number, alarming) {
            (0, _) => text,
            (_, true) => screen.bad(&text),
            (_, false) => screen.notable(&text),
        }
    };
    format!(
        "  {name:<22} {:>9} {} {} {:>14} {} {}",
        grouped(tally.acknowledged),
        count(tally.hard_errors(), 7, true),
        count(tally.errors_of(ErrorClass::Unknown), 8, false),
        pause.map_or("-".to_owned(), millis),
        count(tally.lost, 6, false),
        count(tally.broken(), 8, true),
    )
}

/// One row for each fault, and the verdict; `true` when every promise was kept. `keeps` says whether
/// that no connection breaks is one of them.
pub(super) fn summary(
    screen: &mut Screen,
    outcomes: &[ActOutcome],
    alarms: &[String],
    keeps: bool,
) -> bool {
    screen.say("");
    let head = screen.bold(&row_head("fault"));
    screen.say(&head);
    let mut broken = Vec::new();
    for outcome in outcomes {
        let total = outcome.verdict.total();
        let line = row(
            screen,
            outcome.fault.name(),
            &total,
            Some(total.longest_pause),
        );
        screen.say(&line);
        broken.extend(broken_promises(outcome, keeps));
    }
    broken.extend(
        alarms
            .iter()
            .map(|line| format!("pointsman logged an error: {line}")),
    );
    screen.say("");
    for promise in &broken {
        let line = screen.bad(&format!("  {promise}"));
        screen.say(&line);
    }
    let unknown: u64 = outcomes
        .iter()
        .map(|o| o.verdict.total().errors_of(ErrorClass::Unknown))
        .sum();
    let verdict = match (broken.len(), unknown) {
        (0, 0) if keeps => {
            screen.good("  Every promise was kept: the clients saw a pause and nothing else.")
        }
        (0, _) => screen.good("  Every promise was kept."),
        (count, _) => screen.bad(&format!("  {count} promises were broken.")),
    };
    screen.say(&verdict);
    if !keeps {
        let line = screen.dim(
            "  The errors are connections that broke when the address moved: each client connected to it\n  \
             again. Through pointsman none would have broken.",
        );
        screen.say(&line);
    }
    if unknown > 0 && keeps {
        let line = screen.dim(
            "  \"unknown\": increments and pushes that were on their way when the primary died get\n  \
             an error that says so, because they may have run; reads and plain writes are sent\n  \
             again. No connection was lost.",
        );
        screen.say(&line);
    }
    let lost: u64 = outcomes.iter().map(|o| o.verdict.total().lost).sum();
    if lost > 0 {
        let line = screen.dim(
            "  \"lost\": acknowledged by a primary that died before a replica had them: replication\n  \
             is asynchronous.",
        );
        screen.say(&line);
    }
    broken.is_empty()
}

fn broken_promises(outcome: &ActOutcome, keeps: bool) -> Vec<String> {
    let total = outcome.verdict.total();
    let name = outcome.fault.name();
    let mut broken = Vec::new();
    let mut check = |count: u64, what: &str| {
        if count > 0 {
            broken.push(format!("{name}: {} {what}", grouped(count)));
        }
    };
    let errors = match outcome.fault {
        _ if !keeps => 0,
        // Nothing is on its way when the primary is moved on purpose. (A cluster cuts off what is on its
        // way when it moves one.)
        Fault::Switchover | Fault::Reshard => total.all_errors(),
        _ => outcome.verdict.forbidden_errors(),
    };
    check(errors, "errors that no client should see");
    check(total.doubled, "requests that ran twice");
    check(total.disordered, "effects out of order");
    check(total.wrong, "wrong replies");
    check(
        total.ran_although_refused,
        "requests that ran although they were refused",
    );
    check(total.torn, "torn transactions");
    if !outcome.fault.may_lose() {
        check(total.lost, "acknowledged writes lost");
    }
    broken
}
