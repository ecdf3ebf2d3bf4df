//! Bytes in, one question out. No peer can make this reserve more than its packet is long.

use hickory_proto::op::{
    Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode,
};
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

/// The only version of EDNS there is (RFC 6891).
const EDNS_VERSION: u8 = 0;

/// What somebody asks.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) metadata: Metadata,
    pub(super) query: Query,
    pub(super) edns: Option<Edns>,
}

/// Why it is not answered from the zone.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It is no question: whoever answered it might answer an answer.
    Silent,
    /// It could not be read further than this.
    Unreadable(Metadata, ResponseCode),
    /// It was understood.
    Code(Box<Question>, ResponseCode),
}

impl Question {
    pub(super) fn read(bytes: &[u8]) -> Result<Question, Refusal> {
        let mut decoder = BinDecoder::new(bytes);
        let header = Header::read(&mut decoder).map_err(|_| Refusal::Silent)?;
        let Header { metadata, counts } = header;
        if metadata.message_type == MessageType::Response {
            return Err(Refusal::Silent);
        }
        let unreadable = |code| Refusal::Unreadable(metadata, code);
        if metadata.op_code != OpCode::Query {
            return Err(unreadable(ResponseCode::NotImp));
        }
        if counts.queries != 1 {
            return Err(unreadable(ResponseCode::FormErr));
        }
        let formerr = |_| unreadable(ResponseCode::FormErr);
        let query = Query::read(&mut decoder).map_err(formerr)?;
        let mut read = |count: u16, last| {
            Message::read_records(&mut decoder, count.into(), last, metadata.op_code)
        };
        read(counts.answers, false).map_err(formerr)?;
        read(counts.authorities, false).map_err(formerr)?;
        let (_, edns, _) = read(counts.additionals, true).map_err(formerr)?;
        let question = Question {
            metadata,
            query,
            edns,
        };
        match question.objection() {
            None => Ok(question),
            Some(code) => Err(Refusal::Code(Box::new(question), code)),
        }
    }

    fn objection(&self) -> Option<ResponseCode> {
        let transfer = [RecordType::AXFR, RecordType::IXFR].contains(&self.query.query_type());
        match &self.edns {
            Some(edns) if edns.version() > EDNS_VERSION => Some(ResponseCode::BADVERS),
            _ if transfer || self.query.query_class() != DNSClass::IN => {
                Some(ResponseCode::Refused)
            }
            _ => None,
        }
    }
}
