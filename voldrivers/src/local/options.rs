//! What a user may say with `-o` when a volume is made.

use std::fmt;

use plugin_api::id::quoted;
use plugin_api::{Fault, Options};

/// Every option there is, as told to those who type another one.
const KNOWN: &str = "uid, gid, mode";

/// Owner and mode of a volume's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Permission bits with set-id and sticky bits, at most `0o7777`.
    pub(super) mode: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            uid: 0,
            gid: 0,
            mode: 0o755,
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
        why: &'static str,
    },
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
        for (key, value) in options {
            match key.as_str() {
                "uid" => settings.uid = number("uid", value)?,
                "gid" => settings.gid = number("gid", value)?,
                "mode" => settings.mode = mode(value)?,
                _ => return Err(BadOption::Unknown(quoted(key))),
            }
        }
        Ok(settings)
    }

    /// What differs from `asked`, in words: `mode is 0755, not 0700`; empty if nothing does.
    pub(super) fn difference(&self, asked: &Self) -> String {
        let mut differs = Vec::new();
        let mut compare = |key: &str, is: String, wanted: String| {
            if is != wanted {
                differs.push(format!("{key} is {is}, not {wanted}"));
            }
        };
        compare("uid", self.uid.to_string(), asked.uid.to_string());
        compare("gid", self.gid.to_string(), asked.gid.to_string());
        compare("mode", Mode(self.mode).to_string(), Mode(asked.mode).to_string());
        differs.join(", ")
    }
}

/// Shows a mode as people type it.
pub(super) struct Mode(pub(super) u32);

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

fn number(key: &'static str, value: &str) -> Result<u32, BadOption> {
    let bad = |why| BadOption::Value {
        key,
        shown: quoted(value),
        why,
    };
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
    let bad = BadOption::Value {
        key: "mode",
        shown: quoted(value),
        why: "is no octal mode between 0 and 7777",
    };
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
        ] {
            let read = Settings::read(&options(&[(key, value)]));
            assert!(read.is_err(), "{key}={value} was taken");
        }
    }

    #[test]
    fn an_unknown_option_is_told_the_known_ones() {
        let bad = Settings::read(&options(&[("device", "/dev/sda")])).unwrap_err();
        assert_eq!(
            bad.to_string(),
            r#"unknown option "device", known are uid, gid, mode"#
        );
    }

    #[test]
    fn differences_are_named() {
        let first = Settings::default();
        assert_eq!(first.difference(&first), "");
        let other = Settings {
            mode: 0o700,
            gid: 7,
            ..first
        };
        assert_eq!(
            first.difference(&other),
            "gid is 0, not 7, mode is 0755, not 0700"
        );
    }
}
