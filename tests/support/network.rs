//! A network of the test's own, whose packets can be dropped without a word.

use std::net::SocketAddr;

use super::namespace::{self, run};

/// As [`namespace::is_mine`], in a network of the test's own.
pub fn is_mine(name: &str) -> bool {
    let probe = "ip link set lo up && iptables -A INPUT -p tcp --dport 1 -j DROP";
    let mine = namespace::is_mine(name, "-rn", probe);
    if mine {
        run("ip", &["link", "set", "lo", "up"]);
    }
    mine
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
