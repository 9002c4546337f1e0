//! What engines rely on in a volume driver.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Context, Failure, Report, Subject, Verdict, ensure, fresh_hex, fresh_name, suite};
use crate::fault::FaultKind::{AlreadyExists, InUse, Invalid, NotFound};
use crate::id::{HolderId, VolumeName};
use crate::volume::VolumeDriver;
use crate::{Done, EnginePeer};

/// A driver as this suite holds it.
pub type Driver = Arc<dyn VolumeDriver>;
type Ctx<'a> = Context<'a, dyn VolumeDriver>;

suite! { "volume", dyn VolumeDriver;
    create_makes_a_volume_that_get_finds: "docker volume create asks get first and create only if that fails";
    create_twice_is_already_so: "engines repeat a create whose answer got lost";
    create_with_other_options_is_refused: "two users who want different volumes of one name must learn of it";
    create_with_an_unknown_option_makes_nothing: "a mistyped option must not give a volume without it";
    the_longest_name_is_taken_or_makes_nothing: "Docker does not limit the names it passes to plugins";
    concurrent_creates_make_one: "compose starts many services with one volume at once";
    get_of_an_unknown_volume_is_an_error: "Docker creates a volume only after get failed";
    get_tells_the_mountpoint_only_while_held: "Docker caches a mountpoint that get tells as the volume's path";
    get_tells_the_same_time_of_creation: "docker volume inspect shows it, and prune sorts by it";
    list_is_sorted_and_complete: "docker volume ls shows the list as it comes";
    list_tells_the_mountpoint_of_a_held_volume: "Docker caches what list tells as it does with get";
    mount_gives_an_absolute_path_that_exists: "Docker creates missing paths for its own local driver only";
    mount_of_an_unknown_volume_is_refused: "a container must not start over an empty directory";
    mount_by_another_holder_gives_the_same_path: "containers that share a volume share its files";
    mount_after_the_last_unmount_works: "a container restart unmounts the old id and mounts a new one";
    mount_of_a_held_id_counts: "docker cp mounts and unmounts with the id of the running container";
    docker_cp_into_a_running_container_leaves_it_mounted: "one copy mounts and unmounts twice with the container's id";
    holders_are_counted_apart: "one container's double unmount must not take another's volume away";
    an_empty_holder_can_mount: "Docker up to 1.11 sends no id";
    unmount_of_an_unknown_volume_is_already_so: "engines unmount again after they lost an answer";
    unmount_of_an_unknown_holder_is_already_so: "engines unmount after a mount that failed";
    concurrent_mounts_all_count: "many containers start at once over one volume";
    the_first_mount_after_an_engine_restart_sets_the_count: "a killed engine never unmounts and mounts the same id again";
    the_second_mount_after_an_engine_restart_counts: "docker cp after the restart nests as before";
    an_engine_restart_keeps_holds: "with live-restore containers outlive their engine";
    unmount_after_an_engine_restart_lets_go: "with live-restore the one unmount of the old id comes later";
    remove_of_an_unknown_volume_is_already_so: "engines remove again after they lost an answer";
    remove_of_a_held_volume_is_refused: "an engine that lost its state removes volumes in use";
    remove_makes_get_and_list_forget: "a name that is free can be used with another driver";
    remove_takes_the_data_away: "a new volume of an old name must not show another user's files";
    data_outlives_its_holders: "that is what volumes are for";
    volumes_survive_a_restart_of_the_driver: "engines never repeat a create";
    holds_survive_a_restart_of_the_driver: "counters lost at a plugin's crash unmounted volumes in use";
}

/// Runs the suite and panics with every failed case.
pub fn check(subject: &Subject<'_, dyn VolumeDriver>) -> Vec<Report> {
    super::check(SUITE, subject)
}

fn fresh_volume(ctx: &Ctx<'_>) -> VolumeName {
    let name = VolumeName::new(fresh_name()).expect("fresh names are plain");
    remove_at_end(ctx, &name);
    name
}

fn remove_at_end(ctx: &Ctx<'_>, name: &VolumeName) {
    let name = name.clone();
    ctx.at_end(move |driver| {
        let _ = driver.remove(&name);
    });
}

fn created(ctx: &Ctx<'_>) -> Result<VolumeName, Failure> {
    let name = fresh_volume(ctx);
    ctx.changed(ctx.driver().create(&name, &ctx.options()), "the first create")?;
    Ok(name)
}

fn holder() -> HolderId {
    HolderId::new(fresh_hex()).expect("hexadecimal digits are printable")
}

fn mount(ctx: &Ctx<'_>, name: &VolumeName, holder: &HolderId) -> Result<PathBuf, Failure> {
    let path = ctx.driver().mount(name, holder, EnginePeer::own())?;
    let (name, holder) = (name.clone(), holder.clone());
    ctx.at_end(move |driver| {
        let _ = driver.unmount(&name, &holder);
    });
    Ok(path)
}

fn still_held(ctx: &Ctx<'_>, name: &VolumeName, when: &str) -> Verdict {
    ctx.refused(ctx.driver().remove(name), InUse, &format!("remove {when}"))?;
    let told = ctx.driver().get(name)?.mountpoint;
    ensure!(
        told.is_some_and(|path| path.is_dir()),
        "the volume is no longer mounted {when}"
    );
    Ok(())
}

fn removable(ctx: &Ctx<'_>, name: &VolumeName, when: &str) -> Verdict {
    ctx.changed(ctx.driver().remove(name), &format!("remove {when}"))
}

fn engine_restarts(ctx: &Ctx<'_>) {
    // Over a socket a plugin sees this process say hello once more; without one it is told the same.
    ctx.driver().engine_arrived(EnginePeer::own());
}

fn create_makes_a_volume_that_get_finds(ctx: &Ctx<'_>) -> Verdict {
    let name = created(ctx)?;
    let info = ctx.driver().get(&name)?;
    ensure!(info.name == name, "get of {name} told of {}", info.name);
    Ok(())
}

fn create_twice_is_already_so(ctx: &Ctx<'_>) -> Verdict {
    let name = created(ctx)?;
    ctx.already_so(ctx.driver().create(&name, &ctx.options()), "the second create")
}

fn create_with_other_options_is_refused(ctx: &Ctx<'_>) -> Verdict {
    let other = ctx.other_options()?;
    let name = created(ctx)?;
    ctx.refused(
        ctx.driver().create(&name, &other),
        AlreadyExists,
        "create with other options",
    )?;
    ctx.already_so(ctx.driver().create(&name, &ctx.options()), "create as at first")
}

fn create_with_an_unknown_option_makes_nothing(ctx: &Ctx<'_>) -> Verdict {
    let name = fresh_volume(ctx);
    let mut options = ctx.options();
    options.insert("no-such-option-anywhere".into(), "1".into());
    ctx.refused(
        ctx.driver().create(&name, &options),
        Invalid,
        "create with an unknown option",
    )?;
    ctx.refused(
        ctx.driver().get(&name),
        NotFound,
        "get of the volume that was refused",
    )
}

fn the_longest_name_is_taken_or_makes_nothing(ctx: &Ctx<'_>) -> Verdict {
    let mut text = fresh_name();
    while text.len() < 255 {
        text.push('x');
    }
    let name = VolumeName::new(text).expect("255 plain characters");
    remove_at_end(ctx, &name);
    let taken = ctx.driver().create(&name, &ctx.options()).is_ok();
    let found = ctx.driver().get(&name).is_ok();
    ensure!(
        taken == found,
        "create of a name of 255 bytes: taken {taken}, but found {found}"
    );
    if taken {
        let holder = holder();
        let path = mount(ctx, &name, &holder)?;
        ensure!(path.is_dir(), "{} is no directory", path.display());
        ctx.changed(ctx.driver().unmount(&name, &holder), "unmount")?;
    }
    Ok(())
}

fn concurrent_creates_make_one(ctx: &Ctx<'_>) -> Verdict {
    let name = fresh_volume(ctx);
    let answers = super::at_once(8, |_| ctx.driver().create(&name, &ctx.options()));
    let mut made = 0;
    for answer in answers {
        made += usize::from(answer? == Done::Changed);
    }
    ensure!(
        !ctx.in_process() || made == 1,
        "{made} of 8 concurrent creates say they made it"
    );
    let listed = ctx
        .driver()
        .list()?
        .into_iter()
        .filter(|info| info.name == name)
        .count();
    ensure!(listed == 1, "the volume is listed {listed} times");
    Ok(())
}

fn get_of_an_unknown_volume_is_an_error(ctx: &Ctx<'_>) -> Verdict {
    let name = fresh_volume(ctx);
    ctx.refused(ctx.driver().get(&name), NotFound, "get of an unknown volume")
}

fn get_tells_the_mountpoint_only_while_held(ctx: &Ctx<'_>) -> Verdict {
    let name = created(ctx)?;
    let told = ctx.driver().get(&name)?.mountpoint;
    ensure!(
        told.is_none(),
        "a volume that nobody held yet has the mountpoint {told:?}"
    );
    let holder = holder();
    let path = mount(ctx, &name, &holder)?;
    let told = ctx.driver().get(&name)?.mountpoint;
    ensure!(
        told.as_ref() == Some(&path),
        "mounted at {}, but get tells {told:?}",
        path.display()
    );
    ctx.changed(ctx.driver().unmount(&name, &holder), "unmount")?;
    let told = ctx.driver().get(&name)?.mountpoint;
    ensure!(
        told.is_none(),
        "a volume that nobody holds any more has the mountpoint {told:?}"
    );
    Ok(())
}

fn get_tells_the_same_time_of_creation(ctx: &Ctx<'_>) -> Verdict {
    let name = created(ctx)?;
    let first = ctx.driver().get(&name)?.created;
    std::thread::sleep(std::time::Duration::from_millis(5));
    let second = ctx.driver().get(&name)?.created;
    ensure!(first == second, "created first at {first:?}, then at {second:?}");
    let Some(at) = first else {
        return Err(Failure::absent("the driver tells no time of creation"));
    };
    let day = std::time::Duration::from_secs(86_400);
    let age = std::time::SystemTime::now()
        .duration_since(at)
        .unwrap_or_default();
    ensure!(age < day, "a volume just made is {age:?} old");
    Ok(())
}

fn list_is_sorted_and_complete(ctx: &Ctx<'_>) -> Verdict {
    let mut names = [created(ctx)?, created(ctx)?, created(ctx)?];
    names.sort();
    let listed: Vec<VolumeName> = ctx.driver().list()?.into_iter().map(|info| info.name).collect();
    ensure!(listed.is_sorted(), "the list is not sorted by name: {listed:?}");
    let ours = listed.iter().filter(|name| names.contains(name)).count();
    ensure!(ours == 3, "{ours} of 3 volumes are listed");
    Ok(())
}

fn list_tells_the_mountpoint_of_a_held_volume(ctx: &Ctx<'_>) -> Verdict {
    let name = created(ctx)?;
    let path = mount(ctx, &name, &holder())?;
    let listed = ctx.driver().list()?.into_iter().find(|info| info.name == name);
    let told = listed.and_then(|info| info.mountpoint);
    ensure!(
        told.as_ref() == Some(&path),
        "mounted at {}, but list tells {told:?}",
        path.display()
    );
    Ok(())
}

fn mount_gives_an_absolute_path_that_exists(ctx: &Ctx<'_>) -> Verdict {
    let name = created(ctx)?;
    let path = mount(ctx, &name, &holder())?;
    ensure!(path.is_absolute(), "{} is not absolute", path.display());
    ensure!(path.is_dir(), "{} is no directory", path.display());
    Ok(())
}

fn mount_of_an_unknown_volume_is_refused(ctx: &Ctx<'_>) -> Verdict {
    let name = fresh_volume(ctx);
    ctx.refused(
        ctx.driver().mount(&name, &holder(), EnginePeer::own()),
        NotFound,
        "mount of an unknown volume",
    )?;
    ctx.refused(ctx.driver().get(&name), NotFound, "get after the refused mount")
}

fn mount_by_another_holder_gives_the_same_path(ctx: &Ctx<'_>) -> Verdict {
    let name = created(ctx)?;
    let first = mount(ctx, &name, &holder())?;
    let second = mount(ctx, &name, &holder())?;
    ensure!(
        first == second,
        "first {}, then {}",
        first.display(),
        second.display()
    );
    Ok(())
}

fn mount_after_the_last_unmount_works(ctx: &Ctx<'_>) -> Verdict {
    let name = created(ctx)?;
    for _ in 0..3 {
        let holder = holder();
        let path = mount(ctx, &name, &holder)?;
        ensure!(path.is_dir(), "{} is no directory", path.display());
        ctx.changed(ctx.driver().unmount(&name, &holder), "unmount")?;
    }
    removable(ctx, &name, "after as many unmounts as mounts")
}

fn mount_of_a_held_id_counts(ctx: &Ctx<'_>) -> Verdict {
    let (name, holder) = (created(ctx)?, holder());
    let first = mount(ctx, &name, &holder)?;
    let second = mount(ctx, &name, &holder)?;
    ensure!(
        first == second,
        "first {}, then {}",
        first.display(),
        second.display()
    );
    ctx.changed(ctx.driver().unmount(&name, &holder), "the first unmount")?;
    still_held(ctx, &name, "after two mounts and one unmount")?;
    ctx.changed(ctx.driver().unmount(&name, &holder), "the second unmount")?;
    removable(ctx, &name, "after two mounts and two unmounts")
}

fn docker_cp_into_a_running_container_leaves_it_mounted(ctx: &Ctx<'_>) -> Verdict {
    let (name, holder) = (created(ctx)?, holder());
    let path = mount(ctx, &name, &holder)?;
    std::fs::write(path.join("of-the-container"), b"1")?;
    for copy in 1..=2 {
        let copied = mount(ctx, &name, &holder)?;
        std::fs::write(copied.join(format!("copied-{copy}")), b"2")?;
        ctx.changed(ctx.driver().unmount(&name, &holder), "unmount by docker cp")?;
    }
    for file in ["of-the-container", "copied-1", "copied-2"] {
        ensure!(path.join(file).is_file(), "the container no longer sees {file}");
    }
    still_held(ctx, &name, "after docker cp")?;
    ctx.changed(ctx.driver().unmount(&name, &holder), "unmount by the container")?;
    removable(ctx, &name, "after the container")
}

fn holders_are_counted_apart(ctx: &Ctx<'_>) -> Verdict {
    let (name, one, two) = (created(ctx)?, holder(), holder());
    mount(ctx, &name, &one)?;
    mount(ctx, &name, &two)?;
    ctx.changed(ctx.driver().unmount(&name, &one), "unmount of the first holder")?;
    ctx.already_so(
        ctx.driver().unmount(&name, &one),
        "the first holder's second unmount",
    )?;
    still_held(ctx, &name, "while the second holder is there")?;
    ctx.changed(ctx.driver().unmount(&name, &two), "unmount of the second holder")?;
    removable(ctx, &name, "after both holders")
}

fn an_empty_holder_can_mount(ctx: &Ctx<'_>) -> Verdict {
    let name = created(ctx)?;
    let nobody = HolderId::new("").map_err(|bad| Failure::new(bad.to_string()))?;
    let path = mount(ctx, &name, &nobody)?;
    ensure!(path.is_dir(), "{} is no directory", path.display());
    ctx.changed(ctx.driver().unmount(&name, &nobody), "unmount without an id")
}

fn unmount_of_an_unknown_volume_is_already_so(ctx: &Ctx<'_>) -> Verdict {
    let name = fresh_volume(ctx);
    ctx.already_so(
        ctx.driver().unmount(&name, &holder()),
        "unmount of an unknown volume",
    )
}

fn unmount_of_an_unknown_holder_is_already_so(ctx: &Ctx<'_>) -> Verdict {
    let name = created(ctx)?;
    mount(ctx, &name, &holder())?;
    ctx.already_so(
        ctx.driver().unmount(&name, &holder()),
        "unmount of an unknown holder",
    )?;
    still_held(ctx, &name, "after somebody else's unmount")
}

fn concurrent_mounts_all_count(ctx: &Ctx<'_>) -> Verdict {
    let name = created(ctx)?;
    let holders: Vec<HolderId> = (0..8).map(|_| holder()).collect();
    let mut paths = Vec::new();
    for path in super::at_once(8, |n| mount(ctx, &name, &holders[n])) {
        paths.push(path?);
    }
    ensure!(
        paths.iter().all(|path| *path == paths[0]),
        "concurrent mounts gave {paths:?}"
    );
    for done in super::at_once(7, |n| ctx.driver().unmount(&name, &holders[n])) {
        ctx.changed(done, "a concurrent unmount")?;
    }
    still_held(ctx, &name, "while the eighth holder is there")?;
    ctx.changed(ctx.driver().unmount(&name, &holders[7]), "the last unmount")?;
    removable(ctx, &name, "after all eight holders")
}

fn the_first_mount_after_an_engine_restart_sets_the_count(ctx: &Ctx<'_>) -> Verdict {
    let (name, holder) = (created(ctx)?, holder());
    mount(ctx, &name, &holder)?;
    mount(ctx, &name, &holder)?;
    engine_restarts(ctx);
    mount(ctx, &name, &holder)?;
    ctx.changed(ctx.driver().unmount(&name, &holder), "unmount by the new engine")?;
    removable(ctx, &name, "after the new engine's only unmount")
}

fn the_second_mount_after_an_engine_restart_counts(ctx: &Ctx<'_>) -> Verdict {
    let (name, holder) = (created(ctx)?, holder());
    mount(ctx, &name, &holder)?;
    engine_restarts(ctx);
    mount(ctx, &name, &holder)?;
    mount(ctx, &name, &holder)?;
    ctx.changed(
        ctx.driver().unmount(&name, &holder),
        "the new engine's first unmount",
    )?;
    still_held(ctx, &name, "after two mounts and one unmount by the new engine")?;
    ctx.changed(
        ctx.driver().unmount(&name, &holder),
        "the new engine's second unmount",
    )?;
    removable(ctx, &name, "after both unmounts by the new engine")
}

fn an_engine_restart_keeps_holds(ctx: &Ctx<'_>) -> Verdict {
    let name = created(ctx)?;
    let path = mount(ctx, &name, &holder())?;
    engine_restarts(ctx);
    ensure!(path.is_dir(), "{} is gone", path.display());
    // A driver that sees in the kernel that nobody uses the volume may let a remove through, so none is tried.
    let told = ctx.driver().get(&name)?.mountpoint;
    ensure!(
        told.is_some(),
        "the volume is no longer mounted after the engine came back"
    );
    Ok(())
}

fn unmount_after_an_engine_restart_lets_go(ctx: &Ctx<'_>) -> Verdict {
    let (name, holder) = (created(ctx)?, holder());
    mount(ctx, &name, &holder)?;
    engine_restarts(ctx);
    ctx.changed(ctx.driver().unmount(&name, &holder), "unmount of the old id")?;
    removable(ctx, &name, "after the unmount of the old id")
}

fn remove_of_an_unknown_volume_is_already_so(ctx: &Ctx<'_>) -> Verdict {
    let name = fresh_volume(ctx);
    ctx.already_so(ctx.driver().remove(&name), "remove of an unknown volume")
}

fn remove_of_a_held_volume_is_refused(ctx: &Ctx<'_>) -> Verdict {
    let name = created(ctx)?;
    let path = mount(ctx, &name, &holder())?;
    std::fs::write(path.join("kept"), b"1")?;
    ctx.refused(ctx.driver().remove(&name), InUse, "remove of a held volume")?;
    ensure!(
        path.join("kept").is_file(),
        "the refused remove took the data away"
    );
    Ok(())
}

fn remove_makes_get_and_list_forget(ctx: &Ctx<'_>) -> Verdict {
    let name = created(ctx)?;
    removable(ctx, &name, "of a volume that nobody held")?;
    ctx.refused(ctx.driver().get(&name), NotFound, "get after remove")?;
    let listed = ctx.driver().list()?.iter().any(|info| info.name == name);
    ensure!(!listed, "the removed volume is still listed");
    Ok(())
}

fn remove_takes_the_data_away(ctx: &Ctx<'_>) -> Verdict {
    let (name, first) = (created(ctx)?, holder());
    let path = mount(ctx, &name, &first)?;
    std::fs::create_dir(path.join("secret"))?;
    std::fs::write(path.join("secret/file"), b"1")?;
    ctx.changed(ctx.driver().unmount(&name, &first), "unmount")?;
    removable(ctx, &name, "of a volume with data")?;
    ctx.changed(ctx.driver().create(&name, &ctx.options()), "create after remove")?;
    let path = mount(ctx, &name, &holder())?;
    ensure!(
        !path.join("secret").exists(),
        "the new volume shows the old one's files"
    );
    Ok(())
}

fn data_outlives_its_holders(ctx: &Ctx<'_>) -> Verdict {
    let (name, first) = (created(ctx)?, holder());
    let path = mount(ctx, &name, &first)?;
    std::fs::write(path.join("file"), b"kept")?;
    ctx.changed(ctx.driver().unmount(&name, &first), "unmount")?;
    let path = mount(ctx, &name, &holder())?;
    let text = std::fs::read(path.join("file"))?;
    ensure!(text == b"kept", "the next holder reads {text:?}");
    Ok(())
}

fn volumes_survive_a_restart_of_the_driver(ctx: &Ctx<'_>) -> Verdict {
    let name = created(ctx)?;
    ctx.restart()?;
    let info = ctx.driver().get(&name)?;
    ensure!(
        info.mountpoint.is_none(),
        "nobody holds it, but it is at {:?}",
        info.mountpoint
    );
    ctx.already_so(
        ctx.driver().create(&name, &ctx.options()),
        "create after the restart",
    )
}

fn holds_survive_a_restart_of_the_driver(ctx: &Ctx<'_>) -> Verdict {
    let (name, holder) = (created(ctx)?, holder());
    mount(ctx, &name, &holder)?;
    mount(ctx, &name, &holder)?;
    ctx.restart()?;
    ctx.changed(
        ctx.driver().unmount(&name, &holder),
        "the first unmount after the restart",
    )?;
    still_held(ctx, &name, "after two mounts, a restart and one unmount")?;
    ctx.changed(
        ctx.driver().unmount(&name, &holder),
        "the second unmount after the restart",
    )?;
    removable(ctx, &name, "after both unmounts")
}
