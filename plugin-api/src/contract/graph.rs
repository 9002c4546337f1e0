//! What Docker relies on in a graph plugin.
//!
//! Every case begins with `GraphDriver.Init`, as every start of an engine does; that voids the holds of
//! running containers, so never point this suite at a plugin that serves any.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::trees::{
    Archive, Ctx, Node, apply, base, container, diff, edit, fresh, has, image, image_of, init, layer, pipe,
    remove_at_end, tree, tree_of, within,
};
use super::{Failure, Report, Subject, Verdict, ensure, fresh_hex, suite};
use crate::fault::FaultKind::{AlreadyExists, InUse, Invalid, NotFound};
use crate::graph::{Change, ChangeKind, GraphPlugin};
use crate::id::LayerId;

/// A driver as this suite holds it.
pub type Driver = Arc<dyn GraphPlugin>;

suite! { "graph", dyn GraphPlugin;
    init_may_come_again: "every start of an engine sends it";
    status_and_metadata_answer: "docker info and docker inspect";
    exists_is_false_for_an_unknown_layer: "engines ask before they make a layer";
    a_new_layer_is_an_empty_directory: "an image begins with it; its root is 0755 of root";
    create_twice_is_already_so: "engines repeat a create whose answer got lost";
    create_over_another_parent_is_refused: "an id that means two layers would mix two images";
    create_over_a_missing_parent_is_refused: "a layer without its parent is a broken image";
    an_unknown_storage_option_makes_nothing: "a mistyped --storage-opt must not give a layer without it";
    a_container_has_an_init_layer_of_its_own: "Docker makes ID-init first, then ID over it";
    get_of_an_unknown_layer_is_refused: "a container must not start over an empty directory";
    gets_are_counted: "docker cp gets and puts the layer of a running container";
    concurrent_gets_count: "a layer is got by several requests at once";
    put_of_nothing_is_already_so: "engines put again after a failed start";
    init_voids_holds: "a killed engine never puts";
    cleanup_keeps_layers: "an engine that shuts down comes back";
    layers_survive_a_restart_of_the_driver: "engines never repeat a create";
    remove_of_an_unknown_layer_is_already_so: "engines remove again after they lost an answer";
    remove_of_a_held_layer_is_refused: "an engine that lost its state removes layers in use";
    remove_of_a_parent_is_refused: "images share layers";
    remove_forgets_the_layer: "an id may come back: docker rmi, then pull";
    an_archive_is_unpacked_as_it_is: "files, modes, links: an image is what was built";
    an_applied_layer_tells_its_size: "engines check the size against diff_size";
    an_archive_cannot_leave_the_layer: "images come from strangers";
    a_broken_archive_is_refused: "a download that ended early must not become an image";
    a_child_shows_its_parent_and_leaves_it_alone: "copy on write";
    deep_chains_are_read_to_the_bottom: "Docker allows 125 layers";
    a_whiteout_hides_the_parents_entry: "RUN rm of a file of the layer below";
    an_opaque_directory_hides_the_parents_entries: "RUN rm -r and mkdir again of a directory of the layer below";
    an_untouched_layer_has_no_changes: "docker diff of a fresh container is empty";
    changes_tell_each_kind: "docker diff";
    changes_are_sorted: "docker diff shows them as they come";
    a_change_of_equal_size_is_seen: "comparing sizes alone loses a user's edit";
    diff_then_apply_gives_the_same_tree: "docker commit";
    diff_then_apply_gives_the_same_size: "docker commit, then docker ps -s";
    a_diff_speaks_of_deletions_as_aufs_did: "other hosts read the archive with their own drivers";
    an_exact_diff_gives_back_the_archive: "docker push verifies the digest";
    questions_about_an_unknown_layer_are_refused: "an empty answer would pass for an empty layer";
    a_diff_streams_while_another_layer_is_applied: "docker commit reads and writes at once on two connections";
    concurrent_siblings_do_not_meet: "docker pull unpacks while containers start and stop";
}

/// Runs the suite and panics with every failed case.
pub fn check(subject: &Subject<'_, dyn GraphPlugin>) -> Vec<Report> {
    super::check(SUITE, subject)
}

fn edited(ctx: &Ctx<'_>) -> Result<(LayerId, LayerId), Failure> {
    init(ctx)?;
    let below = image_of(ctx, None, &base())?;
    let id = container(ctx, &below)?;
    within(ctx, &id, edit)?;
    Ok((below, id))
}

// === the engine's side ===

fn init_may_come_again(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let id = image_of(ctx, None, &base())?;
    init(ctx)?;
    has(ctx, &id, &["/etc/passwd"], &[])
}

fn status_and_metadata_answer(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    ctx.driver().status()?;
    let id = image(ctx, None)?;
    ctx.driver().metadata(&id)?;
    let unknown = fresh(ctx);
    ctx.refused(
        ctx.driver().metadata(&unknown),
        NotFound,
        "metadata of an unknown layer",
    )
}

fn exists_is_false_for_an_unknown_layer(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let unknown = fresh(ctx);
    ensure!(!ctx.driver().exists(&unknown)?, "a layer never made exists");
    let id = image(ctx, None)?;
    ensure!(ctx.driver().exists(&id)?, "a layer just made does not exist");
    Ok(())
}

fn a_new_layer_is_an_empty_directory(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let id = image(ctx, None)?;
    within(ctx, &id, |dir| {
        ensure!(dir.is_absolute(), "{} is not absolute", dir.display());
        let meta = fs::metadata(dir)?;
        ensure!(meta.is_dir(), "{} is no directory", dir.display());
        ensure!(
            meta.mode() & 0o7777 == 0o755,
            "its mode is {:o}",
            meta.mode() & 0o7777
        );
        let entries = fs::read_dir(dir)?.count();
        ensure!(entries == 0, "it holds {entries} entries");
        Ok(())
    })
}

fn create_twice_is_already_so(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let below = image(ctx, None)?;
    ctx.already_so(
        ctx.driver().create(&layer(&below, None)),
        "the second create of an image layer",
    )?;
    let id = container(ctx, &below)?;
    let again = ctx.driver().create_read_write(&layer(&id, Some(&below)));
    ctx.already_so(again, "the second create of a container's layer")
}

fn create_over_another_parent_is_refused(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let (one, two) = (image(ctx, None)?, image(ctx, None)?);
    let id = image(ctx, Some(&one))?;
    let again = ctx.driver().create(&layer(&id, Some(&two)));
    ctx.refused(again, AlreadyExists, "the same id over another parent")
}

fn create_over_a_missing_parent_is_refused(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let (unknown, id) = (fresh(ctx), fresh(ctx));
    ctx.refused(
        ctx.driver().create(&layer(&id, Some(&unknown))),
        NotFound,
        "a layer over a missing parent",
    )?;
    ensure!(!ctx.driver().exists(&id)?, "the layer that was refused exists");
    Ok(())
}

fn an_unknown_storage_option_makes_nothing(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let (below, id) = (image(ctx, None)?, fresh(ctx));
    let mut spec = layer(&id, Some(&below));
    spec.options.insert("no-such-option-anywhere".into(), "1".into());
    ctx.refused(
        ctx.driver().create_read_write(&spec),
        Invalid,
        "a layer with an unknown option",
    )?;
    ensure!(!ctx.driver().exists(&id)?, "the layer that was refused exists");
    Ok(())
}

fn a_container_has_an_init_layer_of_its_own(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let below = image_of(ctx, None, &base())?;
    let hex = fresh_hex();
    let first = LayerId::new(format!("{hex}-init")).expect("plain characters");
    let second = LayerId::new(hex).expect("plain characters");
    remove_at_end(ctx, &first);
    remove_at_end(ctx, &second);
    ctx.changed(
        ctx.driver().create_read_write(&layer(&first, Some(&below))),
        "create of ID-init",
    )?;
    within(ctx, &first, |dir| Ok(fs::write(dir.join("etc/hostname"), b"")?))?;
    ctx.changed(
        ctx.driver().create_read_write(&layer(&second, Some(&first))),
        "create of ID",
    )?;
    has(ctx, &second, &["/etc/hostname", "/etc/passwd"], &[])?;
    ctx.changed(ctx.driver().remove(&second), "remove of ID")?;
    ctx.changed(ctx.driver().remove(&first), "remove of ID-init")
}

// === holds ===

fn get_of_an_unknown_layer_is_refused(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let unknown = fresh(ctx);
    ctx.refused(
        ctx.driver().get(&unknown, ""),
        NotFound,
        "get of an unknown layer",
    )?;
    ensure!(!ctx.driver().exists(&unknown)?, "a get made the layer");
    Ok(())
}

fn gets_are_counted(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let below = image_of(ctx, None, &base())?;
    let id = container(ctx, &below)?;
    let first = ctx.driver().get(&id, "")?;
    let second = ctx.driver().get(&id, "")?;
    ensure!(
        first == second,
        "first {}, then {}",
        first.display(),
        second.display()
    );
    ctx.changed(ctx.driver().put(&id), "the first put")?;
    ensure!(
        first.join("etc/passwd").is_file(),
        "one of two puts took the files away"
    );
    ctx.refused(
        ctx.driver().remove(&id),
        InUse,
        "remove after two gets and one put",
    )?;
    ctx.changed(ctx.driver().put(&id), "the second put")?;
    ctx.changed(ctx.driver().remove(&id), "remove after two gets and two puts")
}

fn concurrent_gets_count(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let id = image_of(ctx, None, &base())?;
    let mut dirs = Vec::new();
    for dir in super::at_once(8, |_| ctx.driver().get(&id, "")) {
        dirs.push(dir?);
    }
    ensure!(
        dirs.iter().all(|dir| *dir == dirs[0]),
        "concurrent gets gave {dirs:?}"
    );
    for put in super::at_once(7, |_| ctx.driver().put(&id)) {
        ctx.changed(put, "a concurrent put")?;
    }
    ensure!(
        dirs[0].join("etc/passwd").is_file(),
        "seven of eight puts took the files away"
    );
    ctx.refused(
        ctx.driver().remove(&id),
        InUse,
        "remove after eight gets and seven puts",
    )?;
    ctx.changed(ctx.driver().put(&id), "the last put")?;
    ctx.changed(ctx.driver().remove(&id), "remove after eight gets and eight puts")
}

fn put_of_nothing_is_already_so(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let id = image(ctx, None)?;
    ctx.already_so(ctx.driver().put(&id), "put of a layer that nobody holds")?;
    let unknown = fresh(ctx);
    ctx.already_so(ctx.driver().put(&unknown), "put of an unknown layer")
}

fn init_voids_holds(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let below = image_of(ctx, None, &base())?;
    let id = container(ctx, &below)?;
    ctx.driver().get(&id, "")?;
    ctx.driver().get(&id, "")?;
    init(ctx)?;
    // Live-restore: the new engine gets the layer of the running container once more.
    let dir = ctx.driver().get(&id, "")?;
    ensure!(
        dir.join("etc/passwd").is_file(),
        "the running container's files are gone"
    );
    ctx.changed(ctx.driver().put(&id), "the new engine's only put")?;
    ctx.changed(ctx.driver().remove(&id), "remove after the new engine's only put")
}

fn cleanup_keeps_layers(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let id = image_of(ctx, None, &base())?;
    ctx.driver().cleanup()?;
    init(ctx)?;
    has(ctx, &id, &["/etc/passwd"], &[])
}

fn layers_survive_a_restart_of_the_driver(ctx: &Ctx<'_>) -> Verdict {
    let (below, id) = edited(ctx)?;
    ctx.restart()?;
    init(ctx)?;
    has(ctx, &id, &["/etc/passwd", "/opt/tool"], &["/etc/hosts"])?;
    ctx.already_so(
        ctx.driver().create(&layer(&below, None)),
        "create after the restart",
    )?;
    ctx.refused(
        ctx.driver().remove(&below),
        InUse,
        "remove of the parent after the restart",
    )
}

// === remove ===

fn remove_of_an_unknown_layer_is_already_so(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let unknown = fresh(ctx);
    ctx.already_so(ctx.driver().remove(&unknown), "remove of an unknown layer")
}

fn remove_of_a_held_layer_is_refused(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let id = image_of(ctx, None, &base())?;
    let dir = ctx.driver().get(&id, "")?;
    ctx.refused(ctx.driver().remove(&id), InUse, "remove of a held layer")?;
    ensure!(
        dir.join("etc/passwd").is_file(),
        "the refused remove took the files away"
    );
    ctx.driver().put(&id)?;
    Ok(())
}

fn remove_of_a_parent_is_refused(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let below = image_of(ctx, None, &base())?;
    let id = image(ctx, Some(&below))?;
    ctx.refused(
        ctx.driver().remove(&below),
        InUse,
        "remove of a layer with a child",
    )?;
    has(ctx, &id, &["/etc/passwd"], &[])?;
    ctx.changed(ctx.driver().remove(&id), "remove of the child")?;
    ctx.changed(
        ctx.driver().remove(&below),
        "remove of the parent after its child",
    )
}

fn remove_forgets_the_layer(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let id = image_of(ctx, None, &base())?;
    ctx.changed(ctx.driver().remove(&id), "remove")?;
    ensure!(!ctx.driver().exists(&id)?, "the removed layer exists");
    ctx.changed(ctx.driver().create(&layer(&id, None)), "create of the removed id")?;
    has(ctx, &id, &[], &["/etc/passwd"])
}

// === archives in ===

fn an_archive_is_unpacked_as_it_is(ctx: &Ctx<'_>) -> Verdict {
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

fn an_applied_layer_tells_its_size(ctx: &Ctx<'_>) -> Verdict {
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

fn an_archive_cannot_leave_the_layer(ctx: &Ctx<'_>) -> Verdict {
    init(ctx)?;
    let outside = std::env::temp_dir().join(super::fresh_name());
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

fn a_broken_archive_is_refused(ctx: &Ctx<'_>) -> Verdict {
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

fn a_child_shows_its_parent_and_leaves_it_alone(ctx: &Ctx<'_>) -> Verdict {
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

fn deep_chains_are_read_to_the_bottom(ctx: &Ctx<'_>) -> Verdict {
    const DEPTH: usize = 120;
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

fn a_whiteout_hides_the_parents_entry(ctx: &Ctx<'_>) -> Verdict {
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

fn an_opaque_directory_hides_the_parents_entries(ctx: &Ctx<'_>) -> Verdict {
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

fn an_untouched_layer_has_no_changes(ctx: &Ctx<'_>) -> Verdict {
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

fn changes_tell_each_kind(ctx: &Ctx<'_>) -> Verdict {
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

fn changes_are_sorted(ctx: &Ctx<'_>) -> Verdict {
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

fn a_change_of_equal_size_is_seen(ctx: &Ctx<'_>) -> Verdict {
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

fn diff_then_apply_gives_the_same_tree(ctx: &Ctx<'_>) -> Verdict {
    let (_, id, copy, _) = committed(ctx)?;
    let (wanted, found) = (tree_of(ctx, &id)?, tree_of(ctx, &copy)?);
    ensure!(
        wanted == found,
        "the container has {wanted:?}, its commit {found:?}"
    );
    Ok(())
}

fn diff_then_apply_gives_the_same_size(ctx: &Ctx<'_>) -> Verdict {
    let (below, id, copy, told) = committed(ctx)?;
    let source = ctx.driver().diff_size(&id, Some(&below))?;
    let size = ctx.driver().diff_size(&copy, Some(&below))?;
    ensure!(
        source == size && told == size,
        "the container {source}, apply {told}, the commit {size} bytes"
    );
    Ok(())
}

fn a_diff_speaks_of_deletions_as_aufs_did(ctx: &Ctx<'_>) -> Verdict {
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

fn an_exact_diff_gives_back_the_archive(ctx: &Ctx<'_>) -> Verdict {
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

fn questions_about_an_unknown_layer_are_refused(ctx: &Ctx<'_>) -> Verdict {
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

fn a_diff_streams_while_another_layer_is_applied(ctx: &Ctx<'_>) -> Verdict {
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

fn concurrent_siblings_do_not_meet(ctx: &Ctx<'_>) -> Verdict {
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
    super::at_once(8, work).into_iter().collect::<Verdict>()?;
    has(ctx, &below, &["/etc/passwd"], &[])
}
