//! What may be a key, and how much a request may hold.

use std::collections::HashSet;

use crate::{Error, Guard, MAX_OPS, Op, Result};

/// Bytes of a key.
const MAX_KEY: usize = 512;

/// Refuses what cannot be a key in every store.
pub(crate) fn check(operation: &'static str, key: &str) -> Result<()> {
    check_prefix(operation, key)?;
    let bad = |segment: &str| segment.is_empty() || segment == "." || segment == "..";
    if key.split('/').any(bad) {
        return Err(Error::invalid(operation, key, "a segment is empty, or only dots"));
    }
    Ok(())
}

/// Refuses what cannot begin a key.
pub(crate) fn check_prefix(operation: &'static str, prefix: &str) -> Result<()> {
    if prefix.len() > MAX_KEY {
        return Err(Error::TooLarge {
            operation,
            key: prefix.chars().take(40).collect(),
            size: prefix.len(),
            limit: MAX_KEY,
            unit: "bytes of a key",
        });
    }
    let mut segments = prefix.split('/').rev().skip(1);
    if segments.any(|segment| matches!(segment, "" | "." | "..")) {
        return Err(Error::invalid(
            operation,
            prefix,
            "a segment is empty, or only dots",
        ));
    }
    if prefix.chars().any(char::is_control) {
        return Err(Error::invalid(operation, prefix, "it holds a control character"));
    }
    Ok(())
}

/// Refuses values that the store does not take.
pub(crate) fn check_value(operation: &'static str, key: &str, value: &[u8], limit: usize) -> Result<()> {
    if value.len() <= limit {
        return Ok(());
    }
    Err(Error::TooLarge {
        operation,
        key: key.to_owned(),
        size: value.len(),
        limit,
        unit: "bytes",
    })
}

/// Refuses transactions that no store takes.
pub(crate) fn check_txn(guards: &[Guard], ops: &[Op], limit: usize) -> Result<()> {
    let first = ops.first().map_or("", Op::key);
    if guards.len() + ops.len() > MAX_OPS {
        return Err(Error::TooLarge {
            operation: "txn",
            key: first.to_owned(),
            size: guards.len() + ops.len(),
            limit: MAX_OPS,
            unit: "operations",
        });
    }
    for guard in guards {
        check("txn", &guard.key)?;
    }
    let mut seen = HashSet::new();
    for op in ops {
        check("txn", op.key())?;
        if !seen.insert(op.key()) {
            return Err(Error::invalid("txn", op.key(), "it is changed twice"));
        }
        if let Op::Put { key, value, .. } = op {
            check_value("txn", key, value, limit)?;
        }
    }
    if ops.is_empty() {
        return Err(Error::invalid("txn", "", "it changes nothing"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_some_store_would_not_take_are_refused() {
        for bad in [
            "",
            "/a",
            "a/",
            "a//b",
            "a/../b",
            ".",
            "a\0b",
            "a\nb",
            &"k".repeat(513),
        ] {
            assert!(check("get", bad).is_err(), "{bad:?}");
        }
        for good in ["a", "a/b", "a b", "a.b/..c", "ö/%2f?x=1#y", &"k".repeat(512)] {
            assert!(check("get", good).is_ok(), "{good:?}");
        }
    }
}
