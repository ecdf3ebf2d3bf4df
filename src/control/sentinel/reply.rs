//! What a sentinel's replies and announcements mean. The formats are those of Redis' `sentinel.c`:
//! `addReplySentinelRedisInstance` for replies, `sentinelEvent` for announcements.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis_protocol::resp2::types::{BytesFrame, Resp2Frame};

use super::super::codec::Command;
use super::super::source::address;
use crate::failover::{SentinelEvent, Stage, Statement};
use crate::topology::{Epoch, NodeId};

/// Other sentinels and nodes that are believed of one reply; one that lists more is not believed.
const MOST: usize = 256;

/// What one sentinel answered.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) statement: Statement,
    /// Its primary and the replicas.
    pub(super) nodes: Vec<NodeId>,
    /// The other sentinels that it knows: id and address.
    pub(super) peers: Vec<(Arc<str>, NodeId)>,
}

/// What is asked each time. The primary's address twice: between two equal answers the configuration
/// did not change.
pub(super) fn questions(master: &str) -> Vec<Command> {
    vec![
        Command::new(["SENTINEL", "GET-MASTER-ADDR-BY-NAME", master]),
        Command::new(["SENTINEL", "MASTER", master]),
        Command::new(["SENTINEL", "REPLICAS", master]),
        Command::new(["SENTINEL", "SENTINELS", master]),
        Command::new(["SENTINEL", "GET-MASTER-ADDR-BY-NAME", master]),
    ]
}

/// Reads the replies to [`questions`]. `None` inside: it changed its configuration meanwhile.
///
/// # Errors
/// The error reply, or what is wrong with a reply.
pub(super) fn answer(id: &Arc<str>, replies: &[BytesFrame]) -> Result<Option<Answer>, String> {
    if let Some(BytesFrame::Error(text)) =
        replies.iter().find(|r| matches!(r, BytesFrame::Error(_)))
    {
        return Err(text.to_string());
    }
    let strange = || "its answer is not a sentinel's".to_owned();
    let [before, master, replicas, sentinels, after] = replies else {
        return Err(strange());
    };
    let (Some(primary), Some(again)) = (pair(before), pair(after)) else {
        return Err(strange());
    };
    if primary != again {
        return Ok(None);
    }
    let master = fields(master).ok_or_else(strange)?;
    let number = |name: &str| master.get(name)?.parse::<u64>().ok();
    let epoch = number("config-epoch").ok_or_else(strange)?;
    let failover_timeout = number("failover-timeout").ok_or_else(strange)?;
    let replicas = list(replicas).ok_or_else(strange)?;
    let sentinels = list(sentinels).ok_or_else(strange)?;
    let mut nodes = vec![primary.clone()];
    // Until a failover ends, the primary that is left behind stands here.
    nodes.extend(address_of(&master));
    nodes.extend(replicas.iter().filter_map(address_of));
    let mut seen = Vec::new();
    nodes.retain(|node| {
        !seen.contains(node) && {
            seen.push(node.clone());
            true
        }
    });
    let peers: Vec<(Arc<str>, NodeId)> = sentinels
        .iter()
        .filter_map(|s| Some((s.get("runid")?.as_str().into(), address_of(s)?)))
        .collect();
    Ok(Some(Answer {
        statement: Statement {
            id: id.clone(),
            primary,
            epoch: Epoch(epoch),
            doubt: doubt(&master),
            failover_timeout: Duration::from_millis(failover_timeout),
            peers: peers.iter().map(|(id, _)| id.clone()).collect(),
        },
        nodes,
        peers,
    }))
}

/// How far a failover is, by its flags.
fn doubt(master: &HashMap<String, String>) -> Option<Stage> {
    let flags = master.get("flags")?;
    let has = |flag: &str| flags.split(',').any(|f| f == flag);
    let state = master.get("failover-state").map(String::as_str);
    match state {
        Some("wait_start") => return Some(Stage::Claimed),
        Some("select_slave") => return Some(Stage::Elected),
        Some("send_slaveof_noone" | "wait_promotion") => return Some(Stage::Chosen),
        _ => {}
    }
    if has("o_down") {
        Some(Stage::Objective)
    } else if has("s_down") {
        Some(Stage::Subjective)
    } else {
        None
    }
}

/// The names of all masters, of the reply to `SENTINEL MASTERS`.
pub(super) fn master_names(reply: &BytesFrame) -> Vec<String> {
    let masters = list(reply).unwrap_or_default();
    let names = masters.into_iter().filter_map(|mut m| m.remove("name"));
    names.collect()
}

/// A string of any kind.
pub(super) fn text(frame: &BytesFrame) -> Option<&str> {
    match frame {
        BytesFrame::BulkString(_) | BytesFrame::SimpleString(_) => {
            std::str::from_utf8(frame.as_bytes()?).ok()
        }
        _ => None,
    }
}

fn pair(frame: &BytesFrame) -> Option<NodeId> {
    let BytesFrame::Array(items) = frame else {
        return None;
    };
    let [host, port] = &items[..] else {
        return None;
    };
    node(text(host)?, text(port)?)
}

fn node(host: &str, port: &str) -> Option<NodeId> {
    let port: u16 = port.parse().ok()?;
    (!host.is_empty() && port > 0).then(|| address(host, port))
}

fn address_of(fields: &HashMap<String, String>) -> Option<NodeId> {
    node(fields.get("ip")?, fields.get("port")?)
}

/// Names and values, one after the other.
fn fields(frame: &BytesFrame) -> Option<HashMap<String, String>> {
    let BytesFrame::Array(items) = frame else {
        return None;
    };
    let pairs = items.chunks_exact(2);
    let pairs = pairs.map(|p| Some((text(&p[0])?.to_owned(), text(&p[1])?.to_owned())));
    pairs.collect()
}

fn list(frame: &BytesFrame) -> Option<Vec<HashMap<String, String>>> {
    match frame {
        BytesFrame::Array(items) if items.len() <= MOST => items.iter().map(fields).collect(),
        _ => None,
    }
}

/// The message in a push of a subscribed connection.
pub(super) fn message(frame: &BytesFrame) -> Option<(&str, &str)> {
    let BytesFrame::Array(items) = frame else {
        return None;
    };
    match &items[..] {
        [kind, _pattern, channel, payload] if text(kind) == Some("pmessage") => {
            Some((text(channel)?, text(payload)?))
        }
        _ => None,
    }
}

/// What a sentinel announces about `master`; `None` for everything that does not concern it.
///
/// The payload is `master NAME IP PORT ...` for the primary itself, and for everything else
/// `KIND ITS-NAME IP PORT @ NAME IP PORT ...`.
pub(super) fn event(channel: &str, payload: &str, master: &str) -> Option<SentinelEvent> {
    let stage = match channel {
        "+new-epoch" => {
            return payload
                .trim()
                .parse()
                .ok()
                .map(|e| SentinelEvent::NewEpoch(Epoch(e)));
        }
        "+tilt" => return Some(SentinelEvent::Tilt(true)),
        "-tilt" => return Some(SentinelEvent::Tilt(false)),
        "+sdown" | "-sdown" => Stage::Subjective,
        "+odown" | "-odown" => Stage::Objective,
        "+try-failover" => Stage::Claimed,
        "+elected-leader" | "+failover-state-select-slave" => Stage::Elected,
        "+selected-slave"
        | "+failover-state-send-slaveof-noone"
        | "+failover-state-wait-promotion"
        | "+promoted-slave" => Stage::Chosen,
        _ if channel.starts_with("-failover-abort") => Stage::Claimed,
        _ => return None,
    };
    let words: Vec<&str> = payload.split(' ').collect();
    let (replica, name, host, port) = match words[..] {
        ["master", name, host, port, ..] => (None, name, host, port),
        ["slave", _, host, port, "@", name, of, of_port, ..] => {
            (Some(node(host, port)?), name, of, of_port)
        }
        _ => return None,
    };
    if name != master {
        return None;
    }
    if channel.starts_with("-failover-abort") {
        return Some(SentinelEvent::GaveUp {
            word: channel.into(),
        });
    }
    let primary = node(host, port)?;
    if replica.is_some() != (stage == Stage::Chosen) {
        // The doubt is about a replica.
        return None;
    }
    Some(match channel.starts_with('-') {
        true => SentinelEvent::Trusts { primary },
        false => SentinelEvent::Doubts {
            stage,
            primary,
            replica,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubts(stage: Stage, replica: Option<&str>) -> Option<SentinelEvent> {
        Some(SentinelEvent::Doubts {
            stage,
            primary: NodeId::new("10.0.0.1:6379"),
            replica: replica.map(NodeId::new),
        })
    }

    #[test]
    fn announcements_about_our_primary_are_understood() {
        let ours = "master mymaster 10.0.0.1 6379";
        let chosen = "slave 10.0.0.2:6379 10.0.0.2 6379 @ mymaster 10.0.0.1 6379";
        let event = |channel, payload| event(channel, payload, "mymaster");
        assert_eq!(event("+sdown", ours), doubts(Stage::Subjective, None));
        assert_eq!(
            event("+odown", "master mymaster 10.0.0.1 6379 #quorum 2/2"),
            doubts(Stage::Objective, None)
        );
        assert_eq!(event("+try-failover", ours), doubts(Stage::Claimed, None));
        for word in ["+selected-slave", "+failover-state-wait-promotion"] {
            assert_eq!(
                event(word, chosen),
                doubts(Stage::Chosen, Some("10.0.0.2:6379"))
            );
        }
        assert_eq!(
            event("+new-epoch", "7"),
            Some(SentinelEvent::NewEpoch(Epoch(7)))
        );
        assert_eq!(
            event("-failover-abort-no-good-slave", ours),
            Some(SentinelEvent::GaveUp {
                word: "-failover-abort-no-good-slave".into()
            })
        );
        let primary = NodeId::new("10.0.0.1:6379");
        assert_eq!(
            event("-sdown", ours),
            Some(SentinelEvent::Trusts { primary })
        );
    }

    #[test]
    fn what_concerns_others_is_left_out() {
        for (channel, payload) in [
            ("+sdown", "master other 10.0.0.1 6379"),
            (
                "+sdown",
                "slave 10.0.0.2:6379 10.0.0.2 6379 @ mymaster 10.0.0.1 6379",
            ),
            (
                "+sdown",
                "sentinel abc 10.0.0.2 26379 @ mymaster 10.0.0.1 6379",
            ),
            (
                "+selected-slave",
                "slave 10.0.0.2:6379 10.0.0.2 6379 @ other 10.0.0.1 6379",
            ),
            ("+sdown", "master mymaster 10.0.0.1 notaport"),
            ("+sdown", ""),
            (
                "+sentinel",
                "sentinel abc 10.0.0.2 26379 @ mymaster 10.0.0.1 6379",
            ),
            ("+new-epoch", "many"),
        ] {
            assert_eq!(
                event(channel, payload, "mymaster"),
                None,
                "{channel} {payload}"
            );
        }
    }

    #[test]
    fn an_ipv6_primary_stands_in_brackets() {
        let event = event("+sdown", "master m fd00::1 6379", "m");
        let Some(SentinelEvent::Doubts { primary, .. }) = event else {
            panic!("{event:?}")
        };
        assert_eq!(primary.as_str(), "[fd00::1]:6379");
    }

    fn array(items: &[&str]) -> BytesFrame {
        let items = items
            .iter()
            .map(|i| BytesFrame::BulkString(i.to_string().into()));
        BytesFrame::Array(items.collect())
    }

    fn replies(after: &str) -> Vec<BytesFrame> {
        let master = [
            "name",
            "m",
            "ip",
            "10.0.0.1",
            "port",
            "6379",
            "flags",
            "s_down,master",
            "config-epoch",
            "4",
            "failover-timeout",
            "180000",
        ];
        vec![
            array(&["10.0.0.1", "6379"]),
            array(&master),
            BytesFrame::Array(vec![array(&["ip", "fd00::2", "port", "6379"])]),
            BytesFrame::Array(vec![array(&[
                "ip", "10.0.0.8", "port", "26379", "runid", "abc",
            ])]),
            array(&[after, "6379"]),
        ]
    }

    #[test]
    fn an_answer_is_read_and_one_that_changed_meanwhile_is_not_believed() {
        let id: Arc<str> = "me".into();
        let answer = |after| super::answer(&id, &replies(after));
        let read = answer("10.0.0.1").unwrap().unwrap();
        assert_eq!(read.statement.epoch, Epoch(4));
        assert_eq!(read.statement.doubt, Some(Stage::Subjective));
        let nodes: Vec<&str> = read.nodes.iter().map(NodeId::as_str).collect();
        assert_eq!(nodes, ["10.0.0.1:6379", "[fd00::2]:6379"]);
        assert_eq!(read.peers, [("abc".into(), NodeId::new("10.0.0.8:26379"))]);
        assert_eq!(answer("10.0.0.2"), Ok(None));
        let mut strange = replies("10.0.0.1");
        strange[1] = BytesFrame::Null;
        assert!(super::answer(&id, &strange).is_err());
        strange[3] = BytesFrame::Error("ERR No such master with that name".into());
        assert_eq!(
            super::answer(&id, &strange),
            Err("ERR No such master with that name".into())
        );
    }
}
