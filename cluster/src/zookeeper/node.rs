//! Rows as nodes, and keys as paths.
//!
//! `ROOT/rows/=FOLDER/=NAME` is the row `FOLDER/NAME`; the folder's own slashes are escaped, so that
//! every row is a leaf. A row's bytes are a version, the length of its lease's name, that name, the value.

use std::fmt::Write;

use crate::{LeaseId, Row};

/// The version of a row's bytes.
const VERSION: u8 = 1;

/// A name that ZooKeeper takes, whatever the text holds.
fn escape(text: &str) -> String {
    text.bytes().fold(String::from("="), |mut name, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b':' | b'@' | b',' => {
                name.push(char::from(byte));
            }
            // Writing to a string cannot fail.
            _ => drop(write!(name, "%{byte:02X}")),
        }
        name
    })
}

fn unescape(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.strip_prefix('=')?.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// The names of a row's folder and of the row within it.
pub(super) fn names(key: &str) -> (String, String) {
    let (folder, name) = key.rsplit_once('/').unwrap_or(("", key));
    (escape(folder), escape(name))
}

/// The row that a folder's name and a name within it stand for; nothing where they are not ours.
pub(super) fn key(folder: &str, name: &str) -> Option<String> {
    let (folder, name) = (unescape(folder)?, unescape(name)?);
    Some(if folder.is_empty() {
        name
    } else {
        format!("{folder}/{name}")
    })
}

/// Whether rows of the folder can begin with `prefix`.
pub(super) fn may_hold(folder: &str, prefix: &str) -> bool {
    let Some(mut folder) = unescape(folder) else {
        return false;
    };
    if !folder.is_empty() {
        folder.push('/');
    }
    let within = |rest: &str| !rest.contains('/');
    folder.starts_with(prefix) || prefix.strip_prefix(&folder).is_some_and(within)
}

/// A row's bytes.
pub(super) fn encode(value: &[u8], lease: Option<&LeaseId>) -> Vec<u8> {
    let lease = lease.map_or(&[][..], |lease| lease.0.as_bytes());
    let length = u8::try_from(lease.len()).unwrap_or(u8::MAX);
    let mut bytes = vec![VERSION, length];
    bytes.extend(&lease[..usize::from(length)]);
    bytes.extend(value);
    bytes
}

/// The value and the lease of a row's bytes; nothing where they are not ours.
pub(super) fn decode(bytes: &[u8]) -> Option<(&[u8], Option<LeaseId>)> {
    let (&[version, length], rest) = bytes.split_first_chunk::<2>()?;
    let (lease, value) = rest.split_at_checked(usize::from(length))?;
    let lease = std::str::from_utf8(lease).ok()?;
    let lease = (!lease.is_empty()).then(|| LeaseId(lease.to_owned()));
    (version == VERSION).then_some((value, lease))
}

/// A node that holds a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) row: Row,
    /// How often it was written since it was made.
    pub(super) version: i32,
    /// Whether its lease lives. The name of one that has ended is never given again, so a row without
    /// it is as good as removed.
    pub(super) alive: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back() {
        for text in [
            "a",
            "a/b",
            "a/b/c",
            "zookeeper",
            "..a/b.",
            "ö/ü %",
            "10.0.0.0/24",
            "a\\b/\"c\"",
        ] {
            let (folder, name) = names(text);
            assert!(!folder.contains('/') && !name.contains('/'), "{folder} {name}");
            assert_eq!(key(&folder, &name).as_deref(), Some(text));
        }
        assert_eq!(key("plain", "=x"), None);
        assert_eq!(key("=%4", "=x"), None);
    }

    #[test]
    fn folders_that_cannot_hold_a_prefix_are_left_out() {
        let may = |key: &str, prefix: &str| may_hold(&names(key).0, prefix);
        for (key, prefix) in [
            ("a/b/c", "a/b/"),
            ("a/b/c", "a/"),
            ("a/b/c", ""),
            ("a/b/c", "a/b/c"),
            ("a", ""),
        ] {
            assert!(may(key, prefix), "{key} {prefix}");
        }
        for (key, prefix) in [("a/b/c", "a/c"), ("a/b/c", "a/b/c/"), ("a", "a/"), ("ab/c", "a/")] {
            assert!(!may(key, prefix), "{key} {prefix}");
        }
    }

    #[test]
    fn bytes_read_back() {
        let lease = LeaseId("1f".to_owned());
        for (value, lease) in [(&b""[..], None), (b"x\0y", Some(&lease)), (b"", Some(&lease))] {
            let bytes = encode(value, lease);
            assert_eq!(decode(&bytes), Some((value, lease.cloned())));
        }
        for bytes in [&b""[..], &[1], &[2, 0], &[1, 3, b'a']] {
            assert_eq!(decode(bytes), None, "{bytes:?}");
        }
    }
}
