//! A network of the test's own, whose packets can be dropped without a word.

use std::net::SocketAddr;
use std::process::Command;

/// Set in the process that runs inside the network namespace.
const INSIDE: &str = "POINTSMAN_TEST_NETWORK";

/// Runs the test named `name` (its full path) again inside a network namespace of its own.
///
/// `true` inside: the test goes on. `false` outside: the test has run in the child, which passed,
/// or this machine allows no namespaces, which is said on standard error.
pub fn is_mine(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        run("ip", &["link", "set", "lo", "up"]);
        return true;
    }
    let probe = "ip link set lo up && iptables -A INPUT -p tcp --dport 1 -j DROP";
    let allowed = Command::new("unshare")
        .args(["-rn", "sh", "-c", probe])
        .output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        eprintln!("NOT RUN: {name} needs unshare, iptables and leave to use them");
        return false;
    }
    let program = std::env::current_exe().expect("this program has a path");
    let status = Command::new("unshare")
        .arg("-rn")
        .arg(program)
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare worked a moment ago");
    assert!(status.success(), "{name} failed in a network of its own");
    false
}

/// From now on no packet reaches or leaves this port: no refusal, no reset, silence.
pub fn cut(port: u16) {
    for direction in ["--dport", "--sport"] {
        run(
            "iptables",
            &[
                "-A",
                "INPUT",
                "-p",
                "tcp",
                direction,
                &port.to_string(),
                "-j",
                "DROP",
            ],
        );
    }
}

/// As [`cut`], but only for those who come from 127.0.0.1.
pub fn cut_for_us(port: u16) {
    let port = port.to_string();
    let to = [
        "-A",
        "INPUT",
        "-s",
        "127.0.0.1",
        "-p",
        "tcp",
        "--dport",
        &port,
        "-j",
        "DROP",
    ];
    let from = [
        "-A",
        "INPUT",
        "-d",
        "127.0.0.1",
        "-p",
        "tcp",
        "--sport",
        &port,
        "-j",
        "DROP",
    ];
    run("iptables", &to);
    run("iptables", &from);
}

/// Every packet goes through again.
pub fn heal() {
    run("iptables", &["-F", "INPUT"]);
}

/// Writes to a node from another address of this machine, every few milliseconds, for ever.
pub async fn write_from_elsewhere(port: u16) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 9], 0))).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = socket.connect(address).await.unwrap();
    let mut answer = [0; 512];
    loop {
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"INCR elsewhere\r\n")
            .await
            .unwrap();
        if tokio::io::AsyncReadExt::read(&mut stream, &mut answer)
            .await
            .unwrap()
            == 0
        {
            return;
        }
        // The pace of a client, not a wait for anything.
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
}
