//! Many files, many layers, many bytes.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::super::trees::{
    Archive, Ctx, apply, base, container, diff, fresh, image, image_of, init, layer, tree_of, within,
};
use super::super::{Failure, Verdict, ensure};
use super::{owner_of, us};
use crate::graph::ChangeKind;
use crate::id::LayerId;

fn set_mode(path: &Path, mode: u32) -> std::io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

pub(super) fn a_layer_upon_nothing_keeps_what_is_written(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let id = fresh(ctx);
    let made = ctx.driver().create_read_write(&layer(&id, None));
    ctx.changed(made, "create of a container's layer upon nothing")?;
    // Only root gives files away; then everything keeps the owner it was given.
    let owner = if us()? == (0, 0) { (1, 2) } else { us()? };
    let written = [("a dir", 0o1775), ("a dir/file", 0o4222), ("a dir/group", 0o2750)];
    within(ctx, &id, |dir| {
        fs::create_dir(dir.join("a dir"))?;
        fs::write(dir.join("a dir/file"), b"text")?;
        fs::create_dir(dir.join("a dir/group"))?;
        for (name, mode) in written {
            // A new owner takes the special modes away, so the mode comes after it.
            std::os::unix::fs::chown(dir.join(name), Some(owner.0), Some(owner.1))?;
            set_mode(&dir.join(name), mode)?;
        }
        Ok(())
    })?;
    let above = image(ctx, Some(&id))?;
    for id in [id, above] {
        within(ctx, &id, |dir| {
            for (name, mode) in written {
                let meta = fs::symlink_metadata(dir.join(name))?;
                let found = meta.permissions().mode() & 0o7777;
                ensure!(found == mode, "{name} has mode {found:o}, not {mode:o}");
                let found = owner_of(&meta);
                ensure!(found == owner, "{name} belongs to {found:?}, not to {owner:?}");
            }
            let text = fs::read(dir.join("a dir/file"))?;
            ensure!(text == b"text", "the file holds {text:?}");
            Ok(())
        })?;
    }
    Ok(())
}

pub(super) fn many_changes_are_told_exactly(ctx: &Ctx<'_>) -> Verdict {
    const MANY: usize = 30;
    init(ctx)?;
    let mut archive = Archive::new().dir("all/");
    for n in 0..MANY {
        archive = archive.file(&format!("all/old-{n}"), n.to_string().as_bytes());
    }
    let below = image_of(ctx, None, &archive.bytes())?;
    let id = container(ctx, &below)?;
    let mut wanted = BTreeSet::new();
    within(ctx, &id, |dir| {
        for n in 0..MANY {
            let (old, new) = (format!("all/old-{n}"), format!("all/new-{n}"));
            match n % 3 {
                0 => {
                    fs::write(dir.join(&old), b"changed")?;
                    wanted.insert((format!("/{old}"), ChangeKind::Modified));
                }
                1 => {
                    fs::remove_file(dir.join(&old))?;
                    wanted.insert((format!("/{old}"), ChangeKind::Deleted));
                }
                _ => {}
            }
            fs::write(dir.join(&new), b"new")?;
            wanted.insert((format!("/{new}"), ChangeKind::Added));
        }
        Ok(())
    })?;
    let changes = ctx.driver().changes(&id, Some(&below))?;
    let told = changes.into_iter().map(|change| (change.path, change.kind));
    // The folder that holds them may be told, or not.
    let found: BTreeSet<_> = told.filter(|(path, _)| path != "/all" && path != "/").collect();
    let missing: Vec<_> = wanted.difference(&found).collect();
    let extra: Vec<_> = found.difference(&wanted).collect();
    ensure!(
        missing.is_empty() && extra.is_empty(),
        "not told: {missing:?}; told and not so: {extra:?}"
    );
    Ok(())
}

// === random trees ===

/// The same dice in every run, so that a failure comes again.
struct Dice(u64);

impl Dice {
    /// A number below `sides`.
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(self.0 >> 33).unwrap_or_default() % sides
    }

    fn pick<'a>(&mut self, paths: &'a [PathBuf]) -> Option<&'a PathBuf> {
        (!paths.is_empty()).then(|| &paths[self.roll(paths.len())])
    }
}

/// Folders and other things below a root, sorted, so that the dice mean the same everywhere.
fn census(root: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), Failure> {
    let (mut folders, mut others) = (vec![root.to_path_buf()], Vec::new());
    let mut next = 0;
    while let Some(dir) = folders.get(next).cloned() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                others.push(entry.path());
            }
        }
        next += 1;
    }
    folders.sort();
    others.sort();
    Ok((folders, others))
}

/// One change of a tree; one that does not suit it is none.
fn stir(root: &Path, dice: &mut Dice, serial: usize) -> Verdict {
    let (folders, others) = census(root)?;
    let dir = dice.pick(&folders).cloned().unwrap_or_default();
    let fresh = dir.join(format!("n{serial}"));
    let other = dice.pick(&others).cloned();
    match (dice.roll(10), other) {
        (0 | 1, _) => fs::create_dir(&fresh)?,
        (2, Some(target)) => fs::hard_link(target, &fresh)?,
        (3, _) => std::os::unix::fs::symlink("../target", &fresh)?,
        (4, Some(file)) => fs::remove_file(file)?,
        (5, Some(file)) => fs::rename(file, &fresh)?,
        (6, _) if dir != *root => fs::remove_dir_all(&dir)?,
        (7, _) if dir != *root => {
            // The folder anew under its old name: nothing of before may shine through.
            fs::remove_dir_all(&dir)?;
            fs::create_dir(&dir)?;
            fs::write(dir.join(format!("n{serial}")), b"fresh")?;
        }
        (8, Some(file)) if fs::symlink_metadata(&file)?.is_file() => set_mode(&file, 0o640)?,
        _ => fs::write(&fresh, vec![b'x'; dice.roll(5000)])?,
    }
    Ok(())
}

pub(super) fn random_trees_travel_through_layers(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let mut dice = Dice(20);
    let deep = Archive::new()
        .dir("a/")
        .dir("a/b/")
        .dir("a/b/c/")
        .file("a/b/c/deep", b"deep");
    let mut below = image_of(ctx, None, &deep.bytes())?;
    for round in 0..6 {
        let id = container(ctx, &below)?;
        within(ctx, &id, |dir| {
            (0..25).try_for_each(|n| stir(dir, &mut dice, round * 100 + n))?;
            fs::create_dir_all(dir.join("a/b/c"))?;
            Ok(fs::write(dir.join("a/b/c/deep"), round.to_string())?)
        })?;
        let copy = travelled(ctx, &id, &below)?;
        let (wanted, found) = (tree_of(ctx, &id)?, tree_of(ctx, &copy)?);
        for path in wanted.keys().chain(found.keys()) {
            ensure!(
                wanted.get(path) == found.get(path),
                "round {round}: {path} was {:?} and arrived as {:?}",
                wanted.get(path),
                found.get(path)
            );
        }
        below = copy;
    }
    Ok(())
}

/// The layer as an archive makes it again, over the same parent.
fn travelled(ctx: &Ctx<'_>, id: &LayerId, below: &LayerId) -> Result<LayerId, Failure> {
    let archive = diff(ctx, id, Some(below))?;
    let copy = image(ctx, Some(below))?;
    apply(ctx, &copy, Some(below), &archive)?;
    Ok(copy)
}

// === limits ===

pub(super) fn a_size_limit_is_kept(ctx: &Ctx<'_>) -> Verdict {
    const LIMIT: usize = 16 << 20;
    init(ctx)?;
    let (below, id) = (image_of(ctx, None, &base())?, fresh(ctx));
    let mut spec = layer(&id, Some(&below));
    spec.options.insert("size".into(), LIMIT.to_string());
    if ctx.driver().create_read_write(&spec).is_err() {
        ensure!(!ctx.driver().exists(&id)?, "the layer that was refused exists");
        return Err(Failure::absent("the driver keeps no size limits here"));
    }
    within(ctx, &id, |dir| {
        let write = |name: &str, size: usize| {
            let mut file = fs::File::create(dir.join(name))?;
            let piece = [7; 1 << 12];
            for _ in 0..size / piece.len() {
                file.write_all(&piece)?;
            }
            file.sync_all()
        };
        write("half", LIMIT / 2)?;
        match write("whole", LIMIT) {
            Ok(()) => Err(Failure::new("a layer of 16 MiB took 24 MiB")),
            Err(error) if is_full(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    })?;
    ctx.changed(ctx.driver().remove(&id), "remove of a full layer")
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    [QuotaExceeded, StorageFull].contains(&error.kind())
}
