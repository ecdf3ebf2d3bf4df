//! CLUSTER NODES: what one node of a cluster knows about all of them
//! (<https://redis.io/docs/latest/commands/cluster-nodes/>).

use std::sync::Arc;

/// One line: one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterNode {
    /// Its name in the cluster, 40 hexadecimal digits.
    pub name: Arc<str>,
    /// `host:port` for clients; `None` where the node does not know it (its own before anybody met it).
    pub address: Option<Arc<str>>,
    /// The same with the host name that it announces.
    pub named_address: Option<Arc<str>>,
    /// The node that was asked.
    pub myself: bool,
    /// Whether it is a primary.
    pub primary: bool,
    /// A majority agreed that it is lost.
    pub failed: bool,
    /// Whom it replicates, by name.
    pub replicates: Option<Arc<str>>,
    /// The version of its claim to its slots: the greater one wins.
    pub config_epoch: u64,
    /// First and last hash slot of each range that it serves.
    pub slots: Vec<(u16, u16)>,
}

/// Reads the reply. Lines that can not be understood are left out: a newer server may have more to say.
pub fn parse_cluster_nodes(text: &str) -> Vec<ClusterNode> {
    text.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<ClusterNode> {
    let mut words = line.split_ascii_whitespace();
    let name = words.next()?;
    let (address, named_address) = addresses(words.next()?);
    let flags: Vec<&str> = words.next()?.split(',').collect();
    let replicates = words.next().filter(|name| *name != "-");
    let config_epoch = words.nth(2)?.parse().ok()?;
    words.next()?;
    // What is on its way between two nodes stands in brackets.
    let slots = words.filter(|word| !word.starts_with('['));
    Some(ClusterNode {
        name: name.into(),
        address,
        named_address,
        myself: flags.contains(&"myself"),
        primary: flags.contains(&"master"),
        failed: flags.contains(&"fail") || flags.contains(&"noaddr"),
        replicates: replicates.map(Arc::from),
        config_epoch,
        slots: slots.filter_map(range).collect(),
    })
}

/// `ip:port@busport[,hostname[,...]]`
fn addresses(word: &str) -> (Option<Arc<str>>, Option<Arc<str>>) {
    let mut parts = word.split(',');
    let address = parts.next().unwrap_or_default();
    let address = address
        .split_once('@')
        .map_or(address, |(client, _)| client);
    let Some((host, port)) = address.rsplit_once(':') else {
        return (None, None);
    };
    let whole = |host: &str| match host {
        "" => None,
        host if host.contains(':') => Some(Arc::from(format!("[{host}]:{port}"))),
        host => Some(Arc::from(format!("{host}:{port}"))),
    };
    let named = parts.next().filter(|name| !name.contains('='));
    (whole(host), named.and_then(whole))
}

fn range(word: &str) -> Option<(u16, u16)> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && last < 16_384).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_every_sort_are_read() {
        let nodes = parse_cluster_nodes(
            "07c3 127.0.0.1:30004@31004,host-4 slave e7d1 0 1426238317239 4 connected\n\
             67ed 127.0.0.1:30002@31002 master,fail - 0 1426238316232 2 connected 5461-10922\n\
             e7d1 :30001@31001 myself,master - 0 0 1 connected 0-5460 16383 [5461-<-67ed]\n\
             2927 ::1:30003@31003,,shard-id=ab master - 0 1 3 connected\n\
             nonsense\n",
        );
        assert_eq!(nodes.len(), 4);
        assert_eq!(nodes[0].replicates.as_deref(), Some("e7d1"));
        assert_eq!(nodes[0].named_address.as_deref(), Some("host-4:30004"));
        assert!(nodes[1].failed && nodes[1].primary && nodes[1].config_epoch == 2);
        assert!(nodes[2].myself && nodes[2].address.is_none());
        assert_eq!(nodes[2].slots, [(0, 5460), (16383, 16383)]);
        assert_eq!(nodes[3].address.as_deref(), Some("[::1]:30003"));
        assert_eq!(nodes[3].named_address, None);
    }
}
