//! Layers as full copies of plain directories.
//!
//! Each layer is a folder of its home: `root` holds the whole tree as the layer shows it, `parent` the
//! id of the layer below, `kind` what it is for. A difference is found by comparing two whole trees.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;

use super::locked;
use crate::Done;
use crate::fault::{Fault, FaultKind};
use crate::graph::{Change, ChangeKind, GraphInit, GraphPlugin, NewLayer};
use crate::id::LayerId;

/// What a layer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LayerKind {
    /// Filled once by an archive, then only read.
    Image,
    /// Written by a container.
    Container,
}

const OPAQUE: &[u8] = b".wh..wh..opq";
const WHITEOUT: &[u8] = b".wh.";

/// A graph plugin over plain directories. It knows no storage options and ignores `GraphInit::home`.
#[derive(Debug)]
pub struct Graph {
    home: PathBuf,
    holds: Mutex<BTreeMap<LayerId, u32>>,
    /// Held while layers are made or removed, so that two verbs never meet in one folder.
    layers: Mutex<()>,
}

impl Graph {
    /// Keeps its layers below `home`, which need not exist yet.
    pub fn open(home: &Path) -> Result<Self, Fault> {
        fs::create_dir_all(home).map_err(|error| fault("open folder", home, error))?;
        Ok(Self {
            home: home.to_path_buf(),
            holds: Mutex::default(),
            layers: Mutex::default(),
        })
    }

    /// The twin as a new process finds it.
    pub fn restarted(&self) -> Result<Self, Fault> {
        Self::open(&self.home)
    }

    fn folder(&self, id: &LayerId) -> PathBuf {
        self.home.join(id.as_str())
    }

    fn root(&self, id: &LayerId) -> Result<PathBuf, Fault> {
        let root = self.folder(id).join("root");
        if root.is_dir() {
            return Ok(root);
        }
        Err(Fault::not_found(format!("layer {} does not exist", id.short())))
    }

    fn parent(&self, id: &LayerId) -> Option<LayerId> {
        fs::read_to_string(self.folder(id).join("parent"))
            .ok()
            .and_then(|text| LayerId::new(text).ok())
    }

    fn make(&self, layer: &NewLayer, kind: LayerKind) -> Result<Done, Fault> {
        let id = layer.id.short();
        if let Some(key) = layer.options.keys().next() {
            let key = crate::id::quoted(key);
            return Err(Fault::invalid(format!(
                "create layer {id}: unknown storage option {key}"
            )));
        }
        let below = layer
            .parent
            .as_ref()
            .map(|parent| self.root(parent))
            .transpose()?;
        let _only = locked(&self.layers);
        let definition = (layer.parent.clone(), format!("{kind:?}"));
        if self.root(&layer.id).is_ok() {
            let kind = fs::read_to_string(self.folder(&layer.id).join("kind")).unwrap_or_default();
            if (self.parent(&layer.id), kind) == definition {
                return Ok(Done::AlreadySo);
            }
            return Err(Fault::already_exists(format!(
                "layer {id} exists and is another one"
            )));
        }
        let folder = self.folder(&layer.id);
        fill(&folder, below.as_deref(), &definition).map_err(|error| {
            let _ = fs::remove_dir_all(&folder);
            fault("create layer", &folder, error)
        })?;
        Ok(Done::Changed)
    }

    /// Paths that differ, as the engine asks: against `parent`, or the layer's own, or nothing.
    fn against(&self, id: &LayerId, parent: Option<&LayerId>) -> Result<(PathBuf, Vec<Change>), Fault> {
        let root = self.root(id)?;
        let own = self.parent(id);
        let below = parent
            .or(own.as_ref())
            .map(|parent| self.root(parent))
            .transpose()?;
        let changes = compare(&root, below.as_deref()).map_err(|error| fault("compare", &root, error))?;
        Ok((root, changes))
    }
}

fn fault(what: &str, path: &Path, error: io::Error) -> Fault {
    Fault::new(FaultKind::Internal, format!("{what} {}", path.display())).because(error)
}

fn fill(folder: &Path, below: Option<&Path>, definition: &(Option<LayerId>, String)) -> io::Result<()> {
    fs::create_dir(folder)?;
    if let Some(parent) = &definition.0 {
        fs::write(folder.join("parent"), parent.as_str())?;
    }
    fs::write(folder.join("kind"), &definition.1)?;
    let growing = folder.join("growing");
    fs::create_dir(&growing)?;
    fs::set_permissions(&growing, fs::Permissions::from_mode(0o755))?;
    if let Some(below) = below {
        copy_tree(below, &growing, &mut BTreeMap::new())?;
    }
    fs::rename(growing, folder.join("root"))
}

// === trees ===

fn copy_tree(from: &Path, to: &Path, links: &mut BTreeMap<u64, PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let (from, to) = {
            let entry = entry?;
            (entry.path(), to.join(entry.file_name()))
        };
        let meta = from.symlink_metadata()?;
        if meta.is_dir() {
            fs::create_dir(&to)?;
            copy_tree(&from, &to, links)?;
        } else if meta.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&from)?, &to)?;
        } else if let Some(first) = links.get(&meta.ino()) {
            fs::hard_link(first, &to)?;
        } else if meta.is_file() {
            fs::copy(&from, &to)?;
            if meta.nlink() > 1 {
                links.insert(meta.ino(), to.clone());
            }
        } else {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("{} is a device", from.display()),
            ));
        }
        copy_attributes(&meta, &to)?;
    }
    copy_attributes(&from.symlink_metadata()?, to)
}

fn copy_attributes(meta: &fs::Metadata, to: &Path) -> io::Result<()> {
    let own = to.symlink_metadata()?;
    if (own.uid(), own.gid()) != (meta.uid(), meta.gid()) {
        std::os::unix::fs::lchown(to, Some(meta.uid()), Some(meta.gid()))?;
    }
    if !meta.is_symlink() {
        fs::set_permissions(to, meta.permissions())?;
        let times = fs::FileTimes::new().set_modified(meta.modified()?);
        fs::File::open(to)?.set_times(times)?;
    }
    Ok(())
}

fn compare(root: &Path, below: Option<&Path>) -> io::Result<Vec<Change>> {
    let mut changes = Vec::new();
    compare_dir(root, below, "", &mut changes)?;
    changes.sort();
    Ok(changes)
}

fn compare_dir(root: &Path, below: Option<&Path>, path: &str, changes: &mut Vec<Change>) -> io::Result<()> {
    let mut tell = |path: &str, kind| {
        changes.push(Change {
            path: path.to_owned(),
            kind,
        });
    };
    let mut dirs = Vec::new();
    for (name, meta) in entries(root)? {
        let path = format!("{path}/{}", name.to_string_lossy());
        let old = below
            .map(|below| below.join(&name))
            .filter(|old| old.symlink_metadata().is_ok());
        let Some(old) = old else {
            tell(&path, ChangeKind::Added);
            if meta.is_dir() {
                dirs.push((root.join(&name), None, path));
            }
            continue;
        };
        if !same(&root.join(&name), &old)? {
            tell(&path, ChangeKind::Modified);
        }
        if meta.is_dir() {
            let old = old.symlink_metadata()?.is_dir().then_some(old);
            dirs.push((root.join(&name), old, path));
        }
    }
    for (name, _) in below.map(entries).transpose()?.into_iter().flatten() {
        if root.join(&name).symlink_metadata().is_err() {
            tell(&format!("{path}/{}", name.to_string_lossy()), ChangeKind::Deleted);
        }
    }
    dirs.into_iter()
        .try_for_each(|(root, below, path)| compare_dir(&root, below.as_deref(), &path, changes))
}

fn entries(dir: &Path) -> io::Result<Vec<(std::ffi::OsString, fs::Metadata)>> {
    let read = |entry: io::Result<fs::DirEntry>| {
        let entry = entry?;
        Ok((entry.file_name(), entry.path().symlink_metadata()?))
    };
    fs::read_dir(dir)?.map(read).collect()
}

fn same(new: &Path, old: &Path) -> io::Result<bool> {
    let (a, b) = (new.symlink_metadata()?, old.symlink_metadata()?);
    if (a.mode(), a.uid(), a.gid()) != (b.mode(), b.uid(), b.gid()) {
        return Ok(false);
    }
    if a.is_symlink() {
        return Ok(fs::read_link(new)? == fs::read_link(old)?);
    }
    Ok(!a.is_file() || (a.len() == b.len() && fs::read(new)? == fs::read(old)?))
}

// === archives ===

fn write_archive(root: &Path, changes: &[Change], out: &mut dyn Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(out);
    archive.follow_symlinks(false);
    let mut links: BTreeMap<u64, PathBuf> = BTreeMap::new();
    for change in changes {
        let name = Path::new(change.path.trim_start_matches('/'));
        if change.kind == ChangeKind::Deleted {
            let hidden = [WHITEOUT, name.file_name().unwrap_or_default().as_bytes()].concat();
            let mut header = tar::Header::new_gnu();
            header.set_size(0);
            header.set_mode(0o600);
            archive.append_data(
                &mut header,
                name.with_file_name(OsStr::from_bytes(&hidden)),
                io::empty(),
            )?;
            continue;
        }
        let meta = root.join(name).symlink_metadata()?;
        if let Some(first) = links.get(&meta.ino()) {
            let mut header = tar::Header::new_gnu();
            header.set_metadata(&meta);
            header.set_entry_type(tar::EntryType::Link);
            header.set_size(0);
            archive.append_link(&mut header, name, first)?;
            continue;
        }
        if meta.is_file() && meta.nlink() > 1 {
            links.insert(meta.ino(), name.to_path_buf());
        }
        archive.append_path_with_name(root.join(name), name)?;
    }
    archive.finish()
}

fn refuse(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// The entry's place below `root`; every directory above it is a real one, made where it is missing.
fn place(root: &Path, path: &Path) -> io::Result<Option<PathBuf>> {
    let mut names = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => names.push(name),
            Component::CurDir => {}
            _ => return Err(refuse(format!("{} leaves the layer", path.display()))),
        }
    }
    let Some(last) = names.pop() else { return Ok(None) };
    let mut dir = root.to_path_buf();
    for name in names {
        dir.push(name);
        match dir.symlink_metadata() {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => {
                return Err(refuse(format!(
                    "{} passes through what is no directory",
                    path.display()
                )));
            }
            Err(_) => fs::create_dir(&dir)?,
        }
    }
    Ok(Some(dir.join(last)))
}

fn clear(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

fn read_archive(root: &Path, input: &mut dyn Read) -> io::Result<()> {
    let mut archive = tar::Archive::new(Ended { input, zeros: 0 });
    let mut fresh = BTreeSet::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let Some(target) = place(root, &path)? else {
            continue;
        };
        let name = target.file_name().unwrap_or_default().as_bytes().to_vec();
        if name == OPAQUE {
            let dir = target.parent().unwrap_or(root);
            for (name, _) in entries(dir)? {
                let child = dir.join(name);
                if !fresh.contains(&child) {
                    clear(&child)?;
                }
            }
        } else if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            clear(&target.with_file_name(OsStr::from_bytes(hidden)))?;
        } else {
            unpack(root, &mut entry, &target)?;
            fresh.insert(target);
        }
    }
    archive.into_inner().finish()
}

fn unpack<R: Read>(root: &Path, entry: &mut tar::Entry<'_, R>, target: &Path) -> io::Result<()> {
    let kind = entry.header().entry_type();
    let exists_as_dir = target.symlink_metadata().is_ok_and(|meta| meta.is_dir());
    if !(kind.is_dir() && exists_as_dir) {
        clear(target)?;
    }
    let mode = fs::Permissions::from_mode(entry.header().mode()? & 0o7777);
    let link = entry.link_name()?.map(std::borrow::Cow::into_owned);
    if kind.is_dir() {
        if !exists_as_dir {
            fs::create_dir(target)?;
        }
    } else if kind.is_symlink() {
        return std::os::unix::fs::symlink(link.ok_or_else(|| refuse("a link to nowhere"))?, target);
    } else if kind.is_hard_link() {
        let link = link.ok_or_else(|| refuse("a link to nowhere"))?;
        let first = place(root, &link)?.ok_or_else(|| refuse("a link to the root"))?;
        return fs::hard_link(first, target);
    } else if kind.is_file() {
        let copied = io::copy(entry, &mut fs::File::create_new(target)?)?;
        if copied != entry.header().size()? {
            return Err(refuse(format!("the archive ends within {}", target.display())));
        }
    } else {
        return Err(refuse(format!(
            "{} is of a kind that plain folders cannot hold",
            target.display()
        )));
    }
    let (uid, gid) = (
        u32::try_from(entry.header().uid()?),
        u32::try_from(entry.header().gid()?),
    );
    let own = target.symlink_metadata()?;
    if (uid.as_ref(), gid.as_ref()) != (Ok(&own.uid()), Ok(&own.gid())) {
        std::os::unix::fs::lchown(target, uid.ok(), gid.ok())?;
    }
    fs::set_permissions(target, mode)
}

/// Counts the zeros at the end, so that an archive without its closing blocks is noticed.
struct Ended<'a> {
    input: &'a mut dyn Read,
    zeros: usize,
}

impl Read for Ended<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        let zeros = buffer[..count]
            .iter()
            .rev()
            .take_while(|byte| **byte == 0)
            .count();
        self.zeros = if zeros == count { self.zeros + zeros } else { zeros };
        Ok(count)
    }
}

impl Ended<'_> {
    fn finish(mut self) -> io::Result<()> {
        // Builders pad behind the closing blocks, and a sender waits until all is read.
        io::copy(&mut self, &mut io::sink())?;
        if self.zeros < 1024 {
            return Err(refuse("the archive has no end"));
        }
        Ok(())
    }
}

impl GraphPlugin for Graph {
    fn init(&self, _init: &GraphInit) -> Result<Done, Fault> {
        locked(&self.holds).clear();
        Ok(Done::Changed)
    }

    fn status(&self) -> Result<Vec<(String, String)>, Fault> {
        Ok(vec![("Folder".into(), self.home.display().to_string())])
    }

    fn create(&self, layer: &NewLayer) -> Result<Done, Fault> {
        self.make(layer, LayerKind::Image)
    }

    fn create_read_write(&self, layer: &NewLayer) -> Result<Done, Fault> {
        self.make(layer, LayerKind::Container)
    }

    fn get(&self, id: &LayerId, _mount_label: &str) -> Result<PathBuf, Fault> {
        let mut holds = locked(&self.holds);
        let root = self.root(id)?;
        *holds.entry(id.clone()).or_default() += 1;
        Ok(root)
    }

    fn put(&self, id: &LayerId) -> Result<Done, Fault> {
        let mut holds = locked(&self.holds);
        let Some(count) = holds.get_mut(id) else {
            return Ok(Done::AlreadySo);
        };
        *count -= 1;
        if *count == 0 {
            holds.remove(id);
        }
        Ok(Done::Changed)
    }

    fn exists(&self, id: &LayerId) -> Result<bool, Fault> {
        Ok(self.root(id).is_ok())
    }

    fn remove(&self, id: &LayerId) -> Result<Done, Fault> {
        let _only = locked(&self.layers);
        let holds = locked(&self.holds);
        if self.root(id).is_err() {
            return Ok(Done::AlreadySo);
        }
        if holds.contains_key(id) {
            return Err(Fault::in_use(format!("remove layer {}: it is held", id.short())));
        }
        let listed = fs::read_dir(&self.home).map_err(|error| fault("list", &self.home, error))?;
        let mut ids = listed
            .flatten()
            .filter_map(|entry| LayerId::new(entry.file_name().to_string_lossy()).ok());
        if let Some(child) = ids.find(|child| self.parent(child).as_ref() == Some(id)) {
            let text = format!("remove layer {}: layer {} is over it", id.short(), child.short());
            return Err(Fault::in_use(text));
        }
        let folder = self.folder(id);
        fs::remove_dir_all(&folder).map_err(|error| fault("remove layer", &folder, error))?;
        Ok(Done::Changed)
    }

    fn metadata(&self, id: &LayerId) -> Result<BTreeMap<String, String>, Fault> {
        Ok(BTreeMap::from([(
            "Dir".into(),
            self.root(id)?.display().to_string(),
        )]))
    }

    fn changes(&self, id: &LayerId, parent: Option<&LayerId>) -> Result<Vec<Change>, Fault> {
        Ok(self.against(id, parent)?.1)
    }

    fn diff(&self, id: &LayerId, parent: Option<&LayerId>, out: &mut dyn Write) -> Result<(), Fault> {
        let (root, changes) = self.against(id, parent)?;
        write_archive(&root, &changes, out).map_err(|error| fault("archive", &root, error))
    }

    fn diff_size(&self, id: &LayerId, parent: Option<&LayerId>) -> Result<u64, Fault> {
        let (root, changes) = self.against(id, parent)?;
        let present = changes.iter().filter(|change| change.kind != ChangeKind::Deleted);
        let metas = present.filter_map(|change| root.join(&change.path[1..]).symlink_metadata().ok());
        // Hard links once.
        let sizes: BTreeMap<u64, u64> = metas
            .filter(fs::Metadata::is_file)
            .map(|meta| (meta.ino(), meta.len()))
            .collect();
        Ok(sizes.values().sum())
    }

    fn apply_diff(
        &self,
        id: &LayerId,
        parent: Option<&LayerId>,
        archive: &mut dyn Read,
    ) -> Result<u64, Fault> {
        let root = self.root(id)?;
        read_archive(&root, archive)
            .map_err(|error| Fault::invalid(format!("unpack into layer {}", id.short())).because(error))?;
        self.diff_size(id, parent)
    }

    fn cleanup(&self) -> Result<Done, Fault> {
        locked(&self.holds).clear();
        Ok(Done::Changed)
    }
}
