//! The primary's addresses under a name in somebody's zone, by dynamic update (RFC 2136) signed with
//! TSIG (RFC 8945), everything with TTL 0:
//!
//! ```text
//! NAME               A, AAAA  the addresses of the primary's host
//! _redis._tcp.NAME   SRV      its port, where that is wanted
//! _pointsman.NAME    TXT      "pointsman" "epoch=7" "backend=main" "primary=10.0.0.1:6379"
//! ```
//!
//! The TXT record is read first, and an older epoch than the one in it is not published. The update is
//! one transaction, and requires that the TXT record is still what was read: of two monitors that
//! publish at the same time one is refused, reads again, and finds out whether it is the older one.
//!
//! The same is looked at again every [`DnsUpdateSettings::refresh`], and put right where somebody changed it.
//!
//! Questions and updates go over TCP, so that nobody who cannot see them can answer them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::ProtoError;
use hickory_proto::op::{Message, OpCode, Query, ResponseCode, UpdateMessage};
use hickory_proto::rr::rdata::tsig::{TsigAlgorithm, TsigError};
use hickory_proto::rr::rdata::{A, AAAA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType, TSigner};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::super::authority::Boxed;
use super::{Announcement, PublishError, Publisher};
use crate::clock;
use crate::metrics::PublisherKind;
use crate::topology::{Epoch, NodeId};

/// First string of the TXT record.
const OURS: &str = "pointsman";

/// Seconds that the clocks of signer and server may differ (RFC 8945, section 10: RECOMMENDED).
const FUDGE: u16 = 300;

/// How often an update that somebody else's came before is tried again before the next pause.
const ATTEMPTS: usize = 5;

/// Where and how to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsUpdateSettings {
    /// `host:port` of the zone's primary server.
    pub server: String,
    /// The zone that is updated, fully qualified.
    pub zone: Name,
    /// The name whose addresses are the primary's; in the zone.
    pub name: Name,
    /// With what updates are signed.
    pub key: TsigKey,
    /// Whether the port is published too.
    pub srv: bool,
    /// How long a lookup, a connect or an answer may take.
    pub timeout: Duration,
    /// How often the zone is looked at, whether it still says what was published.
    pub refresh: Duration,
}

/// A key that is shared with the server.
#[derive(Clone, PartialEq, Eq)]
pub struct TsigKey {
    /// As the server calls it.
    pub name: Name,
    /// hmac-sha256, hmac-sha384 or hmac-sha512.
    pub algorithm: TsigAlgorithm,
    /// Never shown.
    pub secret: Vec<u8>,
}

/// See the head of the file.
#[derive(Debug)]
pub struct DnsUpdatePublisher {
    settings: DnsUpdateSettings,
    /// What the zone should say since then.
    published: Option<Epoch>,
}

/// What the TXT record says.
struct Stored {
    /// As it is, for the prerequisite.
    text: TXT,
    epoch: Epoch,
    backend: String,
    primary: String,
}

/// One connection to the server.
struct Server<'a> {
    settings: &'a DnsUpdateSettings,
    signer: TSigner,
    stream: TcpStream,
}

impl DnsUpdatePublisher {
    /// Nothing is sent yet.
    pub fn new(settings: DnsUpdateSettings) -> Self {
        DnsUpdatePublisher {
            settings,
            published: None,
        }
    }

    async fn tell(&mut self, announcement: &Announcement) -> Result<(), PublishError> {
        let node = &announcement.to;
        let looking_up = format!("looking up {node}");
        let addresses = within(&self.settings, &looking_up, addresses(node)).await??;
        let mut server = Server::connect(&self.settings).await?;
        for _ in 0..ATTEMPTS {
            let stored = server.stored().await?;
            if let Some(stored) = &stored {
                stored.allows(announcement, &self.settings)?;
                if stored.epoch == announcement.epoch
                    && server.says(announcement, &addresses).await?
                {
                    self.published = Some(announcement.epoch);
                    return Ok(());
                }
            }
            if server.update(stored, announcement, &addresses).await? {
                if self.published == Some(announcement.epoch) {
                    let (name, primary) = (&self.settings.name, &announcement.to);
                    tracing::warn!(%name, %primary,
                        "somebody or something changed what was published; it is published again");
                }
                self.published = Some(announcement.epoch);
                return Ok(());
            }
        }
        Err(failed(format!(
            "{} was changed by others between each of {ATTEMPTS} readings and updates",
            marker(&self.settings)?
        )))
    }
}

impl Publisher for DnsUpdatePublisher {
    fn name(&self) -> String {
        format!("dns_update {}", self.settings.name)
    }

    fn kind(&self) -> PublisherKind {
        PublisherKind::DnsUpdate
    }

    fn publish(&mut self, announcement: Announcement) -> Boxed<'_, Result<(), PublishError>> {
        Box::pin(async move { self.tell(&announcement).await })
    }

    fn refresh(&self) -> Option<Duration> {
        Some(self.settings.refresh)
    }
}

impl Stored {
    /// `None`: the record is not one of ours.
    fn read(text: &TXT) -> Option<Stored> {
        let mut strings = text.txt_data.iter().map(|s| std::str::from_utf8(s).ok());
        if strings.next()?? != OURS {
            return None;
        }
        let mut stored = Stored {
            text: text.clone(),
            epoch: Epoch(0),
            backend: String::new(),
            primary: String::new(),
        };
        for string in strings {
            match string?.split_once('=')? {
                ("epoch", value) => stored.epoch = Epoch(value.parse().ok()?),
                ("backend", value) => stored.backend = value.to_owned(),
                ("primary", value) => stored.primary = value.to_owned(),
                // What a later version adds.
                _ => {}
            }
        }
        Some(stored)
    }

    /// Whether the announcement may take its place.
    fn allows(
        &self,
        announcement: &Announcement,
        settings: &DnsUpdateSettings,
    ) -> Result<(), PublishError> {
        let name = &settings.name;
        if self.backend != *announcement.backend {
            return Err(failed(format!(
                "{name} belongs to the backend `{}`: give each backend a name of its own",
                self.backend
            )));
        }
        if self.epoch > announcement.epoch {
            return Err(PublishError::Older(self.epoch));
        }
        if self.epoch == announcement.epoch && self.primary != announcement.to.as_str() {
            return Err(failed(format!(
                "epoch {} of {name} was published with the primary {}: somebody else decides about \
                 this backend, or its record was lost",
                self.epoch, self.primary
            )));
        }
        Ok(())
    }
}

impl<'a> Server<'a> {
    async fn connect(settings: &'a DnsUpdateSettings) -> Result<Server<'a>, PublishError> {
        let key = &settings.key;
        let signer = TSigner::new(
            key.secret.clone(),
            key.algorithm.clone(),
            key.name.clone(),
            FUDGE,
        );
        let connecting = TcpStream::connect(&settings.server);
        let stream = within(settings, "connecting", connecting)
            .await?
            .map_err(|error| failed(format!("can not connect to {}: {error}", settings.server)))?;
        Ok(Server {
            settings,
            signer: signer.map_err(|error| failed(error.to_string()))?,
            stream,
        })
    }

    /// The epoch that is published, if there is one.
    async fn stored(&mut self) -> Result<Option<Stored>, PublishError> {
        let marker = marker(self.settings)?;
        let found = self.records(&marker, RecordType::TXT).await?;
        let texts: Vec<&TXT> = found
            .iter()
            .filter_map(|data| match data {
                RData::TXT(text) => Some(text),
                _ => None,
            })
            .collect();
        let stored = match texts[..] {
            [] => return Ok(None),
            [text] => Stored::read(text),
            _ => None,
        };
        let foreign = || {
            failed(format!(
                "the TXT record of {marker} is none of pointsman's: remove it, or publish another \
                 name"
            ))
        };
        stored.map(Some).ok_or_else(foreign)
    }

    /// What the zone has under a name, of one type or a CNAME.
    async fn records(&mut self, name: &Name, kind: RecordType) -> Result<Vec<RData>, PublishError> {
        let mut question = Message::query();
        question.metadata.recursion_desired = false;
        question.add_query(Query::query(name.clone(), kind));
        let answer = self.ask(question).await?;
        match answer.metadata.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => {}
            code => return Err(self.refused(code, "read")),
        }
        let found = answer.answers.into_iter().filter(|r| r.name == *name);
        Ok(found.map(|record| record.data).collect())
    }

    /// Whether addresses and port are already as they should be.
    async fn says(
        &mut self,
        announcement: &Announcement,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<bool, PublishError> {
        let name = &self.settings.name;
        let mut found = self.records(name, RecordType::A).await?;
        found.extend(self.records(name, RecordType::AAAA).await?);
        let address = |data: &RData| match data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            // A CNAME: whoever asks is sent elsewhere.
            _ => None,
        };
        let found: Option<BTreeSet<IpAddr>> = found.iter().map(address).collect();
        if found.as_ref() != Some(addresses) {
            return Ok(false);
        }
        let Some((_, port)) = announcement.to.host_port().filter(|_| self.settings.srv) else {
            return Ok(true);
        };
        let service = service(name).map_err(malformed)?;
        let found = self.records(&service, RecordType::SRV).await?;
        Ok(found == [RData::SRV(SRV::new(0, 0, port, name.clone()))])
    }

    /// Writes, unless the TXT record is no longer what was read: then it is false.
    async fn update(
        &mut self,
        stored: Option<Stored>,
        announcement: &Announcement,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<bool, PublishError> {
        let message = update(self.settings, stored, announcement, addresses);
        let answer = self.ask(message.map_err(malformed)?).await?;
        match answer.metadata.response_code {
            ResponseCode::NoError => Ok(true),
            ResponseCode::NXRRSet | ResponseCode::YXRRSet => Ok(false),
            code => Err(self.refused(code, "update")),
        }
    }

    /// Asks, and believes only what is signed.
    async fn ask(&mut self, mut message: Message) -> Result<Message, PublishError> {
        let now = clock::unix_time().as_secs();
        let verifier = message.finalize(&self.signer, now).map_err(malformed)?;
        let bytes = message.to_vec().map_err(malformed)?;
        let bytes = within(self.settings, "asking", exchange(&mut self.stream, &bytes))
            .await?
            .map_err(|error| {
                failed(format!(
                    "the connection to {} was lost: {error}",
                    self.settings.server
                ))
            })?;
        let answer = parse(&bytes).filter(|answer| answer.metadata.id == message.metadata.id);
        let answer =
            answer.ok_or_else(|| failed(format!("{} answers nonsense", self.settings.server)))?;
        if let Some(why) = bad_signature(self.settings, &answer, now) {
            return Err(failed(why));
        }
        if let Some(mut verifier) = verifier
            && let Err(error) = verifier.verify(&bytes)
        {
            let code = answer.metadata.response_code;
            if code != ResponseCode::NoError {
                return Err(self.refused(code, "use"));
            }
            return Err(failed(format!(
                "the answer of {} is not signed with the key {}: {error}",
                self.settings.server, self.settings.key.name
            )));
        }
        Ok(answer)
    }

    /// What a response code means here.
    fn refused(&self, code: ResponseCode, what: &str) -> PublishError {
        let DnsUpdateSettings {
            server, zone, key, ..
        } = self.settings;
        failed(match code {
            ResponseCode::Refused => format!(
                "{server} does not let the key {} {what} the zone {zone} (REFUSED): see allow-update or \
                 update-policy of the zone",
                key.name
            ),
            ResponseCode::NotAuth => {
                format!("{server} is not the primary server of the zone {zone} (NOTAUTH)")
            }
            ResponseCode::NotZone => {
                format!("{server} says that the name is not in the zone {zone} (NOTZONE)")
            }
            other => format!("{server} answers: {other}"),
        })
    }
}

/// What the server has against our signature.
fn bad_signature(settings: &DnsUpdateSettings, answer: &Message, now: u64) -> Option<String> {
    let DnsUpdateSettings { server, key, .. } = settings;
    let tsig = &answer.signature.as_ref()?.data;
    Some(match tsig.error? {
        TsigError::BadSig => format!(
            "{server} refuses the signature (BADSIG): the secret is not the one that it has for \
             the key {}",
            key.name
        ),
        TsigError::BadKey => format!(
            "{server} refuses the key (BADKEY): it knows no key {} of {}",
            key.name, key.algorithm
        ),
        TsigError::BadTime => {
            let theirs = tsig
                .other
                .iter()
                .fold(0, |time, b| time << 8 | u64::from(*b));
            format!(
                "{server} refuses the signature (BADTIME): its clock and ours are {} s apart, \
                 and {FUDGE} s are allowed",
                theirs.abs_diff(now)
            )
        }
        other => format!(
            "{server} refuses the signature: TSIG error {}",
            u16::from(other)
        ),
    })
}

/// The whole transaction.
fn update(
    settings: &DnsUpdateSettings,
    stored: Option<Stored>,
    announcement: &Announcement,
    addresses: &BTreeSet<IpAddr>,
) -> Result<Message, ProtoError> {
    let DnsUpdateSettings { zone, name, .. } = settings;
    let marker = name.prepend_label("_pointsman")?;
    let service = service(name)?;
    let mut message = Message::query();
    message.metadata.op_code = OpCode::Update;
    message.metadata.recursion_desired = false;
    message.add_zone(Query::query(zone.clone(), RecordType::SOA));
    message.add_pre_requisite(match stored {
        // The record set is exactly this (RFC 2136, 2.4.2).
        Some(stored) => Record::from_rdata(marker.clone(), 0, RData::TXT(stored.text)),
        // There is none (2.4.3).
        None => of_class(DNSClass::NONE, &marker, RecordType::TXT),
    });
    // A CNAME would make the server ignore the addresses without a word (3.4.2.2).
    for kind in [RecordType::CNAME, RecordType::A, RecordType::AAAA] {
        message.add_update(of_class(DNSClass::ANY, name, kind));
    }
    for address in addresses {
        let data = match *address {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
        };
        message.add_update(Record::from_rdata(name.clone(), 0, data));
    }
    if let Some((_, port)) = announcement.to.host_port().filter(|_| settings.srv) {
        message.add_update(of_class(DNSClass::ANY, &service, RecordType::SRV));
        let data = RData::SRV(SRV::new(0, 0, port, name.clone()));
        message.add_update(Record::from_rdata(service, 0, data));
    }
    let text = TXT::new(vec![
        OURS.to_owned(),
        format!("epoch={}", announcement.epoch),
        format!("backend={}", announcement.backend),
        format!("primary={}", announcement.to),
    ]);
    message.add_update(of_class(DNSClass::ANY, &marker, RecordType::TXT));
    message.add_update(Record::from_rdata(marker, 0, RData::TXT(text)));
    Ok(message)
}

/// A record without data: ANY deletes a record set, NONE requires that there is none.
fn of_class(class: DNSClass, name: &Name, kind: RecordType) -> Record {
    let mut record = Record::update0(name.clone(), 0, kind);
    record.dns_class = class;
    record
}

fn service(name: &Name) -> Result<Name, ProtoError> {
    name.prepend_label("_tcp")?.prepend_label("_redis")
}

fn marker(settings: &DnsUpdateSettings) -> Result<Name, PublishError> {
    settings.name.prepend_label("_pointsman").map_err(malformed)
}

/// Every address of the node's host, asked of the system now.
async fn addresses(node: &NodeId) -> Result<BTreeSet<IpAddr>, PublishError> {
    let unresolved = |why: String| failed(format!("the node {node} has no address: {why}"));
    let (host, port) = node
        .host_port()
        .ok_or_else(|| unresolved("it is not host:port".to_owned()))?;
    let found: BTreeSet<IpAddr> = lookup_host((host, port))
        .await
        .map_err(|error| unresolved(error.to_string()))?
        .map(|address| address.ip())
        .collect();
    match found.is_empty() {
        true => Err(unresolved("its name means nothing".to_owned())),
        false => Ok(found),
    }
}

/// One message there and one back, each behind its length (RFC 1035, 4.2.2).
async fn exchange(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<Vec<u8>> {
    let too_long = |_| std::io::Error::other("the question is too long");
    let length = u16::try_from(message.len()).map_err(too_long)?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(message);
    stream.write_all(&bytes).await?;
    let length = stream.read_u16().await?;
    let mut answer = Vec::new();
    stream.take(length.into()).read_to_end(&mut answer).await?;
    match answer.len() == usize::from(length) {
        true => Ok(answer),
        false => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The decoder reserves room for as many questions as the message says it has; there is one.
fn parse(bytes: &[u8]) -> Option<Message> {
    match bytes.get(4..6)? {
        [0, 0 | 1] => Message::from_vec(bytes).ok(),
        _ => None,
    }
}

async fn within<T>(
    settings: &DnsUpdateSettings,
    what: &str,
    act: impl Future<Output = T>,
) -> Result<T, PublishError> {
    let limit = settings.timeout;
    match timeout(limit, act).await {
        Ok(done) => Ok(done),
        Err(_) => Err(failed(format!(
            "no answer within {limit:?} while {what}; the server is {}",
            settings.server
        ))),
    }
}

fn failed(why: String) -> PublishError {
    PublishError::Failed(why)
}

fn malformed(error: ProtoError) -> PublishError {
    failed(format!("no message can be made: {error}"))
}

impl fmt::Debug for TsigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TsigKey")
            .field("name", &self.name)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::tsig::{TSIG, make_tsig_record};

    use super::*;

    #[test]
    fn clocks_that_differ_are_named_with_the_difference() {
        let name = |text| Name::from_ascii(text).expect("a name");
        let settings = DnsUpdateSettings {
            server: "10.0.0.53:53".to_owned(),
            zone: name("internal."),
            name: name("redis.internal."),
            key: TsigKey {
                name: name("pointsman."),
                algorithm: TsigAlgorithm::HmacSha256,
                secret: b"secret".to_vec(),
            },
            srv: false,
            timeout: Duration::from_secs(5),
            refresh: Duration::from_secs(30),
        };
        let (ours, theirs) = (2_000_000_000_u64, 1_999_999_000_u64);
        let error = Some(TsigError::BadTime);
        // The server's time has 48 bits (RFC 8945, 5.2.3).
        let other = theirs.to_be_bytes()[2..].to_vec();
        let algorithm = settings.key.algorithm.clone();
        let tsig = TSIG::new(algorithm, ours, FUDGE, vec![0; 32], 1, error, other);
        let mut answer = Message::error_msg(1, OpCode::Update, ResponseCode::NotAuth);
        answer.set_signature(Box::new(make_tsig_record(name("pointsman."), tsig)));
        let why = bad_signature(&settings, &answer, ours).expect("refused");
        assert!(why.contains("BADTIME") && why.contains("1000 s"), "{why}");
        assert!(!format!("{settings:?}").contains("secret:"), "never shown");
    }
}
