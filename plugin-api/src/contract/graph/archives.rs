//! Archives in and out, chains, and what comes of them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;

use super::super::trees::{
    Archive, Ctx, Node, apply, base, container, diff, edit, has, image, image_of, init, pipe, tree, tree_of,
    within,
};
use super::super::{Failure, Verdict, at_once, ensure, fresh_name};
use super::{edited, fresh};
use crate::fault::FaultKind::NotFound;
use crate::graph::{Change, ChangeKind};
use crate::id::LayerId;

// === archives in ===

pub(super) fn an_archive_is_unpacked_as_it_is(ctx: &Ctx<'_>) -> Verdict {
    use tar::EntryType::{Directory, Link, Regular, Symlink};
    init(ctx)?;
    let archive = Archive::new()
        .dir("usr/")
        .entry((Directory, 0o1777), "tmp/", b"", "");
    let archive = archive
        .entry((Regular, 0o4755), "usr/su", b"#!", "")
        .file("usr/text", b"text");
    let archive = archive.entry((Symlink, 0o777), "usr/soft", b"", "/etc/nowhere");
    let id = image_of(
        ctx,
        None,
        &archive.entry((Link, 0o644), "usr/hard", b"", "usr/text").bytes(),
    )?;
    let text = Node::File {
        mode: 0o644,
        content: b"text".to_vec(),
    };
    let wanted = BTreeMap::from([
        ("/tmp".to_owned(), Node::Dir { mode: 0o1777 }),
        ("/usr".to_owned(), Node::Dir { mode: 0o755 }),
        ("/usr/hard".to_owned(), text.clone()),
        (
            "/usr/soft".to_owned(),
            Node::Link {
                target: "/etc/nowhere".into(),
            },
        ),
        (
            "/usr/su".to_owned(),
            Node::File {
                mode: 0o4755,
                content: b"#!".to_vec(),
            },
        ),
        ("/usr/text".to_owned(), text),
    ]);
    within(ctx, &id, |dir| {
        let found = tree(dir)?;
        ensure!(found == wanted, "unpacked {found:?}, not {wanted:?}");
        let inode = |name| fs::metadata(dir.join(name)).map(|meta| meta.ino());
        ensure!(
            inode("usr/hard")? == inode("usr/text")?,
            "the hard link became a copy"
        );
        Ok(())
    })
}

pub(super) fn an_applied_layer_tells_its_size(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let below = image(ctx, None)?;
    let told = apply(ctx, &below, None, &base())?;
    let size = ctx.driver().diff_size(&below, None)?;
    ensure!(told == size, "apply told {told} bytes, diff_size {size}");
    let plain = 4 + 9 + 1 + 2 + 4;
    ensure!(
        told >= plain && told < plain + 1_000_000,
        "{plain} bytes of content are told as {told}"
    );
    Ok(())
}

pub(super) fn an_archive_cannot_leave_the_layer(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let outside = std::env::temp_dir().join(fresh_name());
    fs::create_dir(&outside)?;
    let target = outside.to_string_lossy().into_owned();
    let through_link = Archive::new().entry((tar::EntryType::Symlink, 0o777), "out", b"", &target);
    let climbing = format!("../../../../../../../../../../..{target}/climbed");
    let archives = [
        through_link.file("out/linked", b"x").bytes(),
        Archive::new().file(&climbing, b"x").bytes(),
    ];
    for archive in archives {
        let id = image(ctx, None)?;
        // Refused or kept inside: both are safe.
        let _ = apply(ctx, &id, None, &archive);
    }
    let written: Vec<_> = fs::read_dir(&outside)?
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    fs::remove_dir_all(&outside)?;
    ensure!(
        written.is_empty(),
        "an archive wrote {written:?} outside its layer"
    );
    Ok(())
}

pub(super) fn a_broken_archive_is_refused(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let id = image(ctx, None)?;
    let whole = Archive::new().file("large", &[7; 10_000]).bytes();
    let mut cut = &whole[..5_000];
    let answer = ctx.driver().apply_diff(&id, None, &mut cut);
    ensure!(
        answer.is_err(),
        "an archive that ends early was taken as {answer:?} bytes"
    );
    let id = image(ctx, None)?;
    let mut noise: &[u8] = &[b'x'; 4096];
    let answer = ctx.driver().apply_diff(&id, None, &mut noise);
    ensure!(
        answer.is_err(),
        "what is no archive was taken as {answer:?} bytes"
    );
    Ok(())
}

// === chains ===

pub(super) fn a_child_shows_its_parent_and_leaves_it_alone(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let below = image_of(ctx, None, &base())?;
    let before = tree_of(ctx, &below)?;
    let id = container(ctx, &below)?;
    let shown = tree_of(ctx, &id)?;
    ensure!(
        shown == before,
        "the parent has {before:?}, its child shows {shown:?}"
    );
    within(ctx, &id, edit)?;
    let after = tree_of(ctx, &below)?;
    ensure!(
        before == after,
        "the child's changes reached the parent: {after:?}"
    );
    Ok(())
}

pub(super) fn deep_chains_are_read_to_the_bottom(ctx: &Ctx<'_>) -> Verdict {
    const DEPTH: usize = 128;
    init(ctx)?;
    let mut top: Option<LayerId> = None;
    for n in 0..DEPTH {
        let archive = Archive::new()
            .file(&format!("layer-{n}"), b"x")
            .file("newest", n.to_string().as_bytes());
        top = Some(image_of(ctx, top.as_ref(), &archive.bytes())?);
    }
    let top = container(ctx, &top.expect("a chain has a top"))?;
    within(ctx, &top, |dir| {
        for n in 0..DEPTH {
            ensure!(
                dir.join(format!("layer-{n}")).is_file(),
                "layer {n} of {DEPTH} is not to be seen"
            );
        }
        let newest = fs::read_to_string(dir.join("newest"))?;
        ensure!(
            newest == (DEPTH - 1).to_string(),
            "the topmost file is that of layer {newest}"
        );
        Ok(())
    })
}

pub(super) fn a_whiteout_hides_the_parents_entry(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let below = image_of(ctx, None, &base())?;
    let archive = Archive::new()
        .dir("etc/")
        .file("etc/.wh.hosts", b"")
        .dir("var/")
        .file("var/.wh.log", b"");
    let id = image_of(ctx, Some(&below), &archive.bytes())?;
    let absent = [
        "/etc/hosts",
        "/var/log",
        "/var/log/one",
        "/etc/.wh.hosts",
        "/var/.wh.log",
    ];
    has(ctx, &id, &["/etc/passwd", "/var", "/srv/data"], &absent)?;
    let above = container(ctx, &id)?;
    has(ctx, &above, &["/etc/passwd"], &absent)
}

pub(super) fn an_opaque_directory_hides_the_parents_entries(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let below = image_of(ctx, None, &base())?;
    let archive = Archive::new()
        .dir("var/")
        .dir("var/log/")
        .file("var/log/.wh..wh..opq", b"");
    let id = image_of(ctx, Some(&below), &archive.file("var/log/three", b"333").bytes())?;
    let absent = ["/var/log/one", "/var/log/two", "/var/log/.wh..wh..opq"];
    has(ctx, &id, &["/var/log/three", "/etc/passwd"], &absent)?;
    let above = container(ctx, &id)?;
    has(ctx, &above, &["/var/log/three"], &absent)
}

// === changes and archives out ===

pub(super) fn an_untouched_layer_has_no_changes(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let below = image_of(ctx, None, &base())?;
    let id = container(ctx, &below)?;
    within(ctx, &id, |dir| {
        fs::read(dir.join("etc/passwd"))?;
        Ok(())
    })?;
    let changes = ctx.driver().changes(&id, Some(&below))?;
    ensure!(changes.is_empty(), "nothing was changed, but {changes:?}");
    let archive = diff(ctx, &id, Some(&below))?;
    let entries = tar::Archive::new(archive.as_slice()).entries()?.count();
    ensure!(
        entries == 0,
        "nothing was changed, but the archive has {entries} entries"
    );
    Ok(())
}

pub(super) fn changes_tell_each_kind(ctx: &Ctx<'_>) -> Verdict {
    use ChangeKind::{Added, Deleted, Modified};
    let (below, id) = edited(ctx)?;
    let mut found = BTreeMap::new();
    for Change { path, kind } in ctx.driver().changes(&id, Some(&below))? {
        ensure!(found.insert(path.clone(), kind).is_none(), "{path} is told twice");
    }
    let wanted = [
        ("/etc/hosts", Deleted),
        ("/etc/new", Added),
        ("/etc/passwd", Modified),
        ("/opt", Added),
        ("/opt/alias", Added),
        ("/opt/tool", Added),
        ("/srv/data", Deleted),
        ("/srv/moved", Added),
        ("/var/log", Deleted),
    ];
    for (path, kind) in wanted {
        let told = found.remove(path);
        ensure!(told == Some(kind), "{path} is {kind:?}, but told as {told:?}");
    }
    // Directories whose entries changed may be told, or not.
    found.retain(|path, kind| !(*kind == Modified && ["/", "/etc", "/srv", "/var"].contains(&path.as_str())));
    ensure!(found.is_empty(), "told, but never done: {found:?}");
    Ok(())
}

pub(super) fn changes_are_sorted(ctx: &Ctx<'_>) -> Verdict {
    let (below, id) = edited(ctx)?;
    let paths: Vec<String> = ctx
        .driver()
        .changes(&id, Some(&below))?
        .into_iter()
        .map(|change| change.path)
        .collect();
    ensure!(paths.is_sorted(), "{paths:?}");
    Ok(())
}

pub(super) fn a_change_of_equal_size_is_seen(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let below = image_of(ctx, None, &base())?;
    let id = container(ctx, &below)?;
    within(ctx, &id, |dir| Ok(fs::write(dir.join("srv/data"), b"DATA")?))?;
    let changes = ctx.driver().changes(&id, Some(&below))?;
    let seen = changes
        .iter()
        .any(|change| change.path == "/srv/data" && change.kind == ChangeKind::Modified);
    ensure!(seen, "four bytes became four others, but {changes:?}");
    Ok(())
}

/// An edited container's layer, committed as an image layer over the same parent.
fn committed(ctx: &Ctx<'_>) -> Result<(LayerId, LayerId, LayerId, u64), Failure> {
    let (below, id) = edited(ctx)?;
    let archive = diff(ctx, &id, Some(&below))?;
    let copy = image(ctx, Some(&below))?;
    let told = apply(ctx, &copy, Some(&below), &archive)?;
    Ok((below, id, copy, told))
}

pub(super) fn diff_then_apply_gives_the_same_tree(ctx: &Ctx<'_>) -> Verdict {
    let (_, id, copy, _) = committed(ctx)?;
    let (wanted, found) = (tree_of(ctx, &id)?, tree_of(ctx, &copy)?);
    ensure!(
        wanted == found,
        "the container has {wanted:?}, its commit {found:?}"
    );
    Ok(())
}

pub(super) fn diff_then_apply_gives_the_same_size(ctx: &Ctx<'_>) -> Verdict {
    let (below, id, copy, told) = committed(ctx)?;
    let source = ctx.driver().diff_size(&id, Some(&below))?;
    let size = ctx.driver().diff_size(&copy, Some(&below))?;
    ensure!(
        source == size && told == size,
        "the container {source}, apply {told}, the commit {size} bytes"
    );
    Ok(())
}

pub(super) fn a_diff_speaks_of_deletions_as_aufs_did(ctx: &Ctx<'_>) -> Verdict {
    let (below, id) = edited(ctx)?;
    let bytes = diff(ctx, &id, Some(&below))?;
    let mut archive = tar::Archive::new(bytes.as_slice());
    let mut names = Vec::new();
    for entry in archive.entries()? {
        let entry = entry?;
        let kind = entry.header().entry_type();
        ensure!(
            !kind.is_character_special(),
            "a deletion is told by a device node"
        );
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        ensure!(!name.starts_with('/'), "{name} is absolute");
        names.push(name.trim_start_matches("./").trim_end_matches('/').to_owned());
    }
    for name in [
        "etc/.wh.hosts",
        "var/.wh.log",
        "srv/.wh.data",
        "etc/passwd",
        "opt/tool",
    ] {
        ensure!(
            names.iter().any(|found| found == name),
            "{name} is not among {names:?}"
        );
    }
    ensure!(
        !names.iter().any(|name| name == "etc/hosts"),
        "a deleted file is in the archive"
    );
    Ok(())
}

pub(super) fn an_exact_diff_gives_back_the_archive(ctx: &Ctx<'_>) -> Verdict {
    if !ctx.driver().reproduces_exact_diffs() {
        return Err(Failure::absent("the driver does not promise exact diffs"));
    }
    init(ctx)?;
    let id = image_of(ctx, None, &base())?;
    ensure!(
        diff(ctx, &id, None)? == base(),
        "the archive came back with other bytes"
    );
    Ok(())
}

pub(super) fn questions_about_an_unknown_layer_are_refused(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let id = fresh(ctx);
    ctx.refused(
        ctx.driver().changes(&id, None),
        NotFound,
        "changes of an unknown layer",
    )?;
    ctx.refused(
        ctx.driver().diff_size(&id, None),
        NotFound,
        "diff_size of an unknown layer",
    )?;
    ctx.refused(
        ctx.driver().diff(&id, None, &mut Vec::new()),
        NotFound,
        "diff of an unknown layer",
    )?;
    let mut archive: &[u8] = &base();
    ctx.refused(
        ctx.driver().apply_diff(&id, None, &mut archive),
        NotFound,
        "apply to an unknown layer",
    )
}

// === at once ===

pub(super) fn a_diff_streams_while_another_layer_is_applied(ctx: &Ctx<'_>) -> Verdict {
    const SIZE: usize = 4 << 20;
    init(ctx)?;
    let below = image_of(ctx, None, &base())?;
    let id = container(ctx, &below)?;
    // Far more than a pipe and a socket hold, so that the reader's apply must run beside the diff.
    within(ctx, &id, |dir| Ok(fs::write(dir.join("large"), vec![3; SIZE])?))?;
    let (mut reader, mut writer) = pipe();
    let copy = std::thread::scope(|scope| {
        let source = scope.spawn(|| {
            let answer = ctx.driver().diff(&id, Some(&below), &mut writer);
            drop(writer);
            answer
        });
        let copy = image(ctx, Some(&below)).and_then(|copy| {
            ctx.driver().apply_diff(&copy, Some(&below), &mut reader)?;
            Ok(copy)
        });
        drop(reader);
        source.join().map_err(|_| Failure::new("the diff panicked"))??;
        copy
    })?;
    let size = within(ctx, &copy, |dir| Ok(fs::metadata(dir.join("large"))?.len()))?;
    ensure!(size == SIZE as u64, "{SIZE} bytes became {size}");
    Ok(())
}

pub(super) fn concurrent_siblings_do_not_meet(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let below = image_of(ctx, None, &base())?;
    let work = |n: usize| -> Verdict {
        for round in 0..3 {
            let id = container(ctx, &below)?;
            let own = format!("own-{n}-{round}");
            within(ctx, &id, |dir| {
                fs::File::create_new(dir.join(&own))?.write_all(b"x")?;
                let mut text = String::new();
                fs::File::open(dir.join("etc/passwd"))?.read_to_string(&mut text)?;
                let strange = tree(dir)?
                    .into_keys()
                    .find(|path| path.starts_with("/own-") && path[1..] != own);
                ensure!(strange.is_none(), "a sibling's file is here: {strange:?}");
                Ok(())
            })?;
            ctx.changed(ctx.driver().remove(&id), "remove of a sibling")?;
        }
        Ok(())
    };
    at_once(8, work).into_iter().collect::<Verdict>()?;
    has(ctx, &below, &["/etc/passwd"], &[])
}
