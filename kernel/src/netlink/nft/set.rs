//! Sets and maps, and their elements.

use std::net::IpAddr;

use ipnet::IpNet;

use super::expr::{Verdict, link_name};
use crate::netlink::address::octets;
use crate::netlink::{Attributes, Message};

/// The type of one field of a key or value, as `nft` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `inet_proto`.
    Protocol,
    /// `ipv4_addr`.
    Ipv4,
    /// `ipv6_addr`.
    Ipv6,
    /// `inet_service`.
    Port,
    /// `ifname`.
    LinkName,
    /// `ether_addr`.
    Mac,
}

impl Field {
    /// The number `nft` knows the type by; the kernel only keeps it.
    fn number(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Mac => 9,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::LinkName => 41,
        }
    }

    /// Bytes, each field padded to a whole register.
    fn length(self) -> u32 {
        match self {
            Self::Ipv4 | Self::Protocol | Self::Port => 4,
            Self::Mac => 8,
            Self::Ipv6 | Self::LinkName => 16,
        }
    }

    /// For `nft list`: 1 is the machine's order, 2 network order.
    fn byte_order(self) -> u32 {
        match self {
            Self::LinkName => 1,
            Self::Protocol | Self::Ipv4 | Self::Ipv6 | Self::Port | Self::Mac => 2,
        }
    }
}

/// What a map's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// It is a set.
    None,
    /// Fields side by side.
    Fields(&'static [Field]),
    /// Verdicts.
    Verdicts,
}

/// A named set or map of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: &'static str,
    /// A number of our choice, unique in a batch.
    pub id: u32,
    /// The fields of its keys.
    pub key: &'static [Field],
    /// What its values are.
    pub values: Values,
    /// Whether elements are ranges of keys.
    pub ranges: bool,
}

/// A value of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Fields side by side.
    Bytes(Vec<u8>),
    /// A verdict.
    Verdict(Verdict),
}

/// An element: a key, for maps a value, for ranges an end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Element {
    /// The key, or the first of a range.
    pub key: Vec<u8>,
    /// The last key of a range, inclusive.
    pub end: Option<Vec<u8>>,
    /// The value.
    pub value: Option<Value>,
    /// A note of up to 120 bytes that `nft list` shows.
    pub comment: String,
}

/// Puts fields side by side, each padded to a whole register.
#[derive(Debug, Clone, Default)]
pub struct Fields(Vec<u8>);

impl Fields {
    /// No field yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn push(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A transport protocol's number.
    #[must_use]
    pub fn protocol(self, number: u8) -> Self {
        self.push(&[number])
    }

    /// An address.
    #[must_use]
    pub fn address(self, address: IpAddr) -> Self {
        self.push(&octets(address))
    }

    /// A port.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        self.push(&port.to_be_bytes())
    }

    /// A link's name.
    #[must_use]
    pub fn link(self, name: &str) -> Self {
        self.push(&link_name(name))
    }

    /// A link-layer address.
    #[must_use]
    pub fn mac(self, mac: [u8; 6]) -> Self {
        self.push(&mac)
    }

    /// The bytes.
    pub fn bytes(self) -> Vec<u8> {
        self.0
    }
}

impl Element {
    /// An element of a set.
    pub fn key(key: Fields) -> Self {
        Self {
            key: key.bytes(),
            ..Self::default()
        }
    }

    /// An element of a map.
    pub fn pair(key: Fields, value: Fields) -> Self {
        Self {
            key: key.bytes(),
            value: Some(Value::Bytes(value.bytes())),
            ..Self::default()
        }
    }

    /// A whole subnet, for a set of ranges of addresses.
    pub fn subnet(net: IpNet) -> Self {
        Self {
            key: octets(net.network()),
            end: Some(octets(net.broadcast())),
            ..Self::default()
        }
    }
}

fn type_of(fields: &[Field]) -> u32 {
    fields
        .iter()
        .fold(0, |number, field| number << 6 | field.number())
}

fn length_of(fields: &[Field]) -> u32 {
    fields.iter().map(|field| field.length()).sum()
}

impl Set {
    /// The attributes of `NFT_MSG_NEWSET` behind the table.
    pub(super) fn write(&self, message: Message) -> Message {
        let is_concatenation = self.key.len() > 1;
        // NFT_SET_INTERVAL 4, NFT_SET_MAP 8, NFT_SET_CONCAT 128.
        let mut flags = if self.values == Values::None { 0 } else { 8 };
        if self.ranges {
            flags |= if is_concatenation { 4 | 128 } else { 4 };
        }
        let mut message = message.text(2, self.name).number_be(3, flags);
        message = message
            .number_be(4, type_of(self.key))
            .number_be(5, length_of(self.key));
        message = match self.values {
            Values::None => message,
            Values::Fields(fields) => message
                .number_be(6, type_of(fields))
                .number_be(7, length_of(fields)),
            // NFT_DATA_VERDICT, and a length that the kernel does not look at.
            Values::Verdicts => message.number_be(6, 0xffff_ff00),
        };
        message = message.number_be(10, self.id);
        if self.ranges && is_concatenation {
            let field = |m: Message, field: &Field| m.nest(1, |m| m.number_be(1, field.length()));
            message = message.nest(9, |m| m.nest(2, |m| self.key.iter().fold(m, field)));
        }
        message.bytes(13, &self.notes())
    }

    /// What `nft` writes to itself about the set: byte orders, and that a type is a concatenation.
    fn notes(&self) -> Vec<u8> {
        let order = |fields: &[Field]| match fields {
            [field] => field.byte_order(),
            _ => 0,
        };
        let mut notes = Vec::new();
        let mut note = |kind: u8, value: &[u8]| {
            notes.push(kind);
            notes.push(u8::try_from(value.len()).expect("notes are short"));
            notes.extend_from_slice(value);
        };
        let concatenation = [0, 4, 13, 0, 0, 0, 1, 0];
        note(0, &order(self.key).to_ne_bytes());
        if let Values::Fields(fields) = self.values {
            note(1, &order(fields).to_ne_bytes());
        }
        if self.key.len() > 1 {
            note(3, &concatenation);
        }
        if let Values::Fields(fields) = self.values {
            if fields.len() > 1 {
                note(4, &concatenation);
            }
            note(6, &0u32.to_ne_bytes());
        }
        notes
    }

    /// The attributes of `NFT_MSG_NEWSETELEM` or `NFT_MSG_DELSETELEM` behind the table.
    pub(super) fn write_elements(&self, message: Message, elements: &[Element]) -> Message {
        let message = message.text(2, self.name).number_be(4, self.id);
        message.nest(3, |m| {
            elements
                .iter()
                .fold(m, |m, element| self.write_element(m, element))
        })
    }

    fn write_element(&self, message: Message, element: &Element) -> Message {
        let is_plain_range = self.ranges && self.key.len() == 1;
        let message = message.nest(1, |m| {
            let m = m.nest(1, |m| m.bytes(1, &element.key));
            let m = match &element.end {
                Some(end) if !is_plain_range => m.nest(10, |m| m.bytes(1, end)),
                _ => m,
            };
            let m = match &element.value {
                None => m,
                Some(Value::Bytes(bytes)) => m.nest(2, |m| m.bytes(1, bytes)),
                Some(Value::Verdict(verdict)) => m.nest(2, |m| m.nest(2, |m| verdict.write(m))),
            };
            if element.comment.is_empty() {
                m
            } else {
                m.bytes(6, &comment(&element.comment))
            }
        });
        // A plain range ends with an element of its own, one behind the last key; the range up to the
        // very last key has no such end.
        match element
            .end
            .as_ref()
            .filter(|_| is_plain_range)
            .and_then(|end| after(end))
        {
            Some(next) => message.nest(1, |m| m.number_be(3, 1).nest(1, |m| m.bytes(1, &next))),
            None => message,
        }
    }
}

pub(super) fn comment(text: &str) -> Vec<u8> {
    let text: String = text.chars().filter(char::is_ascii).take(120).collect();
    let mut bytes = vec![0, u8::try_from(text.len() + 1).expect("at most 121")];
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
    bytes
}

/// The key behind a key, as numbers in network order count.
fn after(key: &[u8]) -> Option<Vec<u8>> {
    let mut next = key.to_vec();
    for byte in next.iter_mut().rev() {
        let (more, carry) = byte.overflowing_add(1);
        *byte = more;
        if !carry {
            return Some(next);
        }
    }
    None
}

/// Reads the elements of a dump's message.
pub(super) fn parse_elements(attributes: Attributes<'_>) -> Vec<Element> {
    let list = attributes.nest(3);
    list.iter()
        .filter_map(|(_, bytes)| {
            let element = Attributes::new(bytes);
            let is_end = element.number_be(3).is_some_and(|flags| flags & 1 != 0);
            let value = element.nest(2).get(1).map(|bytes| Value::Bytes(bytes.to_vec()));
            let note = element.get(6).unwrap_or_default();
            (!is_end).then_some(Element {
                key: element.nest(1).get(1)?.to_vec(),
                end: element.nest(10).get(1).map(<[u8]>::to_vec),
                value,
                comment: String::from_utf8_lossy(note.get(2..).unwrap_or_default())
                    .trim_end_matches('\0')
                    .to_owned(),
            })
        })
        .collect()
}
