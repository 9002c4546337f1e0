//! What a user may say with `-o` when a volume is made.

use std::fmt;

use kernel::record::{Damaged, Decoder, Encoder};
use plugin_api::id::quoted;
use plugin_api::{Fault, Options};

use super::words::{Given, Words};
use crate::backend::Spec;

/// Every option there is, as told to those who type another one.
const KNOWN: &str = "uid, gid, mode, size, fstype, type, device, o";
/// The smallest image that every file system here can be made in.
const SMALLEST: u64 = 16 << 20;
/// The largest: what ext4 can address with its usual block.
const LARGEST: u64 = 16 << 40;

/// What says nothing about something of the user's, and where it would be said.
const OF_OURS: [(&str, &str); 5] = [
    (
        "size",
        "says how large an image is; with type, it goes into o=size=…",
    ),
    (
        "fstype",
        "says what an image holds; with type and device, type says it",
    ),
    (
        "uid",
        "is of a volume of ours; with type, it goes into o=uid=… where that takes it",
    ),
    (
        "gid",
        "is of a volume of ours; with type, it goes into o=gid=… where that takes it",
    ),
    (
        "mode",
        "is of a volume of ours; with type, it goes into o=mode=… where that takes it",
    ),
];

/// What a volume is asked to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Permission bits with set-id and sticky bits, at most `0o7777`.
    pub(super) mode: u32,
    pub(super) kind: Kind,
}

/// What its data lies in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A directory of ours.
    Directory,
    /// A file with a file system in it, and so a size that nobody can exceed.
    Image { size: u64, filesystem: ImageKind },
    /// Something of the user's that is mounted while a container has it.
    Mounted(Given),
}

/// File systems that an image may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ImageKind {
    Ext4,
    Xfs,
}

impl ImageKind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    fn read(text: &str) -> Option<Self> {
        [Self::Ext4, Self::Xfs]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }

    /// The smallest image that its mkfs accepts.
    fn smallest(self) -> u64 {
        match self {
            Self::Ext4 => SMALLEST,
            Self::Xfs => 300 << 20,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            uid: 0,
            gid: 0,
            mode: 0o755,
            kind: Kind::Directory,
        }
    }
}

/// Why options were refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadOption {
    #[error("unknown option {0}, known are {KNOWN}")]
    Unknown(String),
    #[error("option {key}={shown} {why}")]
    Value {
        key: &'static str,
        shown: String,
        why: String,
    },
    #[error("option {key} {why}")]
    Misplaced { key: &'static str, why: &'static str },
}

impl BadOption {
    pub(super) fn value(key: &'static str, value: &str, why: impl Into<String>) -> Self {
        Self::Value {
            key,
            shown: quoted(value),
            why: why.into(),
        }
    }
}

impl From<BadOption> for Fault {
    fn from(bad: BadOption) -> Self {
        Fault::invalid(bad.to_string())
    }
}

impl Settings {
    /// Reads options as typed; what is not said has its default.
    pub(super) fn read(options: &Options) -> Result<Self, BadOption> {
        let mut settings = Self::default();
        let mut words = Words::default();
        let (mut size, mut filesystem) = (None, None);
        for (key, value) in options {
            match key.as_str() {
                "uid" => settings.uid = number("uid", value)?,
                "gid" => settings.gid = number("gid", value)?,
                "mode" => settings.mode = mode(value)?,
                "size" => size = Some(bytes(value)?),
                "fstype" => filesystem = Some(image_kind(value)?),
                "type" => words.kind = Some(value),
                "device" => words.device = Some(value),
                "o" => words.options = Some(value),
                _ => return Err(BadOption::Unknown(quoted(key))),
            }
        }
        settings.kind = if words.are_empty() {
            let typed = options.get("size").map_or("", String::as_str);
            image(size, filesystem, typed)?
        } else {
            for (key, why) in OF_OURS {
                if options.contains_key(key) {
                    return Err(BadOption::Misplaced { key, why });
                }
            }
            Kind::Mounted(words.read()?)
        };
        Ok(settings)
    }

    /// Rows of what it is, and the differences of two of them.
    fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = match &self.kind {
            Kind::Mounted(given) => return given.rows(),
            Kind::Directory => Vec::new(),
            Kind::Image { size, filesystem } => vec![
                ("size", Size(*size).to_string()),
                ("fstype", filesystem.as_str().to_owned()),
            ],
        };
        rows.push(("uid", self.uid.to_string()));
        rows.push(("gid", self.gid.to_string()));
        rows.push(("mode", Mode(self.mode).to_string()));
        rows
    }
}

impl Spec for Settings {
    fn encode(&self, to: Encoder) -> Encoder {
        let to = to
            .number(self.uid.into())
            .number(self.gid.into())
            .number(self.mode.into());
        match &self.kind {
            Kind::Directory => to.number(0),
            Kind::Image { size, filesystem } => to.number(1).number(*size).text(filesystem.as_str()),
            Kind::Mounted(given) => given.encode(to.number(2)),
        }
    }

    fn decode(from: &mut Decoder<'_>, layout: u8) -> Result<Self, Damaged> {
        let (uid, gid, mode) = (small(from)?, small(from)?, small(from)?);
        let kind = if layout == 1 { 0 } else { from.number()? };
        let kind = match kind {
            0 => Kind::Directory,
            1 => {
                let size = from.number()?;
                let damaged = from.damaged();
                let filesystem = ImageKind::read(&from.text()?).ok_or(damaged)?;
                Kind::Image { size, filesystem }
            }
            2 => Kind::Mounted(Given::decode(from)?),
            _ => return Err(from.damaged()),
        };
        Ok(Self { uid, gid, mode, kind })
    }

    fn difference(&self, asked: &Self) -> String {
        let (is, wanted) = (self.rows(), asked.rows());
        let of = |rows: &[(&'static str, String)], key: &str| {
            let row = rows.iter().find(|(one, _)| *one == key);
            row.map_or_else(|| "not said".to_owned(), |(_, value)| value.clone())
        };
        let mut keys: Vec<&str> = is.iter().chain(&wanted).map(|(key, _)| *key).collect();
        keys.dedup();
        let mut differs: Vec<String> = Vec::new();
        for key in keys {
            let (is, wanted) = (of(&is, key), of(&wanted, key));
            let text = format!("{key} is {is}, not {wanted}");
            if is != wanted && !differs.contains(&text) {
                differs.push(text);
            }
        }
        differs.join(", ")
    }

    fn status(&self) -> Vec<(&'static str, String)> {
        self.rows()
    }
}

fn small(decoder: &mut Decoder<'_>) -> Result<u32, Damaged> {
    let damaged = decoder.damaged();
    u32::try_from(decoder.number()?).map_err(|_| damaged)
}

/// Shows a mode as people type it.
pub(super) struct Mode(pub(super) u32);

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// Shows a size in the largest unit that divides it: `1GiB`.
pub(super) struct Size(pub(super) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let fits = |(shift, _): &&(u32, &str)| self.0 > 0 && self.0.trailing_zeros() >= *shift;
        match units.iter().find(fits) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// A size as users of several drivers type it: `10G`, `100MiB`, `512m`, `1gb`; all of them powers of 1024. A bare
/// number is GiB.
fn bytes(value: &str) -> Result<u64, BadOption> {
    let bad = |why: &str| BadOption::value("size", value, why);
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = value.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "" | "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => {
            return Err(bad(
                "has no unit that is known: B, K, M, G, T; a bare number is GiB",
            ));
        }
    };
    let number: u64 = number
        .parse()
        .map_err(|_| bad("is no whole number with a unit"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| bad("is beyond all sizes"))
}

/// A directory, or an image of `size` bytes, which the user wrote as `typed`.
fn image(size: Option<u64>, filesystem: Option<ImageKind>, typed: &str) -> Result<Kind, BadOption> {
    let Some(size) = size else {
        if filesystem.is_none() {
            return Ok(Kind::Directory);
        }
        let why = "needs size as well: a file system of its own is made in an image of that size";
        return Err(BadOption::Misplaced { key: "fstype", why });
    };
    let filesystem = filesystem.unwrap_or(ImageKind::Ext4);
    if (filesystem.smallest()..=LARGEST).contains(&size) {
        return Ok(Kind::Image { size, filesystem });
    }
    let (least, most) = (Size(filesystem.smallest()), Size(LARGEST));
    let why = format!(
        "is not between {least} and {most}, as {} needs",
        filesystem.as_str()
    );
    Err(BadOption::value("size", typed, why))
}

fn image_kind(value: &str) -> Result<ImageKind, BadOption> {
    ImageKind::read(value)
        .ok_or_else(|| BadOption::value("fstype", value, "is not known; there are ext4 and xfs"))
}

fn number(key: &'static str, value: &str) -> Result<u32, BadOption> {
    let bad = |why: &str| BadOption::value(key, value, why);
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad("is no decimal number"));
    }
    // The highest value means "leave it" to chown, so it is nobody's id.
    match value.parse() {
        Ok(u32::MAX) | Err(_) => Err(bad("is beyond 4294967294")),
        Ok(id) => Ok(id),
    }
}

fn mode(value: &str) -> Result<u32, BadOption> {
    let bad = BadOption::value("mode", value, "is no octal mode between 0 and 7777");
    if value.is_empty() || value.len() > 5 || !value.bytes().all(|b| (b'0'..b'8').contains(&b)) {
        return Err(bad);
    }
    match u32::from_str_radix(value, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err(bad),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Options {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn options_are_read_and_the_rest_is_default() {
        assert_eq!(Settings::read(&options(&[])), Ok(Settings::default()));
        let read = Settings::read(&options(&[("uid", "1000"), ("mode", "1777")])).unwrap();
        let wanted = Settings {
            uid: 1000,
            gid: 0,
            mode: 0o1777,
            kind: Kind::Directory,
        };
        assert_eq!(read, wanted);
        assert_eq!(
            Settings::read(&options(&[("mode", "0755")])),
            Ok(Settings::default())
        );
    }

    #[test]
    fn hostile_values_are_refused() {
        for (key, value) in [
            ("uid", ""),
            ("uid", "-1"),
            ("uid", "+1"),
            ("uid", "4294967295"),
            ("gid", "99999999999999999999"),
            ("gid", "root"),
            ("mode", ""),
            ("mode", "0o755"),
            ("mode", "778"),
            ("mode", "17777"),
            ("mode", "$(id)"),
            ("size", ""),
            ("size", "G"),
            ("size", "-1G"),
            ("size", "1.5G"),
            ("size", "1 G"),
            ("size", "1Q"),
            ("size", "99999999999999999999"),
            ("size", "18446744073709551615T"),
            ("size", "15M"),
            ("size", "17T"),
            ("fstype", "ext4"),
            ("fstype", "minix"),
        ] {
            let read = Settings::read(&options(&[(key, value)]));
            assert!(read.is_err(), "{key}={value} was taken");
        }
    }

    #[test]
    fn an_unknown_option_is_told_the_known_ones() {
        let bad = Settings::read(&options(&[("devize", "/dev/sda")])).unwrap_err();
        assert_eq!(
            bad.to_string(),
            r#"unknown option "devize", known are uid, gid, mode, size, fstype, type, device, o"#
        );
    }

    #[test]
    fn differences_are_named() {
        let first = Settings::default();
        assert_eq!(first.difference(&first), "");
        let other = Settings {
            mode: 0o700,
            gid: 7,
            ..first.clone()
        };
        assert_eq!(
            first.difference(&other),
            "gid is 0, not 7, mode is 0755, not 0700"
        );
    }

    #[test]
    fn sizes_are_understood_in_every_spelling() {
        for (text, wanted) in [
            ("1", 1 << 30),
            ("1G", 1 << 30),
            ("1gb", 1 << 30),
            ("1GiB", 1 << 30),
            ("64m", 64 << 20),
            ("1048576k", 1 << 30),
            ("2T", 2 << 40),
            ("67108864B", 64 << 20),
        ] {
            let read = Settings::read(&options(&[("size", text)])).unwrap();
            let filesystem = ImageKind::Ext4;
            assert_eq!(
                read.kind,
                Kind::Image {
                    size: wanted,
                    filesystem
                },
                "{text}"
            );
        }
        let small = Settings::read(&options(&[("size", "64M"), ("fstype", "xfs")])).unwrap_err();
        assert!(small.to_string().contains("between 300MiB and 16TiB"), "{small}");
        assert_eq!(Size(0).to_string(), "0B");
        assert_eq!(Size(1536 << 20).to_string(), "1536MiB");
    }

    #[test]
    fn images_and_directories_do_not_mix_with_mounts() {
        let mounted = [("type", "tmpfs"), ("device", "tmpfs")];
        for (key, value) in [
            ("size", "1G"),
            ("fstype", "xfs"),
            ("uid", "1"),
            ("gid", "1"),
            ("mode", "0700"),
        ] {
            let mut pairs = mounted.to_vec();
            pairs.push((key, value));
            let bad = Settings::read(&options(&pairs)).unwrap_err();
            assert!(matches!(bad, BadOption::Misplaced { .. }), "{bad}");
        }
    }

    #[test]
    fn records_round_trip_whatever_the_kind() {
        for pairs in [
            vec![],
            vec![("uid", "5"), ("mode", "0700")],
            vec![("size", "1G")],
            vec![
                ("type", "tmpfs"),
                ("device", "tmpfs"),
                ("o", "size=1m,nr_inodes=7,ro,noatime"),
            ],
            vec![("type", "none"), ("device", "/srv/a"), ("o", "bind")],
        ] {
            let settings = Settings::read(&options(&pairs)).unwrap();
            let bytes = settings.encode(Encoder::new(2)).finish();
            let mut decoder = Decoder::new("settings", 2, &bytes).unwrap();
            let back = Settings::decode(&mut decoder, 2).unwrap();
            assert_eq!(back, settings);
            assert_eq!(back.difference(&settings), "");
        }
        let one = Settings::read(&options(&[("size", "1G")])).unwrap();
        let two = Settings::read(&options(&[])).unwrap();
        assert_eq!(
            two.difference(&one),
            "size is not said, not 1GiB, fstype is not said, not ext4"
        );
    }
}
