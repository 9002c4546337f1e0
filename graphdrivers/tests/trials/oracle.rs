//! The same life in every back end: `vfs`, which only copies, tells what the others must show.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plugin_api::graph::{ChangeKind, GraphInit, GraphPlugin};

use crate::common::{BackEnd, Raw, archive, diff, file, fill, folder, id, layer, link};

/// The same numbers in every run, but for `LONGSHORE_FUZZ_SEED`.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn pick(&mut self, paths: &[PathBuf]) -> Option<PathBuf> {
        (!paths.is_empty()).then(|| paths[self.roll(paths.len())].clone())
    }
}

/// Everything below a root but times and the number of names, by path.
fn plain(root: &Path) -> BTreeMap<PathBuf, String> {
    let (mut all, mut todo) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(path) = todo.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else {
            // Never so, but where a store lists what it does not have.
            all.insert(
                path.strip_prefix(root).unwrap().to_owned(),
                "listed, and not there".to_owned(),
            );
            continue;
        };
        let mut told = format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid());
        if meta.is_symlink() {
            write!(told, " -> {}", fs::read_link(&path).unwrap().display()).unwrap();
        } else if meta.is_file() {
            let bytes = fs::read(&path).unwrap();
            write!(told, " {:?}", String::from_utf8_lossy(&bytes)).unwrap();
        } else if meta.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        all.insert(path.strip_prefix(root).unwrap().to_owned(), told);
    }
    all
}

/// Paths of folders and of files below a root, relative and sorted.
fn census(root: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (folders, others): (Vec<_>, Vec<_>) = plain(root)
        .into_keys()
        .filter(|path| path != Path::new(""))
        .partition(|path| fs::symlink_metadata(root.join(path)).is_ok_and(|meta| meta.is_dir()));
    (folders, others)
}

/// One thing that a container does. Only such whose trace is the same for a copy and an overlay: no rename of
/// lower folders, nothing set to what it is.
fn work(root: &Path, dice: &mut Dice, serial: usize) {
    let (folders, mut files) = census(root);
    // An overlay parts the two names of an inode where one of them is changed.
    files.retain(|path| !path.file_name().unwrap().as_encoded_bytes().starts_with(b"t"));
    let dir = dice.pick(&folders).unwrap_or_default();
    let fresh = root.join(&dir).join(format!("w{serial}"));
    let existing = dice.pick(&files).map(|path| root.join(path));
    let regular = existing
        .as_ref()
        .filter(|path| fs::symlink_metadata(path).unwrap().is_file());
    match (dice.roll(10), regular, existing.as_ref()) {
        (0, ..) => fs::create_dir(&fresh).unwrap(),
        (1, ..) => symlink(format!("../{serial}"), &fresh).unwrap(),
        (2, ..) => {
            let twin = fresh.with_file_name(format!("t{serial}"));
            fs::write(&twin, "two names").unwrap();
            fs::hard_link(&twin, twin.with_extension("twin")).unwrap();
        }
        (3, _, Some(file)) => fs::remove_file(file).unwrap(),
        (4, _, Some(file)) => fs::rename(file, &fresh).unwrap(),
        (5, Some(file), _) => fs::write(file, format!("written {serial}")).unwrap(),
        (6, Some(file), _) => {
            // Another one each time: what was changed and changed back is told by overlays alone.
            let mode = u32::try_from(serial % 0o1000).unwrap();
            fs::set_permissions(file, PermissionsExt::from_mode(mode)).unwrap();
        }
        (7, ..) if dir != Path::new("") => fs::remove_dir_all(root.join(&dir)).unwrap(),
        (8, ..) if dir != Path::new("") => {
            fs::remove_dir_all(root.join(&dir)).unwrap();
            fs::create_dir(root.join(&dir)).unwrap();
            fs::write(&fresh, "in a folder made anew").unwrap();
        }
        _ => fs::write(&fresh, format!("fresh {serial}")).unwrap(),
    }
}

/// An image layer as somebody else may have built it, against what is there.
fn built(root: &Path, dice: &mut Dice, serial: usize) -> Vec<u8> {
    let (folders, files) = census(root);
    let mut names: Vec<(u8, String)> = Vec::new();
    for n in 0..6 {
        let dir = dice.pick(&folders).unwrap_or_default();
        let at = |name: String| dir.join(name).to_str().unwrap().to_owned();
        match dice.roll(5) {
            0 => names.push((b'5', at(format!("b{serial}-{n}")))),
            1 => names.push((b'2', at(format!("b{serial}-{n}")))),
            // A folder that hides what was below it, and brings something.
            2 if dir != Path::new("") => {
                names.push((b'5', dir.to_str().unwrap().to_owned()));
                names.push((b'0', at(".wh..wh..opq".to_owned())));
                names.push((b'0', at(format!("b{serial}-{n}"))));
            }
            3 => {
                if let Some(gone) = dice.pick(&files) {
                    let name = format!(".wh.{}", gone.file_name().unwrap().to_str().unwrap());
                    names.push((b'0', gone.with_file_name(name).to_str().unwrap().to_owned()));
                }
            }
            _ => names.push((b'0', at(format!("b{serial}-{n}")))),
        }
    }
    let mut seen = BTreeSet::new();
    names.retain(|(_, name)| seen.insert(name.clone()));
    let entries: Vec<Raw<'_>> = names
        .iter()
        .map(|(flag, name)| match flag {
            b'5' => folder(name),
            b'2' => link(b'2', name, "target"),
            _ if name.contains(".wh.") => file(name, ""),
            _ => file(name, name),
        })
        .collect();
    archive(&entries)
}

/// One back end at work.
struct Store {
    back_end: BackEnd,
    plugin: Arc<dyn GraphPlugin>,
}

impl Store {
    fn within<T>(&self, name: &str, work: impl FnOnce(&Path) -> T) -> T {
        let dir = self.plugin.get(&id(name), "").unwrap();
        let result = work(&dir);
        self.plugin.put(&id(name)).unwrap();
        result
    }

    /// What changed, without folders that are only told to have changed.
    fn changes(&self, name: &str, parent: &str) -> BTreeSet<(String, ChangeKind)> {
        let all = self.plugin.changes(&id(name), Some(&id(parent))).unwrap();
        let is_folder = |path: &str| {
            self.within(name, |root| {
                fs::symlink_metadata(root.join(&path[1..])).is_ok_and(|meta| meta.is_dir())
            })
        };
        all.into_iter()
            .map(|change| (change.path, change.kind))
            .filter(|(path, kind)| *kind != ChangeKind::Modified || !is_folder(path))
            .collect()
    }
}

fn agree(stores: &[Store], name: &str, seed: u64) {
    let oracle = stores[0].within(name, plain);
    for store in &stores[1..] {
        let found = store.within(name, plain);
        let paths: BTreeSet<&PathBuf> = oracle.keys().chain(found.keys()).collect();
        for path in paths {
            let (wanted, found) = (oracle.get(path), found.get(path));
            assert_eq!(
                found,
                wanted,
                "{} of {name} in {:?}, seed {seed}",
                path.display(),
                store.back_end
            );
        }
    }
}

fn live(stores: &[Store], seed: u64) {
    for store in stores {
        store.plugin.init(&GraphInit::default()).unwrap();
        let base = archive(&[
            folder("d/"),
            file("d/a", "a"),
            folder("d/e/"),
            file("d/e/b", "b"),
            file("c", "c"),
        ]);
        fill(&*store.plugin, "i0", "", &base).unwrap();
    }
    for round in 0..6_u64 {
        let (below, run, commit) = (format!("i{round}"), format!("r{round}"), format!("c{round}"));
        let next = format!("i{}", round + 1);
        let dice = || Dice(seed << 16 | round);
        let first = usize::try_from(round).unwrap() * 100;
        let layers: Vec<Vec<u8>> = stores
            .iter()
            .map(|store| {
                store.plugin.create_read_write(&layer(&run, &below)).unwrap();
                let mut dice = dice();
                store.within(&run, |root| {
                    (0..15).for_each(|n| work(root, &mut dice, first + n));
                });
                diff(&*store.plugin, &run, &below)
            })
            .collect();
        agree(stores, &run, seed);
        let told: Vec<_> = stores.iter().map(|store| store.changes(&run, &below)).collect();
        for (store, found) in stores.iter().zip(&told) {
            let back_end = store.back_end;
            assert_eq!(found, &told[0], "changes of {run} in {back_end:?}, seed {seed}");
        }
        for (number, store) in stores.iter().enumerate() {
            fill(&*store.plugin, &commit, &below, &layers[number]).unwrap();
            // And what the next one wrote: all speak one language.
            let other = format!("o{round}");
            fill(
                &*store.plugin,
                &other,
                &below,
                &layers[(number + 1) % layers.len()],
            )
            .unwrap();
            let bytes = stores[0].within(&commit, |root| built(root, &mut dice(), first));
            fill(&*store.plugin, &next, &commit, &bytes).unwrap();
            store.plugin.remove(&id(&run)).unwrap();
        }
        for name in [&commit, &format!("o{round}"), &next] {
            agree(stores, name, seed);
        }
        for store in stores {
            store.plugin.remove(&id(&format!("o{round}"))).unwrap();
        }
    }
}

#[test]
fn every_back_end_shows_what_copies_show() {
    let seeds: Vec<u64> = match std::env::var("LONGSHORE_FUZZ_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..6).collect(),
    };
    for seed in seeds {
        BackEnd::Vfs.alone(|vfs| {
            let overlay = vfs.with_file_name("overlay");
            kernel::fsutil::make_dir(&overlay, 0o700).unwrap();
            crate::common::beside(vfs, "btrfs", |btrfs| {
                let open = |back_end: BackEnd, state: &Path| Store {
                    back_end,
                    plugin: back_end.graph(state).unwrap(),
                };
                let stores = [
                    open(BackEnd::Vfs, vfs),
                    open(BackEnd::Overlay, &overlay),
                    open(BackEnd::Btrfs, btrfs),
                ];
                live(&stores, seed);
            });
        });
    }
}
