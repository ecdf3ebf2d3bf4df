//! A network of the test's own, whose packets can be dropped without a word.

use std::net::SocketAddr;

use pointsman::lab::namespace as lab;

use super::namespace::{self, run};

/// As [`namespace::is_mine`], in a network of the test's own.
pub fn is_mine(name: &str) -> bool {
    namespace::is_mine(name, lab::NETWORK)
}

/// As [`lab::cut`].
pub fn cut(port: u16) {
    lab::cut(port).unwrap();
}

/// As [`cut`], but only for those who come from 127.0.0.1.
pub fn cut_for_us(port: u16) {
    let port = port.to_string();
    for (side, end) in [("-s", "--dport"), ("-d", "--sport")] {
        let rule = [side, "127.0.0.1", "-p", "tcp", end, &port, "-j", "DROP"];
        run("iptables", &[&["-A", "INPUT"], &rule[..]].concat());
    }
}

/// As [`lab::heal`].
pub fn heal() {
    lab::heal().unwrap();
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
