//! A question and what is published, made into the bytes of an answer.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, NS, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::question::{Question, Refusal};
use super::zone::Owner;
use super::{Backend, Names};
use crate::metrics::DnsResult;
use crate::topology::{NodeId, Topology};

/// The most that is sent in one UDP packet, bytes: what arrives everywhere in one piece (the DNS flag
/// day of 2020).
const PAYLOAD: u16 = 1232;

/// The most for somebody who does not say how much fits (RFC 1035).
const PAYLOAD_PLAIN: u16 = 512;

/// For secondary servers, of which there are none: seconds.
const REFRESH: i32 = 60;

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a packet: an answer that is too long says so.
    Udp,
    /// On a connection.
    Tcp,
}

/// What to do with a question.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// Send this.
    Now(Vec<u8>),
    /// This backend has no primary: wait for [`Names::settled`].
    Wait(usize),
    /// Say nothing.
    Nothing,
}

/// What the zone says.
enum Found {
    /// These, then what helps to use them.
    Records(Vec<Record>, Vec<Record>),
    NoSuchName,
    Unavailable(usize),
}

impl Names {
    /// Answers the question in `bytes`. When `patient`, one about a backend without a primary is to
    /// wait; else it is told so.
    pub fn answer(&self, bytes: &[u8], transport: Transport, patient: bool) -> Reply {
        let question = match Question::read(bytes) {
            Ok(question) => question,
            Err(Refusal::Silent) => return Reply::Nothing,
            Err(Refusal::Unreadable(metadata, code)) => {
                let message = Message::error_msg(metadata.id, metadata.op_code, code);
                return self.send(&message, code, u16::MAX);
            }
            Err(Refusal::Code(question, code)) => {
                return self.send(&respond(&question, code), code, limit(&question, transport));
            }
        };
        let limit = limit(&question, transport);
        if !self.zone.holds(question.query.name()) {
            let code = ResponseCode::Refused;
            return self.send(&respond(&question, code), code, limit);
        }
        let mut message = respond(&question, ResponseCode::NoError);
        message.metadata.authoritative = true;
        match self.find(&question) {
            Found::Records(answers, additionals) => {
                message.answers = answers;
                message.additionals = additionals;
            }
            Found::NoSuchName => message.metadata.response_code = ResponseCode::NXDomain,
            Found::Unavailable(backend) if patient => return Reply::Wait(backend),
            Found::Unavailable(_) => {
                let code = ResponseCode::ServFail;
                return self.send(&respond(&question, code), code, limit);
            }
        }
        if message.answers.is_empty() {
            // What is not there may be there the next moment (RFC 2308: the SOA carries the TTL).
            message.authorities.push(self.soa());
        }
        let code = message.metadata.response_code;
        self.send(&message, code, limit)
    }

    fn send(&self, message: &Message, code: ResponseCode, limit: u16) -> Reply {
        self.metrics.answered(result(code));
        let whole = message.to_vec().unwrap_or_default();
        if whole.len() <= usize::from(limit) && !whole.is_empty() {
            return Reply::Now(whole);
        }
        match message.truncate().to_vec() {
            Ok(cut) => Reply::Now(cut),
            Err(_) => Reply::Nothing,
        }
    }

    fn find(&self, question: &Question) -> Found {
        let (name, kind) = (question.query.name(), question.query.query_type());
        let Some(owner) = self.zone.owner(name) else {
            return Found::NoSuchName;
        };
        let mut additionals = Vec::new();
        let records = match owner {
            Owner::Between => Vec::new(),
            Owner::Apex => {
                let server = self.zone.server().clone();
                if kind == RecordType::NS {
                    additionals = addresses(&server, self.own_address());
                }
                vec![self.soa(), record(name, RData::NS(NS(server)))]
            }
            Owner::Server => addresses(name, self.own_address()),
            Owner::Primary(index) | Owner::Service(index) | Owner::Replicas(index) => {
                let backend = &self.backends[index];
                let topology = backend.topology.current();
                let Some(primary) = topology.open_primary() else {
                    return Found::Unavailable(index);
                };
                let found = match owner {
                    Owner::Primary(_) => backend.primary(name, &primary.node, &topology),
                    Owner::Replicas(_) => backend.addresses_of(name, &topology.replicas),
                    _ => backend
                        .service(name, &primary.node)
                        .map(|(service, hosts)| {
                            additionals = hosts;
                            service
                        }),
                };
                let Some(records) = found else {
                    return Found::Unavailable(index);
                };
                records
            }
        };
        let wanted = |r: &Record| kind == RecordType::ANY || r.record_type() == kind;
        let records: Vec<Record> = records.into_iter().filter(wanted).collect();
        if records.is_empty() {
            additionals.clear();
        }
        Found::Records(records, additionals)
    }

    /// Where this server listens, unless that is everywhere.
    fn own_address(&self) -> impl IntoIterator<Item = IpAddr> {
        let address = self.settings.bind.ip();
        (!address.is_unspecified()).then_some(address)
    }

    fn soa(&self) -> Record {
        let origin = self.zone.origin();
        // Changes with everything that is published.
        let generations = self
            .backends
            .iter()
            .map(|b| b.topology.current().generation);
        let serial = generations.fold(1, |sum: u32, generation| {
            sum.wrapping_add(generation as u32)
        });
        let mailbox = origin.prepend_label("hostmaster");
        let data = SOA::new(
            self.zone.server().clone(),
            mailbox.unwrap_or_else(|_| origin.clone()),
            serial,
            REFRESH,
            REFRESH,
            REFRESH,
            0,
        );
        record(origin, RData::SOA(data))
    }
}

impl Backend {
    /// Each `None` below: an address is not known.
    fn primary(&self, name: &Name, node: &NodeId, topology: &Topology) -> Option<Vec<Record>> {
        let mut records = addresses(name, self.hosts.addresses(node)?);
        let text = TXT::new(vec![
            "pointsman".to_owned(),
            format!("epoch={}", topology.epoch),
            format!("backend={}", self.name),
            format!("primary={node}"),
        ]);
        // A host name as long as they can be does not fit into a string of 255 bytes.
        if text.txt_data.iter().all(|string| string.len() < 256) {
            records.push(record(name, RData::TXT(text)));
        }
        Some(records)
    }

    fn addresses_of(&self, name: &Name, nodes: &[NodeId]) -> Option<Vec<Record>> {
        let mut all = BTreeSet::new();
        for node in nodes {
            // Of replicas some are better than none.
            all.extend(self.hosts.addresses(node).unwrap_or_default());
        }
        match all.is_empty() && !nodes.is_empty() {
            true => None,
            false => Some(addresses(name, all)),
        }
    }

    fn service(&self, name: &Name, node: &NodeId) -> Option<(Vec<Record>, Vec<Record>)> {
        let (_, port) = node.host_port()?;
        // Without `_redis._tcp`.
        let target = name.base_name().base_name();
        let hosts = addresses(&target, self.hosts.addresses(node)?);
        let service = record(name, RData::SRV(SRV::new(0, 0, port, target)));
        Some((vec![service], hosts))
    }
}

/// How much may be sent.
fn limit(question: &Question, transport: Transport) -> u16 {
    match (transport, &question.edns) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, Some(edns)) => edns.max_payload().clamp(PAYLOAD_PLAIN, PAYLOAD),
        (Transport::Udp, None) => PAYLOAD_PLAIN,
    }
}

/// An answer without records.
fn respond(question: &Question, code: ResponseCode) -> Message {
    let asked: &Metadata = &question.metadata;
    let mut message = Message::error_msg(asked.id, OpCode::Query, code);
    message.metadata.recursion_desired = asked.recursion_desired;
    message.add_query(question.query.clone());
    if question.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD);
        message.set_edns(edns);
    }
    message
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), 0, data)
}

fn addresses(name: &Name, all: impl IntoIterator<Item = IpAddr>) -> Vec<Record> {
    let data = all.into_iter().map(|address| match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    });
    data.map(|data| record(name, data)).collect()
}

fn result(code: ResponseCode) -> DnsResult {
    match code {
        ResponseCode::NoError => DnsResult::Answered,
        ResponseCode::NXDomain => DnsResult::NoSuchName,
        ResponseCode::ServFail => DnsResult::NoPrimary,
        ResponseCode::Refused => DnsResult::Refused,
        _ => DnsResult::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query;

    use super::*;
    use crate::names::NamesSettings;
    use crate::topology::{Gate, Primary, TopologyWriter, channel};

    /// A server for a backend with a primary and this many other nodes.
    fn server(nodes: usize) -> (Names, TopologyWriter) {
        let mut topology = Topology::unknown("main");
        topology.gate = Gate::Open;
        topology.primary = Some(Primary {
            node: NodeId::new("[2001:db8::1]:6379"),
            run_id: "r".into(),
            repl_id: "h".into(),
        });
        let replica = |n| NodeId::new(format!("10.0.{}.{}:6379", n / 200, n % 200));
        topology.replicas = (0..nodes).map(replica).collect();
        let (writer, reader) = channel(topology, 0);
        let settings = NamesSettings {
            bind: "0.0.0.0:53".parse().expect("an address"),
            zone: Name::from_ascii("redis.test.").expect("a name"),
        };
        let names = Names::new(settings, vec![("main".into(), reader)]).expect("a zone");
        (names, writer)
    }

    fn question(name: &str, kind: RecordType, payload: Option<u16>) -> Vec<u8> {
        let mut message = Message::query();
        let name = Name::from_ascii(name).expect("a name");
        message.add_query(Query::query(name, kind));
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            message.set_edns(edns);
        }
        message.to_vec().expect("a message")
    }

    /// Length and content of the answer.
    fn ask(names: &Names, question: &[u8], transport: Transport) -> (usize, Message) {
        match names.answer(question, transport, false) {
            Reply::Now(answer) => (answer.len(), Message::from_vec(&answer).expect("valid")),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_answer_that_does_not_fit_says_so_and_fits_on_a_connection() {
        let (names, _writer) = server(300);
        let (replicas, a) = ("replicas.main.redis.test.", RecordType::A);
        for (payload, most) in [(None, 512), (Some(1000), 1000), (Some(4096), 1232)] {
            let question = question(replicas, a, payload);
            let (length, answer) = ask(&names, &question, Transport::Udp);
            assert!(length <= most && answer.metadata.truncation, "{answer}");
            assert_eq!(answer.edns.is_some(), payload.is_some());
            let (_, answer) = ask(&names, &question, Transport::Tcp);
            assert!(!answer.metadata.truncation);
            assert_eq!(answer.answers.len(), 300);
        }
        // As many as just fit into 512 bytes are sent whole: 42 and 16 for each.
        let (names, _writer) = server(29);
        let (length, answer) = ask(&names, &question(replicas, a, None), Transport::Udp);
        assert_eq!((length, answer.answers.len()), (42 + 29 * 16, 29));
        assert!(!answer.metadata.truncation);
    }

    #[test]
    fn what_there_is_depends_on_the_type() {
        let (names, _writer) = server(0);
        let count = |name: &str, kind| {
            let (_, answer) = ask(&names, &question(name, kind, None), Transport::Udp);
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
            let soa = answer.authorities.len();
            (answer.answers.len(), soa)
        };
        assert_eq!(count("main.redis.test.", RecordType::AAAA), (1, 0));
        assert_eq!(count("main.redis.test.", RecordType::A), (0, 1));
        assert_eq!(count("main.redis.test.", RecordType::ANY), (2, 0));
        assert_eq!(count("main.redis.test.", RecordType::MX), (0, 1));
        // No other node is no error.
        assert_eq!(count("replicas.main.redis.test.", RecordType::A), (0, 1));
        // Listening everywhere is no address.
        assert_eq!(count("ns.redis.test.", RecordType::A), (0, 1));
    }

    #[tokio::test]
    async fn a_question_waits_until_there_is_a_primary() {
        let (names, writer) = server(1);
        let open = writer.current();
        let mut closed = (*open).clone();
        closed.gate = Gate::Closed;
        writer.publish(closed);
        let question = question("main.redis.test.", RecordType::AAAA, None);
        let reply = names.answer(&question, Transport::Udp, true);
        assert_eq!(reply, Reply::Wait(0));
        let (_, answer) = ask(&names, &question, Transport::Udp);
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        let again = async { writer.publish((*open).clone()) };
        tokio::join!(names.settled(0), again);
        let (_, answer) = ask(&names, &question, Transport::Udp);
        assert_eq!(answer.answers.len(), 1);
    }

    #[tokio::test]
    async fn a_node_that_is_given_by_name_has_the_addresses_that_were_looked_up() {
        let (names, writer) = server(0);
        let mut named = (*writer.current()).clone();
        if let Some(primary) = &mut named.primary {
            primary.node = NodeId::new("localhost:6379");
        }
        writer.publish(named);
        let question = question("main.redis.test.", RecordType::ANY, None);
        let (_, answer) = ask(&names, &question, Transport::Udp);
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        let backend = &names.backends[0];
        let known = async {
            while names.answer(&question, Transport::Udp, true) == Reply::Wait(0) {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = backend.hosts.keep(backend.topology.clone()) => {}
            () = known => {}
        }
        let (_, answer) = ask(&names, &question, Transport::Udp);
        assert!(answer.answers.len() >= 2, "{answer}");
    }
}
