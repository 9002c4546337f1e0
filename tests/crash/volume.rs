//! Verbs of the local volume driver.

use plugin_api::Fault;
use plugin_api::id::{HolderId, VolumeName};
use plugin_api::volume::VolumeDriver;

use crate::ground::Ground;
use crate::sweep::sweep;

const DRIVERS: &str = "[volume.crash]\ndriver = \"local\"\n";

fn name() -> VolumeName {
    VolumeName::new("db").unwrap()
}

fn holder() -> HolderId {
    HolderId::new("c1").unwrap()
}

fn create_with(ground: &Ground, options: &[(&str, &str)]) -> Result<(), Fault> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let options = options.iter().map(owned).collect();
    ground.client()?.volume().create(&name(), &options).map(drop)
}

fn create(ground: &Ground) -> Result<(), Fault> {
    create_with(ground, &[("uid", "7"), ("mode", "0750")])?;
    // Made is made whole: `get` and `list` know it and its directory is as asked for.
    let info = ground.client()?.volume().get(&name())?;
    assert_eq!(ground.client()?.volume().list()?, [info]);
    Ok(())
}

/// In memory, so that mounts are made and taken back.
fn create_memory(ground: &Ground) -> Result<(), Fault> {
    let words = ("o", "uid=7,mode=0750");
    create_with(ground, &[("type", "tmpfs"), ("device", "tmpfs"), words])
}

/// A file system of its own in a file.
fn create_image(ground: &Ground) -> Result<(), Fault> {
    create_with(ground, &[("size", "16M"), ("uid", "7"), ("mode", "0750")])
}

fn mount(ground: &Ground) -> Result<(), Fault> {
    use std::os::unix::fs::MetadataExt;

    let path = ground
        .client()?
        .volume()
        .mount(&name(), &holder(), plugin_api::EnginePeer::own())?;
    let path = ground.seen(&path);
    let data = path.metadata().unwrap();
    assert_eq!((data.uid(), data.mode() & 0o7777), (7, 0o750));
    std::fs::write(path.join("file"), "text").unwrap();
    Ok(())
}

/// As often as it takes: a mount whose answer was lost may count or not.
fn unmount(ground: &Ground) -> Result<(), Fault> {
    let volumes = ground.client()?.volume();
    for _ in 0..3 {
        volumes.unmount(&name(), &holder())?;
    }
    Ok(())
}

fn remove(ground: &Ground) -> Result<(), Fault> {
    ground.client()?.volume().remove(&name())?;
    assert!(ground.client()?.volume().get(&name()).is_err());
    assert_eq!(ground.client()?.volume().list()?, []);
    Ok(())
}

sweep!(creating: DRIVERS, [], create, [remove]);
sweep!(mounting: DRIVERS, [create], mount, [unmount, remove]);
sweep!(mounting_again: DRIVERS, [create, mount], mount, [unmount, remove]);
sweep!(unmounting: DRIVERS, [create, mount], unmount, [remove]);
sweep!(removing: DRIVERS, [create, mount, unmount], remove, []);

sweep!(memory_mounting: DRIVERS, [create_memory], mount, [unmount, remove]);
sweep!(memory_unmounting: DRIVERS, [create_memory, mount], unmount, [remove]);
sweep!(memory_removing: DRIVERS, [create_memory, mount, unmount], remove, []);
sweep!(image_creating: DRIVERS, [], create_image, [remove]);
sweep!(image_mounting: DRIVERS, [create_image], mount, [unmount, remove]);
sweep!(image_unmounting: DRIVERS, [create_image, mount], unmount, [remove]);
