//! DNS messages as bytes (RFC 1035 section 4): the little of them that a responder for one cluster needs.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Record types.
pub mod kind {
    /// An IPv4 address.
    pub const A: u16 = 1;
    /// A zone's server.
    pub const NS: u16 = 2;
    /// Another name.
    pub const CNAME: u16 = 5;
    /// Start of a zone.
    pub const SOA: u16 = 6;
    /// The name of an address.
    pub const PTR: u16 = 12;
    /// Text.
    pub const TXT: u16 = 16;
    /// An IPv6 address.
    pub const AAAA: u16 = 28;
    /// Host and port of a service.
    pub const SRV: u16 = 33;
    /// What the asker can take (RFC 6891).
    pub const OPT: u16 = 41;
    /// Everything.
    pub const ANY: u16 = 255;
}

/// Response codes.
pub mod code {
    /// There may be records.
    pub const OK: u8 = 0;
    /// The query cannot be read.
    pub const MALFORMED: u8 = 1;
    /// No answer could be had.
    pub const FAILED: u8 = 2;
    /// There is no such name.
    pub const NO_NAME: u8 = 3;
    /// Not done here.
    pub const UNSUPPORTED: u8 = 4;
}

/// Class Internet.
const INTERNET: u16 = 1;
const HEADER_BYTES: usize = 12;
/// The longest name in its wire form.
const NAME_LIMIT_BYTES: usize = 255;
/// The least that every asker takes over UDP.
const UDP_BYTES: usize = 512;
/// The most that is sent over UDP whatever the asker says: larger packets may be cut to pieces on the way.
const UDP_LIMIT_BYTES: usize = 1232;
/// Most compression pointers followed in one name.
const POINTER_LIMIT: usize = 32;

/// A query with one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The asker's number.
    pub id: u16,
    /// Whether the asker wants the server to ask others.
    pub recursion: bool,
    /// What is done; 0 is a plain question.
    pub opcode: u8,
    /// The name as asked, without the last dot.
    pub name: String,
    /// The record type.
    pub kind: u16,
    /// The class.
    pub class: u16,
    /// How large a UDP answer may be; none without EDNS.
    pub udp_bytes: Option<usize>,
}

impl Query {
    /// Reads a query; none when it is no readable query with one question.
    pub fn parse(packet: &[u8]) -> Option<Query> {
        let word = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
        let flags = word(2)?;
        if flags & 0x8000 != 0 || word(4)? != 1 {
            return None;
        }
        let (name, end) = read_name(packet, HEADER_BYTES)?;
        let (records, additional) = (word(6)? + word(8)?, word(10)?);
        let mut query = Query {
            id: word(0)?,
            recursion: flags & 0x0100 != 0,
            opcode: (flags >> 11 & 0xf) as u8,
            name,
            kind: word(end)?,
            class: word(end + 2)?,
            udp_bytes: None,
        };
        if records == 0 && additional > 0 {
            // The root's one zero byte, then type, then in place of the class the size.
            let at = end + 4;
            if packet.get(at) == Some(&0) && word(at + 1) == Some(kind::OPT) {
                query.udp_bytes = Some(usize::from(word(at + 3)?).clamp(UDP_BYTES, UDP_LIMIT_BYTES));
            }
        }
        Some(query)
    }

    /// Whether the class is one that is answered.
    pub fn is_internet(&self) -> bool {
        self.class == INTERNET || self.class == kind::ANY
    }

    /// The largest answer over UDP.
    pub fn udp_limit(&self) -> usize {
        self.udp_bytes.unwrap_or(UDP_BYTES)
    }

    /// The query as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut packet = Vec::with_capacity(64);
        let flags = u16::from(self.recursion) << 8;
        for word in [self.id, flags, 1, 0, 0, 0] {
            packet.extend(word.to_be_bytes());
        }
        write_name(&mut packet, &self.name);
        for word in [self.kind, self.class] {
            packet.extend(word.to_be_bytes());
        }
        packet
    }
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// Another name.
    Cname(String),
    /// The name of an address.
    Ptr(String),
    /// Port and host of a service.
    Srv {
        /// The share among hosts of one priority.
        weight: u16,
        /// The port.
        port: u16,
        /// The host.
        target: String,
    },
    /// Text.
    Txt(String),
    /// The zone's server.
    Ns(String),
    /// Start of the zone: its server, the mailbox of who keeps it, its number.
    Soa {
        /// The zone's server.
        server: String,
        /// The mailbox as a name.
        mailbox: String,
        /// Rises when the zone changes.
        serial: u32,
        /// How long absence may be remembered, in seconds.
        negative_seconds: u32,
    },
}

impl Data {
    /// The record type.
    pub fn kind(&self) -> u16 {
        match self {
            Data::A(_) => kind::A,
            Data::Aaaa(_) => kind::AAAA,
            Data::Cname(_) => kind::CNAME,
            Data::Ptr(_) => kind::PTR,
            Data::Srv { .. } => kind::SRV,
            Data::Txt(_) => kind::TXT,
            Data::Ns(_) => kind::NS,
            Data::Soa { .. } => kind::SOA,
        }
    }

    fn write(&self, packet: &mut Vec<u8>) {
        match self {
            Data::A(address) => packet.extend(address.octets()),
            Data::Aaaa(address) => packet.extend(address.octets()),
            Data::Cname(name) | Data::Ptr(name) | Data::Ns(name) => write_name(packet, name),
            Data::Srv { weight, port, target } => {
                for word in [0, *weight, *port] {
                    packet.extend(word.to_be_bytes());
                }
                write_name(packet, target);
            }
            Data::Txt(text) => {
                let text = &text.as_bytes()[..text.len().min(255)];
                packet.push(text.len() as u8);
                packet.extend(text);
            }
            Data::Soa {
                server,
                mailbox,
                serial,
                negative_seconds,
            } => {
                write_name(packet, server);
                write_name(packet, mailbox);
                for number in [*serial, 7200, 1800, 86_400, *negative_seconds] {
                    packet.extend(number.to_be_bytes());
                }
            }
        }
    }
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Whose.
    pub name: String,
    /// How long it may be remembered, in seconds.
    pub seconds: u32,
    /// What it says.
    pub data: Data,
}

/// An answer before it is bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// One of [`code`].
    pub code: u8,
    /// Whether the answer comes from who knows.
    pub authoritative: bool,
    /// What was asked for.
    pub answers: Vec<Record>,
    /// Why there is nothing.
    pub authority: Vec<Record>,
    /// What will be asked next.
    pub additional: Vec<Record>,
}

impl Message {
    /// The answer to a query as bytes; one that exceeds `limit` is left empty and says so, and the asker comes again
    /// over TCP.
    pub fn bytes(&self, query: &Query, limit: usize) -> Vec<u8> {
        let packet = self.write(query, false);
        if packet.len() <= limit {
            return packet;
        }
        let lean = Message {
            additional: Vec::new(),
            ..self.clone()
        };
        let packet = lean.write(query, false);
        if packet.len() <= limit {
            return packet;
        }
        let empty = Message {
            answers: Vec::new(),
            authority: Vec::new(),
            ..lean
        };
        empty.write(query, true)
    }

    fn write(&self, query: &Query, truncated: bool) -> Vec<u8> {
        let mut packet = Vec::with_capacity(UDP_BYTES);
        let flags = 0x8000
            | u16::from(query.opcode) << 11
            | u16::from(self.authoritative) << 10
            | u16::from(truncated) << 9
            | u16::from(query.recursion) << 8
            | 0x0080
            | u16::from(self.code);
        let edns = query.udp_bytes.is_some();
        let counts = [
            1,
            self.answers.len(),
            self.authority.len(),
            self.additional.len() + usize::from(edns),
        ];
        for word in [query.id, flags] {
            packet.extend(word.to_be_bytes());
        }
        for count in counts {
            packet.extend((count as u16).to_be_bytes());
        }
        write_name(&mut packet, &query.name);
        for word in [query.kind, query.class] {
            packet.extend(word.to_be_bytes());
        }
        for record in self.answers.iter().chain(&self.authority).chain(&self.additional) {
            write_record(&mut packet, record, &query.name);
        }
        if edns {
            packet.push(0);
            for word in [kind::OPT, UDP_LIMIT_BYTES as u16, 0, 0, 0] {
                packet.extend(word.to_be_bytes());
            }
        }
        packet
    }
}

fn write_record(packet: &mut Vec<u8>, record: &Record, asked: &str) {
    if record.name.eq_ignore_ascii_case(asked) {
        // A pointer to the name in the question.
        packet.extend((0xc000 | HEADER_BYTES as u16).to_be_bytes());
    } else {
        write_name(packet, &record.name);
    }
    for word in [record.data.kind(), INTERNET] {
        packet.extend(word.to_be_bytes());
    }
    packet.extend(record.seconds.to_be_bytes());
    let at = packet.len();
    packet.extend([0, 0]);
    record.data.write(packet);
    let length = (packet.len() - at - 2) as u16;
    packet[at..at + 2].copy_from_slice(&length.to_be_bytes());
}

/// Writes a name's labels. One that breaks the limits of DNS is cut: such names are refused long before by the API.
fn write_name(packet: &mut Vec<u8>, name: &str) {
    let start = packet.len();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(63)];
        if packet.len() - start + label.len() + 2 > NAME_LIMIT_BYTES {
            break;
        }
        packet.push(label.len() as u8);
        packet.extend(label);
    }
    packet.push(0);
}

/// Reads a name and tells where the bytes after it begin. Letters that are no text, and dots within labels, make it
/// unreadable: no name of ours has them.
fn read_name(packet: &[u8], mut at: usize) -> Option<(String, usize)> {
    let (mut name, mut end, mut pointers) = (String::new(), None, 0);
    loop {
        let length = usize::from(*packet.get(at)?);
        match length {
            0 => return Some((name, end.unwrap_or(at + 1))),
            0xc0.. => {
                let low = usize::from(*packet.get(at + 1)?);
                end = end.or(Some(at + 2));
                at = (length & 0x3f) << 8 | low;
                pointers += 1;
                if pointers > POINTER_LIMIT {
                    return None;
                }
            }
            1..=63 => {
                let label = std::str::from_utf8(packet.get(at + 1..at + 1 + length)?).ok()?;
                if label.contains('.') || name.len() + label.len() + 1 > NAME_LIMIT_BYTES {
                    return None;
                }
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(label);
                at += 1 + length;
            }
            _ => return None,
        }
    }
}

/// The addresses and aliases in the answer section of a server's response; none when it cannot be read or is no success.
pub fn records(packet: &[u8]) -> Option<Vec<Record>> {
    let word = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    if word(2)? & 0x000f != 0 {
        return None;
    }
    let mut at = HEADER_BYTES;
    for _ in 0..word(4)? {
        at = read_name(packet, at)?.1 + 4;
    }
    let mut found = Vec::new();
    for _ in 0..word(6)? {
        let (name, fields) = read_name(packet, at)?;
        let seconds = u32::from(word(fields + 4)?) << 16 | u32::from(word(fields + 6)?);
        let (start, length) = (fields + 10, usize::from(word(fields + 8)?));
        let bytes = packet.get(start..start + length)?;
        let data = match word(fields)? {
            kind::A => <[u8; 4]>::try_from(bytes).ok().map(|bytes| Data::A(bytes.into())),
            kind::AAAA => <[u8; 16]>::try_from(bytes)
                .ok()
                .map(|bytes| Data::Aaaa(bytes.into())),
            kind::CNAME => Some(Data::Cname(read_name(packet, start)?.0)),
            _ => None,
        };
        found.extend(data.map(|data| Record { name, seconds, data }));
        at = start + length;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn query(name: &str, kind: u16) -> Query {
        Query {
            id: 7,
            recursion: true,
            opcode: 0,
            name: name.to_owned(),
            kind,
            class: INTERNET,
            udp_bytes: None,
        }
    }

    #[test]
    fn a_query_reads_back_as_written() {
        let asked = query("kubernetes.default.svc.cluster.local", kind::A);
        assert_eq!(Query::parse(&asked.bytes()), Some(asked));
    }

    #[test]
    fn an_answer_reads_back_with_its_addresses() {
        let asked = query("web.default.svc.cluster.local", kind::A);
        let record = |data| Record {
            name: asked.name.clone(),
            seconds: 5,
            data,
        };
        let answers = vec![
            record(Data::Cname("other.example".to_owned())),
            record(Data::A(Ipv4Addr::new(10, 96, 0, 1))),
        ];
        let message = Message {
            answers: answers.clone(),
            ..Message::default()
        };
        assert_eq!(records(&message.bytes(&asked, UDP_BYTES)), Some(answers));
    }

    #[test]
    fn an_answer_that_does_not_fit_says_so() {
        let asked = query("web.default.svc.cluster.local", kind::A);
        let answers = (0..40).map(|last| Record {
            name: asked.name.clone(),
            seconds: 5,
            data: Data::A(Ipv4Addr::new(10, 244, 0, last)),
        });
        let message = Message {
            answers: answers.collect(),
            ..Message::default()
        };
        let packet = message.bytes(&asked, UDP_BYTES);
        assert!(packet.len() <= UDP_BYTES && packet[2] & 0x02 != 0);
        let whole = message.bytes(&asked, usize::from(u16::MAX));
        assert_eq!(records(&whole).map(|found| found.len()), Some(40));
    }

    #[test]
    fn the_size_that_an_asker_takes_is_kept_within_limits() {
        let mut packet = query("a.example", kind::A).bytes();
        packet[11] = 1;
        packet.extend([0, 0, 41, 0xff, 0xff, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            Query::parse(&packet).and_then(|query| query.udp_bytes),
            Some(UDP_LIMIT_BYTES)
        );
    }

    proptest! {
        #[test]
        fn no_packet_is_a_reason_to_fall_over(packet in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Query::parse(&packet);
            let _ = records(&packet);
        }
    }
}
