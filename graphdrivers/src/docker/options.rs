//! `--storage-opt` of one container.

use plugin_api::{Fault, Options};

/// The size limit in bytes that the options ask for, if any. The only key is `size`, in any case.
pub(super) fn quota(options: &Options) -> Result<Option<u64>, Fault> {
    let mut quota = None;
    for (key, value) in options {
        if !key.eq_ignore_ascii_case("size") {
            let message = format!("read storage options: {key:?} is unknown, there is only \"size\"");
            return Err(Fault::invalid(message));
        }
        let bytes = bytes(value).filter(|bytes| *bytes > 0);
        quota = Some(bytes.ok_or_else(|| {
            Fault::invalid(format!(
                "read storage options: size {value:?} is no size such as \"2G\""
            ))
        })?);
    }
    Ok(quota)
}

/// `512`, `10k`, `2G`, `1.5GiB`: powers of 1024, as engines read them.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim();
    let unit = unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(unit);
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let factor = 1024_u128.pow(power);
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let whole: u128 = whole.parse().ok()?;
    if part.len() > 9 {
        return None;
    }
    let part_value: u128 = if part.is_empty() { 0 } else { part.parse().ok()? };
    let scale = 10_u128.pow(u32::try_from(part.len()).ok()?);
    let total = whole.checked_mul(factor)? + part_value * factor / scale;
    u64::try_from(total).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_type_them() {
        let cases = [
            ("512", 512),
            ("10k", 10240),
            ("2G", 2 << 30),
            ("1.5GiB", 3 << 29),
            ("1 MB", 1 << 20),
        ];
        for (text, expected) in cases {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for text in ["", "x", "-1", "1x", "1.2.3", "99999999999p", "."] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn an_unknown_option_is_refused_by_name() {
        let options = Options::from([("sise".to_owned(), "1G".to_owned())]);
        assert!(quota(&options).unwrap_err().message.contains("sise"));
        let options = Options::from([("SIZE".to_owned(), "1k".to_owned())]);
        assert_eq!(quota(&options).unwrap(), Some(1024));
        let options = Options::from([("size".to_owned(), "0".to_owned())]);
        assert!(quota(&options).is_err());
    }
}
