//! Links: bridges, veth pairs, and what can be set on any link.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::{Attributes, Message, Request, Socket};
use crate::error::{Error, Result};

/// Longest name of a link, in bytes.
pub const LONGEST_NAME: usize = 15;

/// Length of `struct ifinfomsg`.
const FIXED: usize = 16;
/// `VETH_INFO_PEER`.
const PEER: u16 = 1;
/// `IFLA_BRPORT_MODE` and `IFLA_BRPORT_ISOLATED`.
const PORT_HAIRPIN: u16 = 4;
const PORT_ISOLATED: u16 = 33;
/// `RTEXT_FILTER_SKIP_STATS`: counters are half of the answer's bytes, and nobody here reads them.
const WITHOUT_STATISTICS: u32 = 8;

/// Which link of the socket's namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At<'a> {
    /// By index.
    Index(u32),
    /// By name.
    Name(&'a str),
}

impl At<'_> {
    fn subject(self) -> String {
        match self {
            Self::Index(index) => format!("link {index}"),
            Self::Name(name) => name.to_owned(),
        }
    }

    /// The message's fixed part and, for a name, its attribute.
    fn message(self, kind: u16, flags: i32, change: (u32, u32)) -> Message {
        match self {
            Self::Index(index) => Message::new(kind, flags, &fixed(index, change)),
            Self::Name(name) => Message::new(kind, flags, &fixed(0, change)).text(libc::IFLA_IFNAME, name),
        }
    }
}

/// `struct ifinfomsg` with an index, and flags with the mask of those to change.
fn fixed(index: u32, (flags, mask): (u32, u32)) -> [u8; FIXED] {
    let mut bytes = [0; FIXED];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&mask.to_ne_bytes());
    bytes
}

const NONE: (u32, u32) = (0, 0);
const UP: (u32, u32) = (1, 1);
const DOWN: (u32, u32) = (0, 1);
const CREATE: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;

/// A bridge to be made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bridge {
    /// Its address; without one the kernel takes the lowest of its ports and changes it with them.
    pub mac: Option<[u8; 6]>,
    /// Its MTU.
    pub mtu: Option<u32>,
    /// A note of up to 255 bytes that stays with the link.
    pub alias: Option<String>,
    /// Group, see [`delete_group`].
    pub group: Option<u32>,
}

/// A veth pair to be made: the outer end here, the inner end here or in another namespace.
#[derive(Debug, Clone, Default)]
pub struct Veth<'a> {
    /// Name of the outer end.
    pub outer: &'a str,
    /// Name of the inner end.
    pub inner: &'a str,
    /// Address of the inner end.
    pub mac: Option<[u8; 6]>,
    /// MTU of both ends.
    pub mtu: Option<u32>,
    /// Bridge that the outer end becomes a port of, by index.
    pub master: Option<u32>,
    /// A note on the outer end.
    pub alias: Option<&'a str>,
    /// Group of the outer end.
    pub group: Option<u32>,
    /// Whether the outer end is up at once.
    pub up: bool,
    /// Namespace in which the inner end is born.
    pub inner_namespace: Option<BorrowedFd<'a>>,
}

/// What the kernel tells of a link.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// Its index, unique in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Index of its master.
    pub master: Option<u32>,
    /// Index of its peer or lower device; in another namespace if `peer_elsewhere`.
    pub peer: Option<u32>,
    /// Whether `peer` is an index of another namespace.
    pub peer_elsewhere: bool,
    /// Its link-layer address, where it is of six bytes.
    pub mac: Option<[u8; 6]>,
    /// Its MTU.
    pub mtu: u32,
    /// The note on it; empty without one.
    pub alias: String,
    /// `bridge`, `veth`, …; empty for hardware.
    pub kind: String,
    /// `IFF_*`.
    pub flags: u32,
    /// Its group.
    pub group: u32,
}

impl Link {
    /// Whether it is administratively up.
    pub fn is_up(&self) -> bool {
        self.flags & UP.0 != 0
    }

    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_ne_bytes(body.get(at..at + 4)?.try_into().ok()?));
        let attributes = Attributes::new(body.get(FIXED..)?);
        Some(Self {
            index: word(4)?,
            flags: word(8)?,
            name: attributes.text(libc::IFLA_IFNAME)?,
            master: attributes.number(libc::IFLA_MASTER),
            peer: attributes.number(libc::IFLA_LINK).filter(|peer| *peer != 0),
            peer_elsewhere: attributes.get(libc::IFLA_LINK_NETNSID).is_some(),
            mac: attributes
                .get(libc::IFLA_ADDRESS)
                .and_then(|mac| mac.try_into().ok()),
            mtu: attributes.number(libc::IFLA_MTU).unwrap_or_default(),
            alias: attributes.text(libc::IFLA_IFALIAS).unwrap_or_default(),
            kind: attributes
                .nest(libc::IFLA_LINKINFO)
                .text(libc::IFLA_INFO_KIND)
                .unwrap_or_default(),
            group: attributes.number(libc::IFLA_GROUP).unwrap_or_default(),
        })
    }
}

fn maybe<T>(message: Message, value: Option<T>, add: impl FnOnce(Message, T) -> Message) -> Message {
    match value {
        Some(value) => add(message, value),
        None => message,
    }
}

/// Makes a bridge; EEXIST if the name is taken.
///
/// Two requests where there is an alias: the kernel takes none along when it makes a link.
pub fn create_bridge(name: &str, bridge: &Bridge) -> Vec<Request> {
    let message = At::Name(name).message(libc::RTM_NEWLINK, CREATE, NONE);
    let message = maybe(message, bridge.mac, |m, mac| m.bytes(libc::IFLA_ADDRESS, &mac));
    let message = maybe(message, bridge.mtu, |m, mtu| m.number(libc::IFLA_MTU, mtu));
    let message = maybe(message, bridge.group, |m, group| {
        m.number(libc::IFLA_GROUP, group)
    });
    let message = message.nest(libc::IFLA_LINKINFO, |m| m.text(libc::IFLA_INFO_KIND, "bridge"));
    let mut requests = vec![Request::new("create bridge", name, message)];
    requests.extend(
        bridge
            .alias
            .as_ref()
            .map(|alias| set_alias(At::Name(name), alias)),
    );
    requests
}

/// Makes a veth pair: the outer end a port of its bridge and up in the same message. The inner end
/// stays down, since a peer that is told to be up fails the whole message. EEXIST if a name is taken.
///
/// Two requests where there is an alias: the kernel takes none along when it makes a link.
pub fn create_veth(veth: &Veth<'_>) -> Vec<Request> {
    let change = if veth.up { UP } else { NONE };
    let message = At::Name(veth.outer).message(libc::RTM_NEWLINK, CREATE, change);
    let message = maybe(message, veth.mtu, |m, mtu| m.number(libc::IFLA_MTU, mtu));
    let message = maybe(message, veth.master, |m, master| {
        m.number(libc::IFLA_MASTER, master)
    });
    let message = maybe(message, veth.group, |m, group| m.number(libc::IFLA_GROUP, group));
    let peer = |m: Message| {
        let m = m.raw(&fixed(0, NONE)).text(libc::IFLA_IFNAME, veth.inner);
        let m = maybe(m, veth.mac, |m, mac| m.bytes(libc::IFLA_ADDRESS, &mac));
        // Without its own MTU the inner end stays at 1500.
        let m = maybe(m, veth.mtu, |m, mtu| m.number(libc::IFLA_MTU, mtu));
        maybe(m, veth.inner_namespace, |m, fd| {
            m.bytes(libc::IFLA_NET_NS_FD, &fd.as_raw_fd().to_ne_bytes())
        })
    };
    let message = message.nest(libc::IFLA_LINKINFO, |m| {
        m.text(libc::IFLA_INFO_KIND, "veth")
            .nest(libc::IFLA_INFO_DATA, |m| m.nest(PEER, peer))
    });
    let mut requests = vec![Request::new("create veth", veth.outer, message)];
    requests.extend(veth.alias.map(|alias| set_alias(At::Name(veth.outer), alias)));
    requests
}

/// Removes a link (with its peer, for a veth): 16 to 20 ms in the kernel.
pub fn delete(at: At<'_>) -> Request {
    Request::new(
        "delete link",
        at.subject(),
        at.message(libc::RTM_DELLINK, 0, NONE),
    )
}

/// Removes every link of a group at once: 0.3 ms each. ENODEV if there is none.
pub fn delete_group(group: u32) -> Request {
    let message = Message::new(libc::RTM_DELLINK, 0, &fixed(0, NONE)).number(libc::IFLA_GROUP, group);
    Request::new("delete links of group", format!("{group:#x}"), message)
}

fn set(operation: &'static str, at: At<'_>, change: (u32, u32)) -> Request {
    Request::new(operation, at.subject(), at.message(libc::RTM_SETLINK, 0, change))
}

fn with(mut request: Request, change: impl FnOnce(Message) -> Message) -> Request {
    request.message = change(request.message);
    request
}

/// Sets a link administratively up.
pub fn set_up(at: At<'_>) -> Request {
    set("set up", at, UP)
}

/// Sets a link administratively down.
pub fn set_down(at: At<'_>) -> Request {
    set("set down", at, DOWN)
}

/// Makes a link a port of a bridge, or of none.
pub fn set_master(at: At<'_>, master: Option<u32>) -> Request {
    with(set("set master of", at, NONE), |m| {
        m.number(libc::IFLA_MASTER, master.unwrap_or(0))
    })
}

/// Gives a link another name. By index, since the message's name is the new one; a link that is up
/// keeps running where the kernel allows it (6.2 and later), else EBUSY.
pub fn rename(index: u32, name: &str) -> Request {
    let request = set("rename", At::Index(index), NONE);
    let mut request = with(request, |m| m.text(libc::IFLA_IFNAME, name));
    request.subject = format!("link {index} to {name}");
    request
}

/// Sets the link-layer address.
pub fn set_mac(at: At<'_>, mac: [u8; 6]) -> Request {
    with(set("set MAC address of", at, NONE), |m| {
        m.bytes(libc::IFLA_ADDRESS, &mac)
    })
}

/// Sets the MTU.
pub fn set_mtu(at: At<'_>, mtu: u32) -> Request {
    with(set("set MTU of", at, NONE), |m| m.number(libc::IFLA_MTU, mtu))
}

/// Sets the note on a link.
pub fn set_alias(at: At<'_>, alias: &str) -> Request {
    with(set("set alias of", at, NONE), |m| {
        m.bytes(libc::IFLA_IFALIAS, alias.as_bytes())
    })
}

/// Puts a link into a group.
pub fn set_group(at: At<'_>, group: u32) -> Request {
    with(set("set group of", at, NONE), |m| {
        m.number(libc::IFLA_GROUP, group)
    })
}

/// Moves a link into a namespace: about 15 ms in the kernel. It arrives down and without addresses.
pub fn move_to(at: At<'_>, namespace: BorrowedFd<'_>) -> Request {
    with(set("move", at, NONE), |m| {
        m.bytes(libc::IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes())
    })
}

/// Sets a link administratively down and puts it into a group, in one message.
pub fn fence(at: At<'_>, group: u32) -> Request {
    with(set("fence", at, DOWN), |m| m.number(libc::IFLA_GROUP, group))
}

/// Sets flags of a bridge's port: isolated ports do not reach each other; a hairpin port gets its own
/// frames back.
pub fn set_port(at: At<'_>, isolated: bool, hairpin: bool) -> Request {
    let message = at.message(libc::RTM_NEWLINK, 0, NONE);
    let message = message.nest(libc::IFLA_LINKINFO, |m| {
        m.text(libc::IFLA_INFO_SLAVE_KIND, "bridge")
            .nest(libc::IFLA_INFO_SLAVE_DATA, |m| {
                m.bytes(PORT_HAIRPIN, &[u8::from(hairpin)])
                    .bytes(PORT_ISOLATED, &[u8::from(isolated)])
            })
    });
    Request::new("set port flags of", at.subject(), message)
}

impl Socket {
    /// Every link of the namespace.
    pub fn links(&self) -> Result<Vec<Link>> {
        let message = Message::new(libc::RTM_GETLINK, 0, &fixed(0, NONE));
        let message = message.number(libc::IFLA_EXT_MASK, WITHOUT_STATISTICS);
        self.dump(&Request::new("list", "links", message), |kind, body| {
            (kind == libc::RTM_NEWLINK).then(|| Link::parse(body)).flatten()
        })
    }

    /// The link of a name, if there is one.
    pub fn link(&self, name: &str) -> Result<Option<Link>> {
        if name.is_empty() || name.len() > LONGEST_NAME {
            return Err(Error::other(
                "look up link",
                name,
                "a link's name has 1 to 15 bytes",
            ));
        }
        let message = At::Name(name).message(libc::RTM_GETLINK, 0, NONE);
        let message = message.number(libc::IFLA_EXT_MASK, WITHOUT_STATISTICS);
        let request = Request::new("look up link", name, message);
        match self.ask(&request, Link::parse) {
            Err(error) if error.is_missing() => Ok(None),
            other => other.map(Some),
        }
    }

    /// The index of a link that must exist.
    pub fn index_of(&self, name: &str) -> Result<u32> {
        let missing = || {
            Error::new(
                "look up link",
                name,
                std::io::Error::from_raw_os_error(libc::ENODEV),
            )
        };
        Ok(self.link(name)?.ok_or_else(missing)?.index)
    }
}
