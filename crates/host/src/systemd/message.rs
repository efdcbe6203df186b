//! Messages of D-Bus as far as calls to systemd need them: strings, numbers, properties. Pure; what comes in may be
//! anything and is only ever refused. Both ends are on this computer, so its own byte order is used.
//!
//! Source: D-Bus Specification, "Message Protocol" and "Marshaling".

/// A value of a unit's property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `b`.
    Bool(bool),
    /// `t`; systemd reads the largest number as "no limit".
    Number(u64),
    /// `s`.
    Text(String),
}

/// A property of a unit: its name and its value.
pub type Property = (&'static str, Value);

/// An argument of a call.
#[derive(Debug, Clone, Copy)]
pub enum Argument<'a> {
    /// `s`.
    Text(&'a str),
    /// `b`.
    Bool(bool),
    /// `a(sv)`.
    Properties(&'a [Property]),
    /// `a(sa(sv))` without an element: further units.
    NoUnits,
}

/// What kind of message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The answer to a call.
    Answer,
    /// The refusal of a call.
    Refusal,
    /// News, or anything else.
    Other,
}

/// A message that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its kind.
    pub kind: Kind,
    /// The serial number of the call that it answers.
    pub answers: Option<u32>,
    /// The method's, signal's or error's name.
    pub name: String,
    body: Vec<u8>,
    signature: String,
}

/// The mark of this computer's byte order.
const ORDER: u8 = if cfg!(target_endian = "little") {
    b'l'
} else {
    b'B'
};
/// Bytes before the header's fields.
pub const HEAD: usize = 16;
/// The longest message taken; the specification allows 128 MiB.
const LONGEST: usize = 1 << 20;

const CALL: u8 = 1;
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// Writes values with the alignment that each needs.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn u32(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_ne_bytes());
    }

    fn text(&mut self, text: &str) {
        self.u32(text.len() as u32);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(text.len() as u8);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// An array of structures; its length counts from the first of them.
    fn structures(&mut self, write: impl FnOnce(&mut Writer)) {
        self.u32(0);
        let length_at = self.0.len() - 4;
        self.align(8);
        let begin = self.0.len();
        write(self);
        let length = (self.0.len() - begin) as u32;
        self.0[length_at..length_at + 4].copy_from_slice(&length.to_ne_bytes());
    }

    fn property(&mut self, (name, value): &Property) {
        self.align(8);
        self.text(name);
        match value {
            Value::Bool(is) => {
                self.signature("b");
                self.u32(u32::from(*is));
            }
            Value::Number(number) => {
                self.signature("t");
                self.align(8);
                self.0.extend(number.to_ne_bytes());
            }
            Value::Text(text) => {
                self.signature("s");
                self.text(text);
            }
        }
    }

    fn argument(&mut self, argument: Argument<'_>) {
        match argument {
            Argument::Text(text) => self.text(text),
            Argument::Bool(is) => self.u32(u32::from(is)),
            Argument::NoUnits => self.structures(|_| {}),
            Argument::Properties(all) => self.structures(|w| all.iter().for_each(|p| w.property(p))),
        }
    }

    /// A field of the header with a string in it.
    fn field(&mut self, code: u8, kind: &str, text: &str) {
        self.align(8);
        self.0.push(code);
        self.signature(kind);
        match kind {
            "g" => self.signature(text),
            _ => self.text(text),
        }
    }
}

fn signature(arguments: &[Argument<'_>]) -> String {
    let one = |argument: &Argument<'_>| match argument {
        Argument::Text(_) => "s",
        Argument::Bool(_) => "b",
        Argument::Properties(_) => "a(sv)",
        Argument::NoUnits => "a(sa(sv))",
    };
    arguments.iter().map(one).collect()
}

/// A call of a method of systemd's manager.
pub fn call(serial: u32, method: &str, arguments: &[Argument<'_>]) -> Vec<u8> {
    let mut body = Writer::default();
    arguments.iter().for_each(|a| body.argument(*a));
    let mut whole = Writer(vec![ORDER, CALL, 0, 1]);
    whole.u32(body.0.len() as u32);
    whole.u32(serial);
    whole.structures(|w| {
        w.field(PATH, "o", "/org/freedesktop/systemd1");
        w.field(INTERFACE, "s", "org.freedesktop.systemd1.Manager");
        w.field(MEMBER, "s", method);
        w.field(DESTINATION, "s", "org.freedesktop.systemd1");
        w.field(SIGNATURE, "g", &signature(arguments));
    });
    whole.align(8);
    whole.0.extend(body.0);
    whole.0
}

/// Reads values with the alignment that each has; `None` past the end.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    fn u32(&mut self) -> Option<u32> {
        self.at = self.at.next_multiple_of(4);
        Some(u32::from_ne_bytes(self.take(4)?.try_into().ok()?))
    }

    fn ended(&mut self, length: usize) -> Option<&'a str> {
        let text = self.take(length)?;
        self.take(1)?;
        std::str::from_utf8(text).ok()
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.u32()? as usize;
        self.ended(length)
    }

    fn signature(&mut self) -> Option<&'a str> {
        let length = usize::from(self.u8()?);
        self.ended(length)
    }
}

/// How many bytes follow the [`HEAD`] of a message; `None`: this is no message, or too long a one.
pub fn rest(head: &[u8; HEAD]) -> Option<usize> {
    let number = |at: usize| Some(u32::from_ne_bytes(head[at..at + 4].try_into().ok()?) as usize);
    let (body, fields) = (number(4)?, number(12)?);
    let is_sound = head[0] == ORDER && head[3] == 1 && body <= LONGEST && fields <= LONGEST;
    is_sound.then(|| fields.next_multiple_of(8) + body)
}

/// Reads a message; `None`: it is broken.
pub fn read(head: &[u8; HEAD], rest: &[u8]) -> Option<Message> {
    let fields = u32::from_ne_bytes(head[12..].try_into().ok()?) as usize;
    let mut message = Message {
        kind: match head[1] {
            2 => Kind::Answer,
            3 => Kind::Refusal,
            _ => Kind::Other,
        },
        answers: None,
        name: String::new(),
        body: rest.get(fields.next_multiple_of(8)..)?.to_vec(),
        signature: String::new(),
    };
    let mut reader = Reader {
        bytes: rest.get(..fields)?,
        at: 0,
    };
    while reader.at < fields {
        reader.at = reader.at.next_multiple_of(8);
        read_field(&mut reader, &mut message)?;
    }
    Some(message)
}

fn read_field(reader: &mut Reader<'_>, message: &mut Message) -> Option<()> {
    let code = reader.u8()?;
    match reader.signature()? {
        "u" => {
            let number = reader.u32()?;
            message.answers = (code == REPLY_SERIAL).then_some(number).or(message.answers);
        }
        kind @ ("g" | "s" | "o") => {
            let text = if kind == "g" {
                reader.signature()?
            } else {
                reader.text()?
            };
            match code {
                SIGNATURE => text.clone_into(&mut message.signature),
                MEMBER | ERROR_NAME => text.clone_into(&mut message.name),
                _ => {}
            }
        }
        _ => return None,
    }
    Some(())
}

impl Message {
    /// The strings (object paths too) among the values, as far as only strings and 32-bit numbers stand before them.
    pub fn texts(&self) -> Vec<&str> {
        let mut reader = Reader {
            bytes: &self.body,
            at: 0,
        };
        let mut found = Vec::new();
        for kind in self.signature.chars() {
            let text = match kind {
                's' | 'o' => reader.text(),
                'u' if reader.u32().is_some() => continue,
                _ => None,
            };
            match text {
                Some(text) => found.push(text),
                None => break,
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(bytes: &[u8]) -> Option<Message> {
        let head: &[u8; HEAD] = bytes.get(..HEAD)?.try_into().ok()?;
        let rest = bytes.get(HEAD..HEAD + rest(head)?)?;
        read(head, rest)
    }

    #[test]
    fn a_call_is_laid_out_as_the_specification_says() {
        let properties = [
            ("CPUWeight", Value::Number(7)),
            ("CPUAccounting", Value::Bool(true)),
        ];
        let call = call(1, "M", &[Argument::Text("ab"), Argument::Properties(&properties)]);
        let body = call.len() - u32::from_ne_bytes(call[4..8].try_into().expect("four")) as usize;
        assert_eq!(body % 8, 0);
        let mut expected = vec![2, 0, 0, 0, b'a', b'b', 0, 0, 60, 0, 0, 0, 0, 0, 0, 0];
        expected.extend(b"\x09\0\0\0CPUWeight\0\x01t\0\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0");
        expected.extend(b"\x0d\0\0\0CPUAccounting\0\x01b\0");
        expected.extend([0, 0, 0, 1, 0, 0, 0]);
        if cfg!(target_endian = "little") {
            let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
            assert_eq!(text(&call[body..]), text(&expected));
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let message = parsed(&call(
            3,
            "StopUnit",
            &[Argument::Text("a.slice"), Argument::Text("replace")],
        ));
        let message = message.expect("a message");
        assert_eq!((message.kind, message.name.as_str()), (Kind::Other, "StopUnit"));
        assert_eq!(message.texts(), ["a.slice", "replace"]);
    }

    proptest! {
        #[test]
        fn anything_may_come(mut bytes in prop::collection::vec(any::<u8>(), HEAD..200)) {
            bytes[0] = ORDER;
            bytes[3] = 1;
            let _ = parsed(&bytes).map(|m| m.texts().len());
        }
    }
}
