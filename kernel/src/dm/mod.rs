//! The device mapper: devices made of stretches of others, by calls on `/dev/mapper/control`.
//!
//! A device has room for two tables: [`Mapper::load`] fills the second, and [`Mapper::resume`] puts it in
//! the place of the first. Devices appear as `/dev/dm-MINOR`; no other node is made, and udev's rules are
//! told to keep their hands off.

mod status;
mod table;
mod wire;

use std::fmt;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;

pub use status::{PoolMode, PoolState, PoolStatus, ThinStatus};
pub use table::{BlockSize, Blocks, Bytes, Device, PoolFeatures, PoolMessage, Sectors, Target, ThinId};

use crate::error::{Context, Error, Result};
use crate::fault;
use wire::{Call, HEADER, NAME_LENGTH, UUID_LENGTH};

const CONTROL: &str = "/dev/mapper/control";

/// The numbers of `linux/dm-ioctl.h`.
#[derive(Debug, Clone, Copy)]
enum Verb {
    Version = 0,
    ListDevices = 2,
    Create = 3,
    Remove = 4,
    Suspend = 6,
    Status = 7,
    Wait = 8,
    Load = 9,
    TableStatus = 12,
    ListVersions = 13,
    Message = 14,
    ArmPoll = 16,
}

impl Verb {
    /// `_IOWR(0xfd, NUMBER, struct dm_ioctl)`.
    fn request(self) -> u32 {
        (3 << 30) | (312 << 16) | (0xfd << 8) | self as u32
    }
}

const SUSPENDED: u32 = 1 << 1;
const TABLE: u32 = 1 << 4;
const ACTIVE: u32 = 1 << 5;
const INACTIVE: u32 = 1 << 6;
const BUFFER_FULL: u32 = 1 << 8;
const NO_LOCK: u32 = 1 << 10;
const NO_FLUSH: u32 = 1 << 11;
const DATA_OUT: u32 = 1 << 16;
const DEFERRED: u32 = 1 << 17;

/// For udev: no scan, no links, no rules of others. Otherwise they hold a device that is to go.
const HANDS_OFF: u32 = 0x000e << 16;

/// Room for an answer at first, and at most.
const ROOM: usize = 16 << 10;
const MOST_ROOM: usize = 16 << 20;

/// The name of a device: 1 to 127 of the characters that need no escape, and no dots alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// The name, or none if it is no good one.
    pub fn new(name: &str) -> Option<Self> {
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"#+-.:=@_".contains(&byte);
        let good = !name.is_empty() && name.len() < NAME_LENGTH && name.bytes().all(fine);
        (good && name != "." && name != "..").then(|| Self(name.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the kernel says about a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the kernel's")]
pub struct Info {
    /// Its numbers.
    pub device: Device,
    /// How often it is open or mounted.
    pub opens: u32,
    /// The number of its last event.
    pub events: u32,
    /// Whether it holds back reads and writes.
    pub suspended: bool,
    /// Whether it has a table that is in use.
    pub active: bool,
    /// Whether a table waits for the next resume.
    pub loaded: bool,
    /// Whether it goes when nobody has it open any more.
    pub leaving: bool,
}

impl Info {
    /// Its node, which the kernel makes.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/dev/dm-{}", self.device.minor))
    }

    fn of(call: &Call) -> Self {
        let has = |flag| call.flags() & flag != 0;
        Self {
            device: decode(call.device()),
            opens: call.opens(),
            events: call.events(),
            suspended: has(SUSPENDED),
            active: has(ACTIVE),
            loaded: has(INACTIVE),
            leaving: has(DEFERRED),
        }
    }
}

/// Numbers of a device as the kernel packs them: 8 bits of the minor, 12 of the major, 12 of the minor.
fn decode(packed: u64) -> Device {
    let part = |number: u64| u32::try_from(number).expect("20 bits at most");
    Device {
        major: part((packed >> 8) & 0xfff),
        minor: part((packed & 0xff) | ((packed >> 12) & 0x000f_ff00)),
    }
}

/// One stretch of a device as the kernel tells it: its status or its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Where it begins.
    pub start: Sectors,
    /// How long it is.
    pub length: Sectors,
    /// The type of the target.
    pub kind: String,
    /// What it says; [`PoolStatus::parse`] and [`ThinStatus::parse`] read the status of theirs.
    pub text: String,
}

/// How to stop a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// Bring the filesystem on it to rest, and wait for what was written.
    Flush,
    /// Leave the filesystem alone and keep what is under way for later.
    AtOnce,
}

/// When a device goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Now; EBUSY if somebody has it open.
    Now,
    /// Now, or when the last one has closed it.
    Deferred,
}

/// How a removal ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// The device is gone.
    Gone,
    /// It goes at the last close.
    AtLastClose,
}

/// The open device mapper.
#[derive(Debug)]
pub struct Mapper {
    control: File,
}

impl Mapper {
    /// Opens it. ENOENT or ENODEV if this kernel has none, see [`Error::is_missing`].
    pub fn open() -> Result<Self> {
        let mut options = File::options();
        let control = options
            .read(true)
            .write(true)
            .open(CONTROL)
            .context("open", CONTROL)?;
        Ok(Self { control })
    }

    /// The version of the interface: major, minor, patch.
    pub fn version(&self) -> Result<[u32; 3]> {
        Ok(self
            .call("ask version of", CONTROL, Verb::Version, &Call::new("", 0))?
            .version())
    }

    /// The types of target that this kernel has at the moment, with their versions. A module that is not
    /// loaded yet is not among them.
    pub fn targets(&self) -> Result<Vec<(String, [u32; 3])>> {
        let call = self.call("list targets of", CONTROL, Verb::ListVersions, &Call::new("", 0))?;
        let number =
            |record: &[u8], at: usize| u32::from_ne_bytes(record[at..at + 4].try_into().expect("four bytes"));
        let records = call.list(16, 0).into_iter();
        Ok(records
            .map(|(record, name)| (name, [4, 8, 12].map(|at| number(&record, at))))
            .collect())
    }

    /// All devices of this kernel, also those of others.
    pub fn devices(&self) -> Result<Vec<(String, Device)>> {
        let call = self.call("list devices of", CONTROL, Verb::ListDevices, &Call::new("", 0))?;
        let records = call.list(12, 8).into_iter();
        Ok(records
            .map(|(record, name)| (name, decode(wire::number(&record, 0))))
            .collect())
    }

    /// Makes a device without a table. `uuid` is a second name, up to 128 bytes, that nobody else has.
    /// EBUSY if one of the names is taken.
    pub fn create(&self, name: &Name, uuid: Option<&str>) -> Result<Info> {
        let uuid = uuid.unwrap_or_default();
        if uuid.len() >= UUID_LENGTH || uuid.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return Err(Error::other(
                "create device",
                name.as_str(),
                "its uuid is no good one",
            ));
        }
        fault::point("create device", name.as_str())?;
        let call = Call::new(name.as_str(), 0).uuid(uuid);
        self.call("create device", name.as_str(), Verb::Create, &call)
            .map(|call| Info::of(&call))
    }

    /// Loads a table for the next resume: stretches in their order, each with its length.
    pub fn load(&self, name: &Name, table: &[(Sectors, Target)]) -> Result<Info> {
        let mut call = Call::new(name.as_str(), 0);
        let mut start = 0_u64;
        for (length, target) in table {
            call = call.target(start, length.0, target.kind(), &target.parameters());
            start = start
                .checked_add(length.0)
                .ok_or_else(|| Error::other("load table of", name.as_str(), "it is too long"))?;
        }
        fault::point("load table of", name.as_str())?;
        self.call("load table of", name.as_str(), Verb::Load, &call)
            .map(|call| Info::of(&call))
    }

    /// Puts a loaded table in its place, if there is one, and lets reads and writes go.
    pub fn resume(&self, name: &Name) -> Result<Info> {
        fault::point("resume", name.as_str())?;
        let call = Call::new(name.as_str(), 0).event(HANDS_OFF);
        self.call("resume", name.as_str(), Verb::Suspend, &call)
            .map(|call| Info::of(&call))
    }

    /// Holds back reads and writes until the next resume.
    pub fn suspend(&self, name: &Name, pause: Pause) -> Result<Info> {
        fault::point("suspend", name.as_str())?;
        let flags = match pause {
            Pause::Flush => SUSPENDED,
            Pause::AtOnce => SUSPENDED | NO_LOCK | NO_FLUSH,
        };
        let call = Call::new(name.as_str(), flags);
        self.call("suspend", name.as_str(), Verb::Suspend, &call)
            .map(|call| Info::of(&call))
    }

    /// Tells the pool `name` something.
    pub fn message(&self, name: &Name, message: PoolMessage) -> Result<()> {
        fault::point("send message to", name.as_str())?;
        let call = Call::new(name.as_str(), 0).message(0, &message.to_string());
        let call = self.call("send message to", name.as_str(), Verb::Message, &call)?;
        debug_assert_eq!(call.flags() & DATA_OUT, 0, "no message of ours has an answer");
        Ok(())
    }

    /// What the kernel says about a device; ENXIO if there is none.
    pub fn info(&self, name: &Name) -> Result<Info> {
        let call = Call::new(name.as_str(), 0);
        self.call("look at device", name.as_str(), Verb::Status, &call)
            .map(|call| Info::of(&call))
    }

    /// How the stretches of a device are.
    pub fn status(&self, name: &Name) -> Result<Vec<Line>> {
        self.lines("read status of", name, 0)
    }

    /// The table that is in use, in the kernel's words.
    pub fn table(&self, name: &Name) -> Result<Vec<Line>> {
        self.lines("read table of", name, TABLE)
    }

    fn lines(&self, operation: &'static str, name: &Name, flags: u32) -> Result<Vec<Line>> {
        let call = Call::new(name.as_str(), flags);
        let call = self.call(operation, name.as_str(), Verb::TableStatus, &call)?;
        let lines = call.lines().into_iter();
        Ok(lines
            .map(|(start, length, kind, text)| Line {
                start: Sectors(start),
                length: Sectors(length),
                kind,
                text,
            })
            .collect())
    }

    /// Removes a device; ENXIO if there is none.
    pub fn remove(&self, name: &Name, removal: Removal) -> Result<Removed> {
        fault::point("remove device", name.as_str())?;
        let flags = match removal {
            Removal::Now => 0,
            Removal::Deferred => DEFERRED,
        };
        let call = Call::new(name.as_str(), flags).event(HANDS_OFF);
        let call = self.call("remove device", name.as_str(), Verb::Remove, &call)?;
        Ok(match call.flags() & DEFERRED {
            0 => Removed::Gone,
            _ => Removed::AtLastClose,
        })
    }

    /// Waits until the device has had an event after number `seen`, as long as it takes. EINTR if a signal
    /// comes, ENXIO if there is no such device.
    pub fn wait(&self, name: &Name, seen: u32) -> Result<Info> {
        let call = Call::new(name.as_str(), 0).event(seen);
        self.call("wait for event of", name.as_str(), Verb::Wait, &call)
            .map(|call| Info::of(&call))
    }

    /// Makes [`Mapper::ready`] wait for the next event of any device.
    pub fn arm(&self) -> Result<()> {
        self.call("arm", CONTROL, Verb::ArmPoll, &Call::new("", 0))
            .map(drop)
    }

    /// Waits until an event has come since [`Mapper::arm`]; `false` if none came in `patience`. A value that
    /// was never armed counts from its opening. EINTR if a signal comes.
    pub fn ready(&self, patience: Duration) -> Result<bool> {
        let mut poll = libc::pollfd {
            fd: self.control.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let patience = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one entry, which lives through the call, and a descriptor that we own.
        match unsafe { libc::poll(&raw mut poll, 1, patience) } {
            0 => Ok(false),
            count if count > 0 => Ok(true),
            _ => Err(std::io::Error::last_os_error()).context("poll", CONTROL),
        }
    }

    /// Calls the kernel, with more room as long as the answer does not fit.
    fn call(&self, operation: &'static str, subject: &str, verb: Verb, call: &Call) -> Result<Call> {
        let mut room = ROOM;
        loop {
            let mut answer = call.clone().roomy(room);
            self.ioctl(verb, &mut answer)
                .map_err(|source| Error::new(operation, subject, source))?;
            if answer.flags() & BUFFER_FULL == 0 {
                return Ok(answer);
            }
            room *= 4;
            if room > MOST_ROOM {
                return Err(Error::other(operation, subject, "the answer is too long"));
            }
        }
    }

    fn ioctl(&self, verb: Verb, call: &mut Call) -> std::io::Result<()> {
        assert!(call.bytes.len() > HEADER, "a call has its header and room");
        // The type of a request differs between C libraries; its 32 bits do not.
        #[allow(
            clippy::cast_possible_wrap,
            clippy::cast_lossless,
            reason = "only the bits count"
        )]
        let request = verb.request() as libc::Ioctl;
        // SAFETY: the kernel reads and writes at most `data_size` bytes from the start of the buffer, which
        // `roomy` has set to the buffer's length, and needs no alignment.
        let outcome = unsafe { libc::ioctl(self.control.as_raw_fd(), request, call.bytes.as_mut_ptr()) };
        if outcome < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(())
    }
}

impl std::os::fd::AsFd for Mapper {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.control.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_needs_no_escape() {
        for good in ["a", "longshore-pool_1.2:3", "a..b", &"x".repeat(127)] {
            assert!(Name::new(good).is_some(), "{good}");
        }
        for wrong in ["", ".", "..", "a/b", "a b", "a\0", "ä", "a\\", &"x".repeat(128)] {
            assert!(Name::new(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn requests_are_those_of_the_header() {
        // What a C program prints that includes it.
        assert_eq!(Verb::Version.request(), 0xc138_fd00);
        assert_eq!(Verb::ListDevices.request(), 0xc138_fd02);
        assert_eq!(Verb::Message.request(), 0xc138_fd0e);
        assert_eq!(Verb::ArmPoll.request(), 0xc138_fd10);
    }

    #[test]
    fn numbers_of_devices_are_unpacked() {
        let device = |major, minor| Device { major, minor };
        assert_eq!(decode(0xfd03), device(253, 3));
        // Minor 0x12345: its low byte stays, the rest goes above the major.
        assert_eq!(decode((0x123 << 20) | (0xfd << 8) | 0x45), device(253, 0x12345));
    }
}
