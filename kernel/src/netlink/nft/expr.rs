//! Expressions of rules: what `nft` compiles its words to.

use super::set::Set;
use crate::netlink::Message;

/// The first of the registers that hold 16 bytes.
pub const REG_1: u32 = 1;
/// The second of the registers that hold 16 bytes.
pub const REG_2: u32 = 2;
/// The nth of the registers that hold 4 bytes; four of them are one of 16.
pub const fn reg32(nth: u32) -> u32 {
    8 + nth
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Let it pass this hook's chain.
    Accept,
    /// Drop it.
    Drop,
    /// Go on in another chain and come back.
    Jump(String),
    /// Back to the caller.
    Return,
}

impl Verdict {
    /// The attributes within `NFTA_DATA_VERDICT`.
    pub(super) fn write(&self, message: Message) -> Message {
        let code: i32 = match self {
            Self::Drop => 0,
            Self::Accept => 1,
            Self::Jump(_) => -3,
            Self::Return => -5,
        };
        let message = message.bytes(1, &code.to_be_bytes());
        match self {
            Self::Jump(chain) => message.text(2, chain),
            _ => message,
        }
    }
}

/// A fact about a packet that is not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meta {
    /// Name of the link it came by, 16 bytes.
    InName,
    /// Name of the link it leaves by, 16 bytes.
    OutName,
    /// 2 for IPv4, 10 for IPv6: 1 byte.
    Family,
    /// The transport protocol, 1 byte.
    Protocol,
    /// The packet's mark, 4 bytes of the machine's order.
    Mark,
}

impl Meta {
    fn number(self) -> u32 {
        match self {
            Self::InName => 6,
            Self::OutName => 7,
            Self::Family => 15,
            Self::Protocol => 16,
            Self::Mark => 3,
        }
    }
}

/// What connection tracking knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ct {
    /// Bits of the connection's state: [`ESTABLISHED`], [`RELATED`].
    State,
    /// Bits of its status: [`DESTINATION_CHANGED`].
    Status,
}

/// A bit of [`Ct::State`].
pub const ESTABLISHED: u32 = 2;
/// A bit of [`Ct::State`].
pub const RELATED: u32 = 4;
/// A bit of [`Ct::Status`]: the destination was translated.
pub const DESTINATION_CHANGED: u32 = 32;

/// Which header a payload's offset counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// Ethernet: addresses at 0 and 6, the type at 12.
    Link,
    /// IP.
    Network,
    /// TCP, UDP, SCTP: the destination port is at 2.
    Transport,
}

/// One step of a rule. A comparison or look-up that fails ends the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// Loads a fact into a register.
    Meta(Meta, u32),
    /// Loads what connection tracking knows into a register.
    Ct(Ct, u32),
    /// Loads bytes of the packet: base, offset, length, register.
    Payload(Base, u32, u32, u32),
    /// Loads the destination's address type (2 is local) into a register.
    DestinationType(u32),
    /// Masks a register's four bytes in place.
    Mask(u32, [u8; 4]),
    /// Sets bits of a register's four bytes in place.
    SetBits(u32, [u8; 4]),
    /// Makes a fact about the packet what a register holds.
    SetMeta(Meta, u32),
    /// Goes on if the register equals.
    Equal(u32, Vec<u8>),
    /// Goes on if the register differs.
    Differ(u32, Vec<u8>),
    /// Goes on if the key in the register is in the set.
    In(u32, Set),
    /// Goes on if the key in the register is not in the set.
    NotIn(u32, Set),
    /// Goes on if the key in the register is in the map, whose value goes to another register.
    Find(u32, Set, u32),
    /// Takes the verdict that the map has for the key in the register.
    Decide(u32, Set),
    /// Translates the destination: family (2 or 10), register of the address, register of the port.
    Dnat(u32, u32, u32),
    /// Translates the source: family (2 or 10), register of the address.
    Snat(u32, u32),
    /// Translates the source to the address of the link it leaves by.
    Masquerade,
    /// Counts packets and bytes that come here.
    Counter,
    /// Ends the rule with a verdict.
    Verdict(Verdict),
}

impl Expr {
    /// One element of `NFTA_RULE_EXPRESSIONS`.
    pub(super) fn write(&self, message: Message) -> Message {
        message.nest(1, |m| {
            let m = m.text(1, self.name());
            m.nest(2, |m| self.body(m))
        })
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Meta(..) | Self::SetMeta(..) => "meta",
            Self::Ct(..) => "ct",
            Self::Payload(..) => "payload",
            Self::DestinationType(_) => "fib",
            Self::Mask(..) | Self::SetBits(..) => "bitwise",
            Self::Equal(..) | Self::Differ(..) => "cmp",
            Self::In(..) | Self::NotIn(..) | Self::Find(..) | Self::Decide(..) => "lookup",
            Self::Dnat(..) | Self::Snat(..) => "nat",
            Self::Masquerade => "masq",
            Self::Counter => "counter",
            Self::Verdict(_) => "immediate",
        }
    }

    fn body(&self, m: Message) -> Message {
        match self {
            Self::Meta(meta, to) => m.number_be(2, meta.number()).number_be(1, *to),
            Self::Ct(ct, to) => {
                let key = match ct {
                    Ct::State => 0,
                    Ct::Status => 2,
                };
                m.number_be(2, key).number_be(1, *to)
            }
            Self::Payload(base, offset, length, to) => {
                let base = match base {
                    Base::Link => 0,
                    Base::Network => 1,
                    Base::Transport => 2,
                };
                let m = m.number_be(1, *to).number_be(2, base);
                m.number_be(3, *offset).number_be(4, *length)
            }
            // NFTA_FIB_F_DADDR, NFT_FIB_RESULT_ADDRTYPE.
            Self::DestinationType(to) => m.number_be(3, 2).number_be(2, 3).number_be(1, *to),
            Self::Mask(at, mask) => bitwise(m, *at, mask, &[0; 4]),
            Self::SetBits(at, bits) => bitwise(m, *at, &bits.map(|byte| !byte), bits),
            Self::SetMeta(meta, from) => m.number_be(2, meta.number()).number_be(3, *from),
            Self::Equal(at, value) => compare(m, *at, 0, value),
            Self::Differ(at, value) => compare(m, *at, 1, value),
            Self::In(key, set) => lookup(m, *key, None, set),
            Self::NotIn(key, set) => lookup(m, *key, None, set).number_be(5, 1),
            Self::Find(key, set, to) => lookup(m, *key, Some(*to), set),
            // Register 0 is the verdict.
            Self::Decide(key, set) => lookup(m, *key, Some(0), set),
            Self::Dnat(family, address, port) => {
                let m = m.number_be(1, 1).number_be(2, *family);
                m.number_be(3, *address).number_be(5, *port)
            }
            Self::Snat(family, address) => {
                let m = m.number_be(1, 0).number_be(2, *family);
                m.number_be(3, *address)
            }
            Self::Masquerade | Self::Counter => m,
            Self::Verdict(verdict) => m.number_be(1, 0).nest(2, |m| m.nest(2, |m| verdict.write(m))),
        }
    }
}

fn bitwise(m: Message, register: u32, mask: &[u8], xor: &[u8]) -> Message {
    let m = m.number_be(1, register).number_be(2, register).number_be(3, 4);
    m.nest(4, |m| m.bytes(1, mask)).nest(5, |m| m.bytes(1, xor))
}

fn compare(m: Message, register: u32, operation: u32, value: &[u8]) -> Message {
    let m = m.number_be(1, register).number_be(2, operation);
    m.nest(3, |m| m.bytes(1, value))
}

fn lookup(m: Message, key: u32, to: Option<u32>, set: &Set) -> Message {
    let mut m = m.number_be(2, key);
    if let Some(to) = to {
        m = m.number_be(3, to);
    }
    m.text(1, set.name).number_be(4, set.id)
}

/// The bytes of a link's name as keys and comparisons have it.
pub fn link_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}
