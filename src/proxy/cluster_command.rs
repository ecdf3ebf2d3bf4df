//! CLUSTER and what belongs to it, answered so that a client that knows clusters sees one with a single
//! node: ourselves, with all hash slots, at the address that the client has connected to.

use bytes::{Bytes, BytesMut};
use sha1::{Digest, Sha1};

use super::registry::Client;
use crate::resp::{
    OwnError, Request, key_slot, put_array, put_bulk, put_error, put_integer, put_map, put_ok,
};

const LAST_SLOT: i64 = 16_383;

/// Our answer; `None`: it is the node's to answer.
pub(super) fn answer(
    client: &Client,
    resp3: bool,
    request: &Request,
    frame: &[u8],
) -> Option<Bytes> {
    let args: Vec<&[u8]> = match request.arg(frame, 0)?.len() {
        6..=9 => request.args(frame).take(4).collect(),
        _ => return None,
    };
    let mut out = BytesMut::new();
    let name = args[0];
    let is = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
    if request.argc == 1 && (is("ASKING") || is("READONLY") || is("READWRITE")) {
        put_ok(&mut out);
        return Some(out.freeze());
    }
    if !is("CLUSTER") {
        return None;
    }
    let word = args.get(1)?.to_ascii_uppercase();
    let (host, port) = place(client);
    let own = name_of(&client.laddr);
    match (word.as_slice(), request.argc) {
        (b"SLOTS", 2) => {
            put_array(&mut out, 1);
            put_array(&mut out, 3);
            put_integer(&mut out, 0);
            put_integer(&mut out, LAST_SLOT);
            put_array(&mut out, 4);
            put_bulk(&mut out, host.as_bytes());
            put_integer(&mut out, port);
            put_bulk(&mut out, own.as_bytes());
            put_array(&mut out, 0);
        }
        (b"SHARDS", 2) => shards(&mut out, host, port, &own, resp3),
        (b"NODES", 2) => {
            let line = format!(
                "{own} {host}:{port}@{} myself,master - 0 0 1 connected 0-{LAST_SLOT}\n",
                port + 10_000
            );
            put_text(&mut out, &line, resp3);
        }
        (b"INFO", 2) => put_text(&mut out, INFO, resp3),
        (b"MYID", 2) => put_bulk(&mut out, own.as_bytes()),
        (b"MYSHARDID", 2) => put_bulk(&mut out, name_of(&own).as_bytes()),
        (b"KEYSLOT", 3) => put_integer(&mut out, i64::from(key_slot(args[2]))),
        (b"LINKS", 2) | (b"REPLICAS" | b"SLAVES", 3) => put_array(&mut out, 0),
        (b"COUNT-FAILURE-REPORTS", 3) => put_integer(&mut out, 0),
        // About keys: the shard that has them is asked.
        (b"COUNTKEYSINSLOT", 3) | (b"GETKEYSINSLOT", 4) => return None,
        (b"SLOTS" | b"SHARDS" | b"NODES" | b"INFO" | b"MYID" | b"MYSHARDID" | b"KEYSLOT", _) => {
            let word = String::from_utf8_lossy(&word).to_ascii_lowercase();
            let text = format!("ERR wrong number of arguments for 'cluster|{word}' command");
            put_error(&mut out, &text);
        }
        _ => OwnError::NotExecuted("this subcommand of CLUSTER is not carried through pointsman")
            .put(&mut out),
    }
    Some(out.freeze())
}

const INFO: &str = "cluster_enabled:1\r\ncluster_state:ok\r\ncluster_slots_assigned:16384\r\n\
    cluster_slots_ok:16384\r\ncluster_slots_pfail:0\r\ncluster_slots_fail:0\r\n\
    cluster_known_nodes:1\r\ncluster_size:1\r\ncluster_current_epoch:1\r\ncluster_my_epoch:1\r\n\
    cluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0\r\n\
    total_cluster_links_buffer_limit_exceeded:0\r\n";

fn shards(out: &mut BytesMut, host: &str, port: i64, own: &str, resp3: bool) {
    put_array(out, 1);
    put_map(out, 2, resp3);
    put_bulk(out, b"slots");
    put_array(out, 2);
    put_integer(out, 0);
    put_integer(out, LAST_SLOT);
    put_bulk(out, b"nodes");
    put_array(out, 1);
    put_map(out, 7, resp3);
    for (field, value) in [
        ("id", own),
        ("ip", host),
        ("endpoint", host),
        ("role", "master"),
        ("health", "online"),
    ] {
        put_bulk(out, field.as_bytes());
        put_bulk(out, value.as_bytes());
    }
    put_bulk(out, b"port");
    put_integer(out, port);
    put_bulk(out, b"replication-offset");
    put_integer(out, 0);
}

/// Host and port that the client has connected to.
fn place(client: &Client) -> (&str, i64) {
    let (host, port) = client
        .laddr
        .rsplit_once(':')
        .unwrap_or((&client.laddr, "0"));
    let host = host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(host);
    (host, port.parse().unwrap_or(0))
}

/// A name as nodes have it: 40 hexadecimal digits, the same as long as the address is.
fn name_of(address: &str) -> String {
    let sum: [u8; 20] = Sha1::digest(address).into();
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn put_text(out: &mut BytesMut, text: &str, resp3: bool) {
    match resp3 {
        true => out.extend_from_slice(format!("={}\r\ntxt:{text}\r\n", text.len() + 4).as_bytes()),
        false => put_bulk(out, text.as_bytes()),
    }
}
