//! What Docker relies on in a graph plugin.
//!
//! Every case begins with `GraphDriver.Init`, as every start of an engine does; that voids the holds of
//! running containers, so never point this suite at a plugin that serves any.

mod archives;
mod bulk;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use self::archives::{
    a_broken_archive_is_refused, a_change_of_equal_size_is_seen,
    a_child_shows_its_parent_and_leaves_it_alone, a_diff_speaks_of_deletions_as_aufs_did,
    a_diff_streams_while_another_layer_is_applied, a_whiteout_hides_the_parents_entry,
    an_applied_layer_tells_its_size, an_archive_cannot_leave_the_layer, an_archive_is_unpacked_as_it_is,
    an_exact_diff_gives_back_the_archive, an_opaque_directory_hides_the_parents_entries,
    an_untouched_layer_has_no_changes, changes_are_sorted, changes_tell_each_kind,
    concurrent_siblings_do_not_meet, deep_chains_are_read_to_the_bottom, diff_then_apply_gives_the_same_size,
    diff_then_apply_gives_the_same_tree, questions_about_an_unknown_layer_are_refused,
};
use self::bulk::{
    a_layer_upon_nothing_keeps_what_is_written, a_size_limit_is_kept, many_changes_are_told_exactly,
    random_trees_travel_through_layers,
};
use super::trees::{
    Ctx, base, container, edit, fresh, has, image, image_of, init, layer, remove_at_end, within,
};
use super::{Failure, Report, Subject, Verdict, ensure, fresh_hex, suite};
use crate::fault::FaultKind::{AlreadyExists, InUse, Invalid, NotFound};
use crate::graph::GraphPlugin;
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
    a_layer_upon_nothing_keeps_what_is_written: "FROM scratch, and files that others than root may write";
    many_changes_are_told_exactly: "docker diff of a container that worked all day";
    random_trees_travel_through_layers: "an image of many layers shows what its builder saw";
    a_size_limit_is_kept: "docker run --storage-opt size: one container must not fill the host";
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

fn owner_of(meta: &fs::Metadata) -> (u32, u32) {
    (meta.uid(), meta.gid())
}

/// User and group of this process; where plugins mount, they are root, as the plugin is.
fn us() -> Result<(u32, u32), Failure> {
    Ok(owner_of(&fs::metadata("/proc/self")?))
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
        let (owner, ours) = (owner_of(&meta), us()?);
        ensure!(owner == ours, "it belongs to {owner:?}, not to {ours:?}");
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
