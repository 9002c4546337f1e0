//! Layers, archives, trees and a small pipe for the suite of layers.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Context, Failure, Verdict, ensure, fresh_hex};
use crate::Options;
use crate::graph::{GraphInit, GraphPlugin, NewLayer};
use crate::id::LayerId;

pub(super) type Ctx<'a> = Context<'a, dyn GraphPlugin>;

pub(super) fn init(ctx: &Ctx<'_>) -> Verdict {
    let home = ctx.home().to_path_buf();
    ctx.driver().init(&GraphInit {
        home,
        ..GraphInit::default()
    })?;
    Ok(())
}

pub(super) fn fresh(ctx: &Ctx<'_>) -> LayerId {
    let id = LayerId::new(fresh_hex()).expect("hexadecimal digits are plain");
    remove_at_end(ctx, &id);
    id
}

pub(super) fn remove_at_end(ctx: &Ctx<'_>, id: &LayerId) {
    let id = id.clone();
    ctx.at_end(move |driver| {
        // A case that failed may have left holds of its own; none takes more than eight.
        for _ in 0..8 {
            let _ = driver.put(&id);
        }
        let _ = driver.remove(&id);
    });
}

pub(super) fn layer(id: &LayerId, parent: Option<&LayerId>) -> NewLayer {
    let (id, parent) = (id.clone(), parent.cloned());
    NewLayer {
        id,
        parent,
        mount_label: String::new(),
        options: Options::new(),
    }
}

pub(super) fn image(ctx: &Ctx<'_>, parent: Option<&LayerId>) -> Result<LayerId, Failure> {
    let id = fresh(ctx);
    ctx.changed(
        ctx.driver().create(&layer(&id, parent)),
        "create of an image layer",
    )?;
    Ok(id)
}

pub(super) fn container(ctx: &Ctx<'_>, parent: &LayerId) -> Result<LayerId, Failure> {
    let id = fresh(ctx);
    let made = ctx.driver().create_read_write(&layer(&id, Some(parent)));
    ctx.changed(made, "create of a container's layer")?;
    Ok(id)
}

pub(super) fn apply(
    ctx: &Ctx<'_>,
    id: &LayerId,
    parent: Option<&LayerId>,
    archive: &[u8],
) -> Result<u64, Failure> {
    let mut reader = archive;
    Ok(ctx.driver().apply_diff(id, parent, &mut reader)?)
}

pub(super) fn image_of(ctx: &Ctx<'_>, parent: Option<&LayerId>, archive: &[u8]) -> Result<LayerId, Failure> {
    let id = image(ctx, parent)?;
    apply(ctx, &id, parent, archive)?;
    Ok(id)
}

pub(super) fn diff(ctx: &Ctx<'_>, id: &LayerId, parent: Option<&LayerId>) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    ctx.driver().diff(id, parent, &mut bytes)?;
    Ok(bytes)
}

/// Works in a layer's directory while it is held.
pub(super) fn within<T>(
    ctx: &Ctx<'_>,
    id: &LayerId,
    work: impl FnOnce(&Path) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let dir = ctx.driver().get(id, "")?;
    let answer = work(&dir);
    ctx.driver().put(id)?;
    answer
}

pub(super) fn tree_of(ctx: &Ctx<'_>, id: &LayerId) -> Result<BTreeMap<String, Node>, Failure> {
    within(ctx, id, tree)
}

pub(super) fn has(ctx: &Ctx<'_>, id: &LayerId, present: &[&str], absent: &[&str]) -> Verdict {
    let tree = tree_of(ctx, id)?;
    for path in present {
        ensure!(
            tree.contains_key(*path),
            "{path} is missing; there are {:?}",
            tree.keys()
        );
    }
    for path in absent {
        ensure!(!tree.contains_key(*path), "{path} is there and should not be");
    }
    Ok(())
}

pub(super) struct Archive(tar::Builder<Vec<u8>>);

impl Archive {
    pub(super) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub(super) fn entry(
        mut self,
        (kind, mode): (tar::EntryType, u32),
        path: &str,
        content: &[u8],
        target: &str,
    ) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_500_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(content.len() as u64);
        if !target.is_empty() {
            header.set_link_name_literal(target).expect("short link targets");
        }
        // Straight into the header: the builder's own setter refuses the hostile paths we need.
        let field = &mut header.as_old_mut().name;
        field[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).expect("writing to memory");
        self
    }

    pub(super) fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry((tar::EntryType::Regular, 0o644), path, content, "")
    }

    pub(super) fn dir(self, path: &str) -> Self {
        self.entry((tar::EntryType::Directory, 0o755), path, b"", "")
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().expect("writing to memory")
    }
}

pub(super) fn base() -> Vec<u8> {
    let archive = Archive::new()
        .dir("etc/")
        .file("etc/passwd", b"root")
        .file("etc/hosts", b"127.0.0.1");
    let archive = archive
        .dir("var/")
        .dir("var/log/")
        .file("var/log/one", b"1")
        .file("var/log/two", b"22");
    archive.dir("srv/").file("srv/data", b"data").bytes()
}

/// What a tree holds, without times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Dir { mode: u32 },
    File { mode: u32, content: Vec<u8> },
    Link { target: PathBuf },
    Other,
}

pub(super) fn tree(root: &Path) -> Result<BTreeMap<String, Node>, Failure> {
    let mut found = BTreeMap::new();
    let mut todo = vec![(root.to_path_buf(), String::new())];
    while let Some((dir, path)) = todo.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let path = format!("{path}/{}", entry.file_name().to_string_lossy());
            let meta = entry.path().symlink_metadata()?;
            let mode = meta.mode() & 0o7777;
            let node = if meta.is_dir() {
                todo.push((entry.path(), path.clone()));
                Node::Dir { mode }
            } else if meta.is_symlink() {
                Node::Link {
                    target: fs::read_link(entry.path())?,
                }
            } else if meta.is_file() {
                Node::File {
                    mode,
                    content: fs::read(entry.path())?,
                }
            } else {
                Node::Other
            };
            found.insert(path, node);
        }
    }
    Ok(found)
}

/// Changes of all sorts in a container's directory.
pub(super) fn edit(dir: &Path) -> Verdict {
    fs::write(dir.join("etc/passwd"), b"root and more")?;
    fs::write(dir.join("etc/new"), b"new")?;
    fs::remove_file(dir.join("etc/hosts"))?;
    fs::remove_dir_all(dir.join("var/log"))?;
    fs::create_dir(dir.join("opt"))?;
    fs::write(dir.join("opt/tool"), b"#!")?;
    fs::set_permissions(dir.join("opt/tool"), fs::Permissions::from_mode(0o755))?;
    std::os::unix::fs::symlink("tool", dir.join("opt/alias"))?;
    fs::rename(dir.join("srv/data"), dir.join("srv/moved"))?;
    Ok(())
}

/// The ends of a pipe that holds little, and breaks where nobody moves for ten seconds.
pub(super) fn pipe() -> (PipeEnd, PipeEnd) {
    let shared = Arc::new((Mutex::default(), Condvar::new()));
    (PipeEnd(Arc::clone(&shared)), PipeEnd(shared))
}

#[derive(Default)]
pub(super) struct Held {
    bytes: VecDeque<u8>,
    closed: bool,
}

pub(super) struct PipeEnd(Arc<(Mutex<Held>, Condvar)>);

impl PipeEnd {
    fn wait(&self, until: impl Fn(&Held) -> bool) -> std::io::Result<MutexGuard<'_, Held>> {
        let (held, moved) = &*self.0;
        let held = held.lock().unwrap_or_else(PoisonError::into_inner);
        let patience = Duration::from_secs(10);
        let waited = moved.wait_timeout_while(held, patience, |held| !until(held));
        let (held, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            Err(std::io::ErrorKind::TimedOut.into())
        } else {
            Ok(held)
        }
    }
}

impl Write for PipeEnd {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut held = self.wait(|held| held.closed || held.bytes.len() < 64 << 10)?;
        if held.closed {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        held.bytes.extend(bytes);
        self.0.1.notify_all();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Read for PipeEnd {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let mut held = self.wait(|held| held.closed || !held.bytes.is_empty())?;
        let count = held.bytes.read(into)?;
        self.0.1.notify_all();
        Ok(count)
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        let (held, moved) = &*self.0;
        held.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        moved.notify_all();
    }
}
