//! The vip agent on hosts of their own: network namespaces on one switch, real nodes, a real
//! pointsman. Needs root, `ip`, `iptables` and `nsenter`; where it may not it says NOT RUN.

mod lan;
#[path = "../support/namespace.rs"]
mod namespace;

use std::time::Duration;

use lan::{LEASE, Lan, SOON, STRANGER, is_mine};
use pointsman::clock;
use pointsman::lab::{Address, Client, Protocol, Server, ServerOptions};
use pointsman::vip::{VipState, VipStatus};
use rustix::process::Signal;

const VIP: &str = "10.77.0.100";
const VIP6: &str = "fd77::100";

/// Switches, probes, announcements and a busy machine.
const MOVE: Duration = Duration::from_secs(3);

/// A lease, in the whole seconds of the kernel, and what it takes to look at its list.
const EXPIRY: Duration = Duration::from_secs(7);

/// Waits until somebody ended this connection, on which nothing is asked.
async fn is_ended(client: &mut Client) {
    // By a reset as well as by an end.
    let ended = tokio::time::timeout(MOVE, client.receive()).await;
    assert!(ended.expect("the connection still stands").is_err());
}

#[tokio::test]
async fn the_address_follows_a_failover() {
    if !is_mine("the_address_follows_a_failover") {
        return;
    }
    let mut lan = Lan::start(VIP).await;
    lan.write("before", SOON).await;
    assert_eq!(lan.neighbour(), Some(lan.mac(1)));
    let start = clock::now();
    lan.kill("redis-1");
    lan.write("after", MOVE).await;
    println!("a write after {:?}", clock::now() - start);
    lan.lost_it(1, MOVE).await;
    let new = if lan.has_it_now(2) { 2 } else { 3 };
    lan.has_it(new, MOVE).await;
    assert_eq!(lan.neighbour(), Some(lan.mac(new)));
    lan.assert_never_twice(&[1, new]);
}

#[tokio::test]
async fn the_address_follows_a_switchover_and_the_old_connections_end() {
    if !is_mine("the_address_follows_a_switchover_and_the_old_connections_end") {
        return;
    }
    let lan = Lan::start(VIP).await;
    let mut idle = lan.client().await.unwrap();
    assert!(idle.call(&["SET", "before", "x"]).await.unwrap().is_ok());
    for target in [2, 3, 1] {
        let start = clock::now();
        lan.switchover(target).await;
        let switched = clock::now();
        lan.has_it(target, MOVE).await;
        println!(
            "switchover {:?}, address after {:?} more",
            switched - start,
            clock::now() - switched
        );
        is_ended(&mut idle).await;
        lan.write("after", MOVE).await;
        assert_eq!(lan.neighbour(), Some(lan.mac(target)));
        idle = lan.client().await.unwrap();
        let pong = idle.call(&["GET", "before"]).await.unwrap();
        assert_eq!(pong.text(), Some("x"));
    }
    lan.assert_never_twice(&[1, 2, 3]);
}

#[tokio::test]
async fn the_address_may_be_one_of_ipv6() {
    if !is_mine("the_address_may_be_one_of_ipv6") {
        return;
    }
    let mut lan = Lan::start(VIP6).await;
    lan.write("before", SOON).await;
    assert_eq!(lan.neighbour(), Some(lan.mac(1)));
    let mut idle = lan.client().await.unwrap();
    lan.switchover(2).await;
    lan.has_it(2, MOVE).await;
    is_ended(&mut idle).await;
    lan.write("after", MOVE).await;
    assert_eq!(lan.neighbour(), Some(lan.mac(2)));
    lan.assert_never_twice(&[1, 2]);
    // The host's own address and the route to its network are as before.
    lan.kill("agent-2");
    lan.lost_it(2, EXPIRY).await;
    let reply = lan.ask(2, &["PING"]).await.unwrap();
    assert_eq!(reply.text(), Some("PONG"));
    lan.inside(2, &["ip", "-6", "route", "get", "fd77::254"]);
    let (code, said) = lan.command(2, &[], &["status", "--admin", "10.77.0.1:9122"]);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("address fd77::100/128 on eth0: not here"),
        "{said}"
    );
}

#[tokio::test]
async fn an_agent_that_is_killed_leaves_no_address_behind() {
    if !is_mine("an_agent_that_is_killed_leaves_no_address_behind") {
        return;
    }
    let mut lan = Lan::start(VIP).await;
    lan.kill("agent-1");
    // The new primary's agent waits: the address is still there and would be there twice.
    lan.switchover(2).await;
    let start = clock::now();
    lan.lost_it(1, EXPIRY).await;
    println!("gone after {:?}", clock::now() - start);
    lan.has_it(2, MOVE).await;
    lan.write("after", MOVE).await;
    lan.assert_never_twice(&[1, 2]);
    // An agent that starts where another was killed takes away what that one left.
    lan.kill("agent-2");
    assert!(lan.has_it_now(2));
    lan.start_agent(2, "");
    lan.logs("agent-2", "removed the address that an earlier agent left")
        .await;
    lan.has_it(2, MOVE).await;
}

#[tokio::test]
async fn an_agent_that_hangs_loses_the_address() {
    if !is_mine("an_agent_that_hangs_loses_the_address") {
        return;
    }
    let lan = Lan::start(VIP).await;
    lan.signal("agent-1", Signal::STOP);
    lan.switchover(2).await;
    lan.lost_it(1, EXPIRY).await;
    lan.has_it(2, MOVE).await;
    lan.signal("agent-1", Signal::CONT);
    let other = Some("10.77.0.2:6379 is primary");
    let informed = |status: &VipStatus| status.reason.as_deref() == other;
    let status = lan.says(1, "an agent that knows", MOVE, informed).await;
    assert_eq!(status.state, VipState::Free);
    lan.write("after", MOVE).await;
    lan.assert_never_twice(&[1, 2]);
}

#[tokio::test]
async fn a_host_that_is_cut_off_drops_the_address_by_itself() {
    if !is_mine("a_host_that_is_cut_off_drops_the_address_by_itself") {
        return;
    }
    let lan = Lan::start(VIP).await;
    lan.unplug(1);
    // Nobody can ask it, and nobody is reached by it: for this long it may have it too.
    lan.write("after", SOON).await;
    lan.lost_it(1, EXPIRY).await;
    lan.plug(1);
    let informed =
        |status: &VipStatus| status.state == VipState::Free && status.pointsmen[0].error.is_none();
    lan.says(1, "an agent that knows", SOON, informed).await;
    lan.write("again", MOVE).await;
    assert!(!lan.has_it_now(1));
}

#[tokio::test]
async fn without_a_pointsman_the_address_goes_and_comes_back() {
    if !is_mine("without_a_pointsman_the_address_goes_and_comes_back") {
        return;
    }
    let lan = Lan::start(VIP).await;
    let mut idle = lan.client().await.unwrap();
    let rule = ["OUTPUT", "-p", "tcp", "--dport", "9121", "-j", "DROP"];
    lan.inside(1, &[&["iptables", "-A"], &rule[..]].concat());
    let start = clock::now();
    lan.lost_it(1, EXPIRY).await;
    let after = clock::now() - start;
    println!("dropped after {after:?}");
    assert!(after > LEASE / 2, "{after:?}");
    is_ended(&mut idle).await;
    let unconfirmed = Some("no pointsman confirms that the node is primary");
    let said = |status: &VipStatus| status.reason.as_deref() == unconfirmed;
    let status = lan.says(1, "the reason", MOVE, said).await;
    let error = status.pointsmen[0].error.as_deref();
    assert_eq!(error, Some("does not answer"));
    let ended = format!("pointsman_vip_connections_ended_total{{address=\"{VIP}\"}}");
    assert_eq!(lan.metric(1, &ended).await, "1");
    // The node itself serves whoever asks it by its own address.
    assert!(lan.ask(1, &["SET", "k", "v"]).await.unwrap().is_ok());
    lan.inside(1, &[&["iptables", "-D"], &rule[..]].concat());
    lan.has_it(1, SOON).await;
    lan.write("after", MOVE).await;
}

#[tokio::test]
async fn a_node_that_hangs_loses_the_address() {
    if !is_mine("a_node_that_hangs_loses_the_address") {
        return;
    }
    let lan = Lan::start(VIP).await;
    lan.signal("redis-1", Signal::STOP);
    lan.write("after", SOON).await;
    assert!(!lan.has_it_now(1));
    lan.signal("redis-1", Signal::CONT);
    lan.assert_never_twice(&[1, 2, 3]);
}

#[tokio::test]
async fn an_address_that_another_host_has_is_not_taken() {
    if !is_mine("an_address_that_another_host_has_is_not_taken") {
        return;
    }
    let mut lan = Lan::without_agents(VIP).await;
    lan.add_host(STRANGER);
    let address = format!("{VIP}/24");
    let stranger = ["ip", "addr", "add", &address, "dev", "eth0"];
    lan.inside(STRANGER, &stranger);
    lan.start_agent(1, "");
    lan.start_agent(2, "");
    let contested = |status: &VipStatus| status.conflict.is_some();
    let status = lan.says(1, "a conflict", SOON, contested).await;
    assert_eq!(status.state, VipState::Claiming);
    assert_eq!(status.conflict, Some(lan.mac(STRANGER)));
    let series = format!("pointsman_vip_conflict{{address=\"{VIP}\"}}");
    assert_eq!(lan.metric(1, &series).await, "1");
    lan.logs("agent-1", "\"event\":\"vip-conflict\"").await;
    let (code, said) = lan.command(1, &[], &["status", "--admin", "10.77.0.1:9122"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("NOT taken, CONFLICT"), "{said}");
    assert!(said.contains(&lan.mac(STRANGER)), "{said}");
    // Neither the node nor the stranger's address is touched.
    assert!(lan.ask(1, &["SET", "k", "v"]).await.unwrap().is_ok());
    assert!(!lan.has_it_now(1) && lan.has_it_now(STRANGER));
    let remove = ["ip", "addr", "del", &address, "dev", "eth0"];
    lan.inside(STRANGER, &remove);
    lan.has_it(1, MOVE).await;
    lan.write("after", MOVE).await;
    assert_eq!(lan.metric(1, &series).await, "0");

    // The other way round it stays where it belongs, and clients go on reaching it.
    lan.inside(STRANGER, &stranger);
    // As a host does that is configured with it.
    let arping = ["ip", "link", "set", "eth0", "arp", "off"];
    lan.inside(STRANGER, &arping);
    lan.inside(STRANGER, &["ip", "link", "set", "eth0", "arp", "on"]);
    let status = lan.says(1, "a conflict", SOON, contested).await;
    assert_eq!(status.state, VipState::Held);
    lan.write("again", MOVE).await;
    assert!(lan.has_it_now(1));
}

#[tokio::test]
async fn an_address_of_ipv6_that_another_host_has_is_not_taken() {
    if !is_mine("an_address_of_ipv6_that_another_host_has_is_not_taken") {
        return;
    }
    let mut lan = Lan::without_agents(VIP6).await;
    lan.add_host(STRANGER);
    let address = format!("{VIP6}/64");
    let stranger = ["ip", "addr", "add", &address, "dev", "eth0", "nodad"];
    lan.inside(STRANGER, &stranger);
    lan.start_agent(1, "");
    let contested = |status: &VipStatus| status.conflict.is_some();
    let status = lan.says(1, "a conflict", SOON, contested).await;
    assert_eq!(status.state, VipState::Claiming);
    assert_eq!(status.conflict, Some(lan.mac(STRANGER)));
    assert!(!lan.has_it_now(1));
    lan.inside(STRANGER, &["ip", "addr", "del", &address, "dev", "eth0"]);
    lan.has_it(1, MOVE).await;
    lan.write("after", MOVE).await;
}

#[tokio::test]
async fn a_host_where_it_can_not_work_is_told() {
    if !is_mine("a_host_where_it_can_not_work_is_told") {
        return;
    }
    let mut lan = Lan::without_agents(VIP).await;
    let file = lan.agent_file(1, "");
    let start = ["vip-agent", "--config", &file];
    let (code, said) = lan.command(1, &["setpriv", "--bounding-set", "-net_admin"], &start);
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("needs CAP_NET_ADMIN and CAP_NET_RAW"),
        "{said}"
    );

    let address = format!("{VIP}/32");
    lan.inside(1, &["ip", "addr", "add", &address, "dev", "eth0"]);
    let (code, said) = lan.command(1, &[], &start);
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("is configured on this host by somebody else"),
        "{said}"
    );
    lan.inside(1, &["ip", "addr", "del", &address, "dev", "eth0"]);

    lan.inside(1, &["ip", "link", "set", "eth0", "down"]);
    lan.inside(1, &["ip", "link", "set", "eth0", "name", "eth7"]);
    let (code, said) = lan.command(1, &[], &start);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("there is no interface eth0"), "{said}");
    lan.inside(1, &["ip", "link", "set", "eth7", "name", "eth0"]);
    lan.inside(1, &["ip", "link", "set", "eth0", "up"]);

    // And one that is told to stop takes the address along.
    lan.start_agent(1, "");
    lan.has_it(1, SOON).await;
    assert_eq!(lan.terminate("agent-1").await, Some(0));
    assert!(!lan.has_it_now(1));
}

#[tokio::test]
async fn an_interface_that_goes_and_comes_is_used_again() {
    if !is_mine("an_interface_that_goes_and_comes_is_used_again") {
        return;
    }
    let lan = Lan::start(VIP6).await;
    // The kernel forgets the addresses of IPv6 of an interface that goes down.
    lan.inside(1, &["ip", "link", "set", "eth0", "down"]);
    assert!(!lan.has_it_now(1));
    lan.logs("agent-1", "the interface can not be used").await;
    lan.inside(1, &["ip", "link", "set", "eth0", "up"]);
    // Its own is back when its network is set up again.
    lan.inside(
        1,
        &["ip", "addr", "add", "fd77::1/64", "dev", "eth0", "nodad"],
    );
    // Here, or on another host where that was a reason to fail over.
    lan.write("after", SOON).await;
    let failures = format!("pointsman_vip_failures_total{{address=\"{VIP6}\"}}");
    assert_ne!(lan.metric(1, &failures).await, "0");
    let complaints = lan.log("agent-1").matches("\"ERROR\"").count();
    assert!(complaints <= 2, "{}", lan.log("agent-1"));
}

#[tokio::test]
async fn a_node_that_ends_the_connections_of_the_agent_keeps_the_address() {
    if !is_mine("a_node_that_ends_the_connections_of_the_agent_keeps_the_address") {
        return;
    }
    let lan = Lan::start(VIP).await;
    for _ in 0..5 {
        let killed = lan.ask(1, &["CLIENT", "KILL", "TYPE", "normal"]).await;
        killed.unwrap();
        lan.write("after", MOVE).await;
    }
    let taken = format!("pointsman_vip_taken_total{{address=\"{VIP}\"}}");
    assert_eq!(lan.metric(1, &taken).await, "1");
    assert!(lan.has_it_now(1));
}

#[tokio::test]
async fn the_agent_logs_in_as_a_user_that_may_little() {
    if !is_mine("the_agent_logs_in_as_a_user_that_may_little") {
        return;
    }
    let mut lan = Lan::without_agents(VIP).await;
    let user = [
        "ACL", "SETUSER", "agent", "on", ">secret", "-@all", "+role", "+info",
    ];
    lan.ask(1, &user).await.unwrap();
    lan.start_agent(1, "auth = { username = \"agent\", password = \"wrong\" }");
    let refused = |status: &VipStatus| {
        let reason = status.reason.as_deref();
        reason.is_some_and(|reason| reason.contains("WRONGPASS"))
    };
    lan.says(1, "the refusal", SOON, refused).await;
    assert!(!lan.has_it_now(1));
    assert_eq!(lan.terminate("agent-1").await, Some(0));
    lan.start_agent(1, "auth = { username = \"agent\", password = \"secret\" }");
    lan.has_it(1, SOON).await;
    assert!(!lan.log("agent-1").contains("secret"));
}

#[tokio::test]
async fn a_pointsman_that_restarts_within_the_lease_moves_nothing() {
    if !is_mine("a_pointsman_that_restarts_within_the_lease_moves_nothing") {
        return;
    }
    let mut lan = Lan::without_agents(VIP).await;
    lan.start_agent(1, "lease = \"10s\"");
    lan.has_it(1, SOON).await;
    let mut client = lan.client().await.unwrap();
    lan.kill("pointsman-10");
    let away = |status: &VipStatus| status.pointsmen[0].error.is_some();
    lan.says(1, "a pointsman that is away", MOVE, away).await;
    lan.start_pointsman();
    let back = |status: &VipStatus| status.pointsmen[0].error.is_none();
    let status = lan.says(1, "a pointsman that is back", SOON, back).await;
    assert_eq!(status.state, VipState::Held);
    assert!(client.call(&["SET", "k", "v"]).await.unwrap().is_ok());
    let taken = format!("pointsman_vip_taken_total{{address=\"{VIP}\"}}");
    assert_eq!(lan.metric(1, &taken).await, "1");
}

#[tokio::test]
async fn a_node_that_the_pointsman_does_not_know_is_told() {
    if !is_mine("a_node_that_the_pointsman_does_not_know_is_told") {
        return;
    }
    let mut lan = Lan::without_agents(VIP).await;
    let file = lan.agent_file(1, "");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("10.77.0.1:6379", "localhost:6379")).unwrap();
    lan.start_agent_with(1, &file);
    let error = Some("it does not know the node localhost:6379");
    let told = |status: &VipStatus| status.pointsmen[0].error.as_deref() == error;
    lan.says(1, "the error", SOON, told).await;
    assert!(!lan.has_it_now(1));
}

#[tokio::test]
async fn a_node_ends_the_clients_of_one_address() {
    let scratch = tempfile::tempdir().unwrap();
    let options = ServerOptions {
        config: vec!["bind 127.0.0.1 127.0.0.9".to_owned()],
        ..ServerOptions::default()
    };
    let server = Server::start(scratch.path().join("node"), options).await;
    let server = server.unwrap();
    let mut stays = server.client().await.unwrap();
    let other = Address::Tcp(format!("127.0.0.9:{}", server.port()));
    let mut goes = Client::open(&other, Protocol::Resp2, None).await.unwrap();
    let address = "127.0.0.9".parse().unwrap();
    let ended = pointsman::vip::end_clients(&server.id(), None, address).await;
    assert_eq!(ended, Ok(1));
    is_ended(&mut goes).await;
    assert!(stays.call(&["SET", "k", "v"]).await.unwrap().is_ok());
}
