//! Bytes of netlink messages: header, fixed part, attributes; and their reading.

/// Attributes begin at multiples of this.
const ALIGN: usize = 4;
/// Length of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
/// The attribute holds attributes.
const NESTED: u16 = 0x8000;

/// A message under construction. The length is kept right at every step; sequence and acknowledgement
/// flags are the socket's business.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message(Vec<u8>);

impl Message {
    /// A message of a kind (`RTM_*`, or subsystem and `NFT_MSG_*`) with `NLM_F_*` flags and the kind's
    /// fixed part.
    pub fn new(kind: u16, flags: i32, fixed: &[u8]) -> Self {
        let flags = u16::try_from(flags).expect("netlink flags are 16 bits");
        let mut message = Self(vec![0; HEADER]);
        message.0[4..6].copy_from_slice(&kind.to_ne_bytes());
        message.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        message.0.extend_from_slice(fixed);
        message.settle()
    }

    /// Pads to the next boundary and writes the length.
    fn settle(mut self) -> Self {
        self.0.resize(self.0.len().next_multiple_of(ALIGN), 0);
        let length = u32::try_from(self.0.len()).expect("a message is shorter than 4 GiB");
        self.0[0..4].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// An attribute of raw bytes.
    #[must_use]
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        push_attribute(&mut self.0, kind, value);
        self.settle()
    }

    /// An attribute of text, ended by NUL.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// A number in the machine's order, as rtnetlink has them.
    #[must_use]
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// A number in network order, as nf_tables has them.
    #[must_use]
    pub fn number_be(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// An attribute that holds attributes, written by `inner`.
    #[must_use]
    pub fn nest(mut self, kind: u16, inner: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        push_attribute(&mut self.0, kind | NESTED, &[]);
        let mut message = inner(self);
        let length = u16::try_from(message.0.len() - start).expect("an attribute is shorter than 64 KiB");
        message.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        message.settle()
    }

    /// Appends raw bytes within a nest: the fixed part of `VETH_INFO_PEER`.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.settle()
    }

    /// Adds flags and the sequence number; what goes to the kernel.
    pub(crate) fn finish(mut self, extra_flags: i32, sequence: u32) -> Vec<u8> {
        let extra = u16::try_from(extra_flags).expect("netlink flags are 16 bits");
        let flags = u16::from_ne_bytes([self.0[6], self.0[7]]) | extra;
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }

    /// The bytes so far, sequence 0.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn push_attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).expect("an attribute is shorter than 64 KiB");
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
}

/// The attributes of a message or of a nest, one after the other; stops at the first damaged one.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// Attributes in `bytes`, after any fixed part.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The value of the first attribute of a kind.
    pub fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.iter().find(|(k, _)| *k == kind).map(|(_, value)| value)
    }

    /// The attributes within the first nest of a kind; none where there is no such nest.
    #[must_use]
    pub fn nest(self, kind: u16) -> Self {
        Self(self.get(kind).unwrap_or_default())
    }

    /// The number in the machine's order of the first attribute of a kind.
    pub fn number(self, kind: u16) -> Option<u32> {
        Some(u32::from_ne_bytes(self.get(kind)?.try_into().ok()?))
    }

    /// The number in network order of the first attribute of a kind.
    pub fn number_be(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }

    /// The text of the first attribute of a kind, without its NUL.
    pub fn text(self, kind: u16) -> Option<String> {
        let bytes = self.get(kind)?;
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }

    /// Every attribute: kind without its flags, and value.
    pub fn iter(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let length = usize::from(u16::from_ne_bytes(rest.get(0..2)?.try_into().ok()?));
            let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & 0x3fff;
            let value = rest.get(4..length)?;
            rest = rest.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
            Some((kind, value))
        })
    }
}

/// One message of a datagram from the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// Of whom it is, or whose request brought it about; 0 is the kernel.
    pub(crate) port: u32,
    pub(crate) body: &'a [u8],
}

/// Splits a datagram into its messages; what is cut short is left out.
pub(crate) fn split(mut datagram: &[u8]) -> Vec<Received<'_>> {
    let mut all = Vec::new();
    while datagram.len() >= HEADER {
        let word = |at: usize| u32::from_ne_bytes(datagram[at..at + 4].try_into().expect("four bytes"));
        let half = |at: usize| u16::from_ne_bytes(datagram[at..at + 2].try_into().expect("two bytes"));
        let length = word(0) as usize;
        let Some(body) = datagram.get(HEADER..length) else {
            break;
        };
        all.push(Received {
            kind: half(4),
            flags: half(6),
            sequence: word(8),
            port: word(12),
            body,
        });
        datagram = datagram.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_read_again() {
        let message = Message::new(16, 5, &[1, 2, 3, 4]).text(3, "br0").number(4, 7);
        let message = message.nest(18, |m| m.text(1, "veth").nest(2, |m| m.number_be(1, 9)));
        let bytes = message.finish(4, 77);
        let [received] = split(&bytes)[..] else {
            panic!("one message is one message")
        };
        assert_eq!((received.kind, received.flags, received.sequence), (16, 5, 77));
        let attributes = Attributes::new(&received.body[4..]);
        assert_eq!(attributes.text(3).unwrap(), "br0");
        assert_eq!(attributes.number(4), Some(7));
        assert_eq!(attributes.nest(18).text(1).unwrap(), "veth");
        assert_eq!(attributes.nest(18).nest(2).number_be(1), Some(9));
        assert_eq!(attributes.number(99), None);
    }

    #[test]
    fn damaged_bytes_are_read_without_a_panic() {
        let whole = Message::new(16, 0, &[0; 16])
            .nest(18, |m| m.text(1, "veth"))
            .finish(0, 1);
        for cut in 0..whole.len() {
            for message in split(&whole[..cut]) {
                Attributes::new(message.body).iter().for_each(drop);
            }
            let mut bent = whole.clone();
            bent[cut] ^= 0xff;
            for message in split(&bent) {
                Attributes::new(message.body).iter().for_each(drop);
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            for message in split(&bytes) {
                Attributes::new(message.body).iter().for_each(drop);
            }
        }
    }
}
