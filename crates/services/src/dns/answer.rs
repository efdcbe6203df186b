//! The answer to one query from a zone.

use std::collections::BTreeSet;

use super::wire::{Data, Message, Query, Record, code, kind};
use super::zone::{Known, Zone};

/// How long records may be remembered: short, for endpoints come and go.
const SECONDS: u32 = 5;
/// Most aliases followed within the zone.
const ALIAS_LIMIT: usize = 8;
/// The largest message over TCP.
const TCP_BYTES: usize = u16::MAX as usize;

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One packet; large answers must come again over TCP.
    Udp,
    /// A stream.
    Tcp,
}

/// What to do with a query.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// Send these bytes.
    Send(Vec<u8>),
    /// Somebody else's name: send the query on as it is.
    Forward(Query),
    /// An alias of somebody else's name: ask for that, and send both with [`alias`].
    Follow {
        /// The query to send on.
        ask: Query,
        /// The asker's query.
        query: Query,
        /// The records that led there.
        found: Vec<Record>,
    },
    /// No query at all; nothing is sent.
    Ignore,
}

/// Answers a packet.
pub fn reply(zone: &Zone, packet: &[u8], transport: Transport) -> Reply {
    let Some(query) = Query::parse(packet) else {
        return malformed(packet);
    };
    let limit = limit(&query, transport);
    if query.opcode != 0 || !query.is_internet() {
        let message = Message {
            code: code::UNSUPPORTED,
            ..Message::default()
        };
        return Reply::Send(message.bytes(&query, limit));
    }
    let mut found = Vec::new();
    let mut name = query.name.clone();
    for _ in 0..ALIAS_LIMIT {
        let records = match zone.find(&name) {
            Known::Elsewhere if found.is_empty() => return Reply::Forward(query),
            Known::Elsewhere => {
                let ask = Query {
                    name,
                    udp_bytes: None,
                    ..query.clone()
                };
                return Reply::Follow { ask, query, found };
            }
            Known::Nothing => return Reply::Send(absent(zone, code::NO_NAME, found).bytes(&query, limit)),
            Known::Made(data) => BTreeSet::from([data]),
            Known::Records(records) => records.clone(),
        };
        let alias = records.iter().find_map(|data| match data {
            Data::Cname(target) => Some(target.clone()),
            _ => None,
        });
        let Some(target) = alias.filter(|_| query.kind != kind::CNAME && query.kind != kind::ANY) else {
            let message = present(zone, &query, &name, &records, found);
            return Reply::Send(message.bytes(&query, limit));
        };
        found.push(record(&name, Data::Cname(target.clone())));
        name = target;
    }
    failed(&query, transport)
}

/// The answer with an alias and what its target's server said; none of it when the server gave no answer.
pub fn alias(query: &Query, mut found: Vec<Record>, answer: Option<&[u8]>, transport: Transport) -> Vec<u8> {
    let Some(records) = answer.and_then(super::wire::records) else {
        return failure(query, transport);
    };
    found.extend(records);
    let message = Message {
        answers: found,
        ..Message::default()
    };
    message.bytes(query, limit(query, transport))
}

/// The answer when no server could be asked.
pub fn failure(query: &Query, transport: Transport) -> Vec<u8> {
    let message = Message {
        code: code::FAILED,
        ..Message::default()
    };
    message.bytes(query, limit(query, transport))
}

fn failed(query: &Query, transport: Transport) -> Reply {
    Reply::Send(failure(query, transport))
}

fn limit(query: &Query, transport: Transport) -> usize {
    match transport {
        Transport::Udp => query.udp_limit(),
        Transport::Tcp => TCP_BYTES,
    }
}

/// A header alone, when at least that much of a query can be read.
fn malformed(packet: &[u8]) -> Reply {
    match packet.get(..12) {
        Some(header) if header[2] & 0x80 == 0 => {
            let mut answer = header.to_vec();
            answer[2] |= 0x80;
            answer[3] = 0x80 | code::MALFORMED;
            answer[4..].fill(0);
            Reply::Send(answer)
        }
        _ => Reply::Ignore,
    }
}

fn record(name: &str, data: Data) -> Record {
    Record {
        name: name.to_owned(),
        seconds: SECONDS,
        data,
    }
}

fn start_of_zone(zone: &Zone) -> Record {
    let data = Data::Soa {
        server: zone.server(),
        mailbox: format!("hostmaster.{}", zone.domain()),
        serial: 1,
        negative_seconds: SECONDS,
    };
    record(zone.domain(), data)
}

fn absent(zone: &Zone, code: u8, found: Vec<Record>) -> Message {
    Message {
        code,
        authoritative: true,
        answers: found,
        authority: vec![start_of_zone(zone)],
        additional: Vec::new(),
    }
}

fn present(
    zone: &Zone,
    query: &Query,
    name: &str,
    records: &BTreeSet<Data>,
    mut found: Vec<Record>,
) -> Message {
    let wanted = |data: &&Data| query.kind == kind::ANY || data.kind() == query.kind;
    let mut own: Vec<Record> = records
        .iter()
        .filter(wanted)
        .map(|data| record(name, data.clone()))
        .collect();
    if query.kind == kind::SOA && name.eq_ignore_ascii_case(zone.domain()) {
        own.push(start_of_zone(zone));
    }
    if own.is_empty() {
        return absent(zone, code::OK, found);
    }
    // Clients take the first: each query begins elsewhere.
    let first = usize::from(query.id) % own.len();
    own.rotate_left(first);
    let additional = additional(zone, &own);
    found.extend(own);
    Message {
        code: code::OK,
        authoritative: true,
        answers: found,
        authority: Vec::new(),
        additional,
    }
}

/// The addresses of the hosts that SRV records name.
fn additional(zone: &Zone, answers: &[Record]) -> Vec<Record> {
    let mut targets: Vec<&String> = answers
        .iter()
        .filter_map(|record| match &record.data {
            Data::Srv { target, .. } => Some(target),
            _ => None,
        })
        .collect();
    targets.dedup();
    let mut found = Vec::new();
    for target in targets {
        if let Known::Records(records) = zone.find(target) {
            let addresses = records
                .iter()
                .filter(|data| matches!(data, Data::A(_) | Data::Aaaa(_)));
            found.extend(addresses.map(|data| record(target, data.clone())));
        }
    }
    found
}
