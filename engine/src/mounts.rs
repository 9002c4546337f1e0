//! `-v [VOLUME_OR_/HOSTPATH:]/path[:ro|rw]` and `--volumes-from CONTAINER[:ro|rw]`.

use std::path::{Component, Path};

use anyhow::{Result, bail};
use plugin_api::id::{VolumeName, quoted};

/// Where a `-v` takes its content from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum From {
    /// A volume of the user's name.
    Volume(String),
    /// A volume to be made without a name.
    Anonymous,
    /// A path of the host.
    Host(String),
}

/// A `-v` as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Typed {
    pub(crate) from: From,
    /// Absolute, without `.` and `..`.
    pub(crate) target: String,
    pub(crate) read_only: bool,
}

/// Reads one `-v`.
pub(crate) fn parse(typed: &str) -> Result<Typed> {
    let parts: Vec<&str> = typed.split(':').collect();
    let (source, target, mode) = match parts.as_slice() {
        [target] => (None, *target, "rw"),
        [source, target] => (Some(*source), *target, "rw"),
        [source, target, mode] => (Some(*source), *target, *mode),
        _ => bail!("mount {} is not [source:]/path[:ro]", quoted(typed)),
    };
    let from = match source {
        None => From::Anonymous,
        Some(path) if path.starts_with('/') => From::Host(absolute(path)?),
        Some(name) => From::Volume(VolumeName::new(name)?.as_str().to_owned()),
    };
    Ok(Typed {
        from,
        target: inside(target)?,
        read_only: read_only(mode)?,
    })
}

/// Reads one `--volumes-from`: the container and whether its mounts become read-only.
pub(crate) fn parse_from(typed: &str) -> Result<(&str, bool)> {
    match typed.split_once(':') {
        None => Ok((typed, false)),
        Some((name, mode)) => Ok((name, read_only(mode)?)),
    }
}

fn read_only(mode: &str) -> Result<bool> {
    match mode {
        "ro" => Ok(true),
        "rw" => Ok(false),
        _ => bail!("mode {} is neither ro nor rw", quoted(mode)),
    }
}

fn absolute(path: &str) -> Result<String> {
    let plain = Path::new(path)
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.starts_with('/') || !plain || path.contains('\0') {
        bail!("path {} is not absolute and plain", quoted(path));
    }
    let trimmed = path.trim_end_matches('/');
    Ok(if trimmed.is_empty() { "/" } else { trimmed }.to_owned())
}

/// An absolute path in a container that is not its root.
pub(crate) fn inside(path: &str) -> Result<String> {
    match absolute(path)?.as_str() {
        "/" => bail!("nothing can be mounted on a container's root"),
        path => Ok(path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_as_users_type_them() {
        let check = |typed: &str, from: From, target: &str, read_only: bool| {
            let target = target.to_owned();
            let expect = Typed {
                from,
                target,
                read_only,
            };
            assert_eq!(parse(typed).unwrap(), expect, "{typed}");
        };
        check("/data", From::Anonymous, "/data", false);
        check("db:/data/", From::Volume("db".into()), "/data", false);
        check("db:/data:ro", From::Volume("db".into()), "/data", true);
        check("/srv:/data:rw", From::Host("/srv".into()), "/data", false);
        check("/:/host", From::Host("/".into()), "/host", false);
    }

    #[test]
    fn hostile_mounts_are_refused() {
        for typed in [
            "",
            "data",
            "db:data",
            "../x:/data",
            "db:/data/../../etc",
            "/srv/..:/data",
            "db:/",
            ":/data",
            "db:/a:x",
            "a:b:c:d",
            "a/b:/data",
        ] {
            assert!(parse(typed).is_err(), "{typed:?} was taken");
        }
    }

    #[test]
    fn volumes_from_another_container() {
        assert_eq!(parse_from("web").unwrap(), ("web", false));
        assert_eq!(parse_from("web:ro").unwrap(), ("web", true));
        assert!(parse_from("web:x").is_err());
    }
}
