//! docs/metrics.md says what the code counts, and nothing else.

use std::collections::BTreeMap;

use pointsman::metrics::{
    ALL, ConnectFailure, DeclineReason, DnsResult, FailoverEnd, LookupResult, PublicationOutcome,
    PublisherKind, RedirectKind, RejectReason, RequestOutcome, SentinelDrop, SwapResult,
    UpstreamKind, VipDrop,
};
use pointsman::topology::Fault;

#[derive(Debug, PartialEq)]
struct Row {
    kind: String,
    labels: Vec<String>,
    meaning: String,
}

fn documented() -> BTreeMap<String, Row> {
    let text = std::fs::read_to_string("docs/metrics.md").expect("docs/metrics.md");
    text.lines()
        .filter(|line| line.starts_with("| `pointsman_"))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let bare = |cell: &str| cell.trim_matches('`').to_owned();
            let row = Row {
                kind: cells[2].to_owned(),
                labels: match cells[3] {
                    "none" => Vec::new(),
                    labels => labels.split(", ").map(bare).collect(),
                },
                meaning: cells[4].to_owned(),
            };
            (bare(cells[1]), row)
        })
        .collect()
}

#[test]
fn every_metric_is_documented_and_no_other() {
    let documented = documented();
    for metric in ALL {
        let row = documented.get(metric.name);
        let row = row.unwrap_or_else(|| panic!("{} is not in docs/metrics.md", metric.name));
        assert_eq!(row.kind, metric.kind.as_str(), "{}", metric.name);
        assert_eq!(row.labels, metric.labels, "{}", metric.name);
    }
    assert_eq!(documented.len(), ALL.len(), "metrics that do not exist");
}

#[test]
fn every_label_value_is_documented() {
    fn values<L: Copy>(all: &[L], word: impl Fn(L) -> &'static str) -> Vec<&'static str> {
        all.iter().map(|v| word(*v)).collect()
    }
    let documented = documented();
    for (metric, values) in [
        (
            "pointsman_requests_total",
            values(RequestOutcome::ALL, RequestOutcome::as_str),
        ),
        (
            "pointsman_client_connections_rejected_total",
            values(RejectReason::ALL, RejectReason::as_str),
        ),
        (
            "pointsman_sentinel_clients_dropped_total",
            values(SentinelDrop::ALL, SentinelDrop::as_str),
        ),
        (
            "pointsman_requests_redirected_total",
            values(RedirectKind::ALL, RedirectKind::as_str),
        ),
        (
            "pointsman_upstream_connections",
            values(UpstreamKind::ALL, UpstreamKind::as_str),
        ),
        (
            "pointsman_upstream_connect_failures_total",
            values(ConnectFailure::ALL, ConnectFailure::as_str),
        ),
        (
            "pointsman_failovers_total",
            values(Fault::ALL, Fault::as_str),
        ),
        (
            "pointsman_failovers_total",
            values(FailoverEnd::ALL, FailoverEnd::as_str),
        ),
        (
            "pointsman_failover_declined_total",
            values(DeclineReason::ALL, DeclineReason::as_str),
        ),
        (
            "pointsman_authority_swaps_total",
            values(SwapResult::ALL, SwapResult::as_str),
        ),
        (
            "pointsman_vip_dropped_total",
            values(VipDrop::ALL, VipDrop::as_str),
        ),
        (
            "pointsman_dns_lookups_total",
            values(LookupResult::ALL, LookupResult::as_str),
        ),
        (
            "pointsman_publications_total",
            values(PublicationOutcome::ALL, PublicationOutcome::as_str),
        ),
        (
            "pointsman_publications_total",
            values(PublisherKind::ALL, PublisherKind::as_str),
        ),
        (
            "pointsman_dns_queries_total",
            values(DnsResult::ALL, DnsResult::as_str),
        ),
    ] {
        for value in values {
            let meaning = &documented[metric].meaning;
            assert!(
                meaning.contains(&format!("`{value}`")),
                "{metric} does not explain `{value}`"
            );
        }
    }
}
