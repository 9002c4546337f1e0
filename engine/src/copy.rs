//! `cp`: files in and out of a container's tree, whose links cannot lead out of it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kernel::fsutil::{Folder, Kind, Meta};

/// One side of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Side {
    Host(PathBuf),
    Container { name: String, path: PathBuf },
}

/// Reads `CONTAINER:PATH` or a host path; a path with a colon is written `./a:b`.
pub(crate) fn parse(typed: &str) -> Side {
    match typed.split_once(':') {
        Some((name, path)) if !name.contains('/') && !name.is_empty() => Side::Container {
            name: name.to_owned(),
            path: path.into(),
        },
        _ => Side::Host(typed.into()),
    }
}

/// A place in a tree: an open folder and, except for the tree's root, a name in it.
#[derive(Debug)]
pub(crate) struct Place {
    folder: Folder,
    name: Option<OsString>,
}

/// Finds `path` below `root`, links followed as if `root` were the root of everything. The last part
/// need not exist and is not followed.
pub(crate) fn below(root: &Path, path: &Path) -> Result<Place> {
    let root = Folder::open(root)?;
    let relative: PathBuf = path
        .components()
        .filter(|part| !matches!(part, std::path::Component::RootDir | std::path::Component::CurDir))
        .collect();
    let Some(name) = relative.file_name() else {
        let folder = if relative.as_os_str().is_empty() {
            root
        } else {
            follow(&root, &relative)?
        };
        return Ok(Place { folder, name: None });
    };
    let parent = relative.parent().filter(|parent| !parent.as_os_str().is_empty());
    let folder = match parent {
        Some(parent) => follow(&root, parent).with_context(|| format!("find {}", path.display()))?,
        None => root.again()?,
    };
    let is_link = folder.stat(name)?.is_some_and(|meta| meta.kind == Kind::Link);
    // A folder behind a link is meant by its link, as everywhere.
    if is_link && let Ok(folder) = follow(&root, &relative) {
        return Ok(Place { folder, name: None });
    }
    Ok(Place {
        folder,
        name: Some(name.to_owned()),
    })
}

/// Opens a folder of a tree, the last part followed too if it is a link.
fn follow(root: &Folder, path: &Path) -> kernel::Result<Folder> {
    root.descend_in_root(&path.join("."))
}

/// Finds a path of the host.
pub(crate) fn on_host(path: &Path) -> Result<Place> {
    if let Ok(folder) = path.canonicalize().map_err(anyhow::Error::from).and_then(|path| {
        if path.is_dir() {
            Ok(Folder::open(&path)?)
        } else {
            bail!("no folder")
        }
    }) {
        return Ok(Place { folder, name: None });
    }
    let name = path
        .file_name()
        .with_context(|| format!("{} names no file", path.display()))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new(".")).canonicalize()?;
    Ok(Place {
        folder: Folder::open(&parent)?,
        name: Some(name.to_owned()),
    })
}

/// What is at a place.
fn look(place: &Place) -> Result<Option<Meta>> {
    match &place.name {
        None => Ok(Some(place.folder.stat_self()?)),
        Some(name) => Ok(place.folder.stat(name)?),
    }
}

fn enter(place: Place) -> Result<Folder> {
    match place.name {
        None => Ok(place.folder),
        Some(name) => Ok(place.folder.descend(Path::new(&name))?),
    }
}

/// Copies as `cp -a` does: into a folder that is there under `name`, else to that very place.
pub(crate) fn copy(from: Place, to: Place, name: &OsStr) -> Result<()> {
    let source = look(&from)?.context("no such file or folder to copy")?;
    let target = look(&to)?;
    let into = target.is_some_and(|meta| meta.kind == Kind::Folder);
    let (folder, name) = if into {
        (enter(to)?, name.to_owned())
    } else {
        let Place { folder, name } = to;
        (folder, name.context("the target is no folder")?)
    };
    if source.kind == Kind::Folder {
        if !into && target.is_some() {
            bail!("cannot copy a folder over a file");
        }
        return copy_folder(&enter(from)?, &source, &folder, &name);
    }
    let from_name = from.name.context("only folders have no name")?;
    copy_entry(&from.folder, &from_name, &source, &folder, &name)
}

fn copy_folder(from: &Folder, meta: &Meta, to: &Folder, name: &OsStr) -> Result<()> {
    // `x/.` means what is in x, not x itself.
    let inner = if name == OsStr::new(".") {
        to.again()?
    } else {
        to.make_dir(name, 0o700)?;
        to.descend(Path::new(name))?
    };
    for entry in from.entries()? {
        let Some(meta) = from.stat(&entry.name)? else {
            continue;
        };
        if meta.kind == Kind::Folder {
            let below = from.descend(Path::new(&entry.name))?;
            copy_folder(&below, &meta, &inner, &entry.name)?;
        } else {
            copy_entry(from, &entry.name, &meta, &inner, &entry.name)?;
        }
    }
    if name != OsStr::new(".") {
        inner.chown_self(meta.uid, meta.gid)?;
        inner.chmod_self(meta.mode)?;
        inner.set_times_self(meta.mtime, meta.mtime)?;
    }
    Ok(())
}

fn copy_entry(from: &Folder, name: &OsStr, meta: &Meta, to: &Folder, new: &OsStr) -> Result<()> {
    if to.stat(new)?.is_some_and(|there| there.kind == Kind::Folder) {
        bail!("cannot copy {} over a folder", name.to_string_lossy());
    }
    to.unlink(new)?;
    match meta.kind {
        Kind::File => {
            let mut source = from.read_file(name)?;
            let mut target: File = to.make_file(new)?;
            std::io::copy(&mut source, &mut target)
                .with_context(|| format!("copy {}", name.to_string_lossy()))?;
        }
        Kind::Link => to.make_link(new, &from.read_link(name)?)?,
        kind => to.make_node(new, kind, meta.rdev)?,
    }
    to.chown(new, meta.uid, meta.gid)?;
    if meta.kind != Kind::Link {
        to.chmod(new, meta.mode)?;
    }
    to.set_times(new, meta.mtime, meta.mtime)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn sides_of_a_copy() {
        let inside = |name: &str, path: &str| Side::Container {
            name: name.into(),
            path: path.into(),
        };
        assert_eq!(parse("web:/etc/hosts"), inside("web", "/etc/hosts"));
        assert_eq!(parse("./a:b"), Side::Host("./a:b".into()));
        assert_eq!(parse("/etc"), Side::Host("/etc".into()));
    }

    #[test]
    fn links_in_a_container_do_not_lead_out() {
        let outside = tempfile::tempdir().unwrap();
        let rootfs = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "x").unwrap();
        symlink(outside.path(), rootfs.path().join("out")).unwrap();
        symlink("../../../../../../../../tmp", rootfs.path().join("up")).unwrap();
        assert!(below(rootfs.path(), Path::new("/out/secret")).is_err());
        assert!(below(rootfs.path(), Path::new("/up/secret")).is_err());
        fs::create_dir(rootfs.path().join("tmp")).unwrap();
        let place = below(rootfs.path(), Path::new("/up/new")).unwrap();
        let source = on_host(&outside.path().join("secret")).unwrap();
        copy(source, place, OsStr::new("secret")).unwrap();
        assert_eq!(fs::read_to_string(rootfs.path().join("tmp/new")).unwrap(), "x");
    }

    #[test]
    fn a_tree_is_copied_whole() {
        let from = tempfile::tempdir().unwrap();
        let to = tempfile::tempdir().unwrap();
        fs::create_dir_all(from.path().join("a/b")).unwrap();
        fs::write(from.path().join("a/b/file"), "text").unwrap();
        symlink("file", from.path().join("a/b/link")).unwrap();
        let source = on_host(&from.path().join("a")).unwrap();
        copy(source, below(to.path(), Path::new("/")).unwrap(), OsStr::new("a")).unwrap();
        assert_eq!(fs::read_to_string(to.path().join("a/b/link")).unwrap(), "text");
        let source = below(to.path(), Path::new("/a")).unwrap();
        copy(
            source,
            on_host(&from.path().join("copy")).unwrap(),
            OsStr::new("a"),
        )
        .unwrap();
        assert_eq!(
            fs::read_to_string(from.path().join("copy/b/file")).unwrap(),
            "text"
        );
    }
}
