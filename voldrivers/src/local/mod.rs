//! Volumes of this host: directories, images of a fixed size, and what the user names to be mounted.
//!
//! | option | meaning | default |
//! | --- | --- | --- |
//! | `uid`, `gid` | owner of the directory | 0 |
//! | `mode` | its permissions, octal | 0755 |
//! | `size`, `fstype` | an image with a file system of its own | none, ext4 |
//! | `type`, `device`, `o` | what Docker's own driver mounts by these words | none |

mod attach;
mod disk;
mod options;
#[cfg(test)]
mod tests;
mod words;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kernel::mount::Mounts;
use plugin_api::id::{HolderId, VolumeName};
use plugin_api::volume::{Scope, VolumeDriver, VolumeInfo};
use plugin_api::{Done, EnginePeer, Fault, FaultKind, Options};

use crate::backend::{Backend, Detached, Standing, told};
use crate::driver::Driver;
use crate::keeper::Keeper;
use crate::usage::{self, Sight};

pub use attach::{HELPER, help};
use disk::Disk;
use options::Kind;
pub(crate) use options::Settings;

/// Opens the driver on its state directory, which exists, and repairs what a crash left.
pub fn open_local(state: &Path) -> Result<Arc<dyn VolumeDriver>, Fault> {
    let disk = Disk::open(state).map_err(told(format!("open volumes in {}", state.display())))?;
    let driver = Arc::new(Driver::open(state, Local { disk })?);
    let keeper = Keeper::of(Arc::clone(&driver))
        .map_err(|error| Fault::internal("start the keeper of volumes").because(error))?;
    Ok(Arc::new(Served {
        _keeper: keeper,
        driver,
    }))
}

/// The driver with its keeper, which ends first.
struct Served {
    _keeper: Keeper,
    driver: Arc<Driver<Local>>,
}

impl VolumeDriver for Served {
    fn scope(&self) -> Scope {
        self.driver.scope()
    }

    fn engine_arrived(&self, peer: EnginePeer) {
        self.driver.engine_arrived(peer);
    }

    fn create(&self, name: &VolumeName, options: &Options) -> Result<Done, Fault> {
        self.driver.create(name, options)
    }

    fn remove(&self, name: &VolumeName) -> Result<Done, Fault> {
        self.driver.remove(name)
    }

    fn mount(&self, name: &VolumeName, holder: &HolderId, peer: EnginePeer) -> Result<PathBuf, Fault> {
        self.driver.mount(name, holder, peer)
    }

    fn unmount(&self, name: &VolumeName, holder: &HolderId) -> Result<Done, Fault> {
        self.driver.unmount(name, holder)
    }

    fn get(&self, name: &VolumeName) -> Result<VolumeInfo, Fault> {
        self.driver.get(name)
    }

    fn list(&self) -> Result<Vec<VolumeInfo>, Fault> {
        self.driver.list()
    }
}

/// The back end.
pub(super) struct Local {
    disk: Disk,
}

impl Backend for Local {
    type Spec = Settings;

    fn understand(&self, options: &Options) -> Result<Settings, Fault> {
        Ok(Settings::read(options)?)
    }

    fn admit(&self, name: &VolumeName, spec: &Settings) -> Result<(), Fault> {
        if self.disk.is_taken(name) {
            let path = self.disk.volume(name);
            let text = format!(
                "create volume {name}: {} is there and no volume of ours",
                path.display()
            );
            return Err(Fault::new(FaultKind::Conflict, text));
        }
        match &spec.kind {
            Kind::Mounted(given) => attach::admit(&self.disk, name, given),
            Kind::Directory | Kind::Image { .. } => Ok(()),
        }
    }

    fn make(&self, name: &VolumeName, spec: &Settings) -> Result<(), Fault> {
        self.disk.make(name, spec)
    }

    fn discard(&self, name: &VolumeName, _spec: &Settings) -> Result<(), Fault> {
        self.disk.discard(name)
    }

    fn is_attachable(&self, spec: &Settings) -> bool {
        spec.kind != Kind::Directory
    }

    fn standing(&self, name: &VolumeName, spec: &Settings) -> Result<Standing, Fault> {
        if self.is_attachable(spec) {
            let mounts = Mounts::read().map_err(told(format!("look for volume {name}")))?;
            if mounts.at(&self.disk.point(name, &spec.kind)).is_some() {
                return Ok(Standing::Attached);
            }
        }
        Ok(
            match (self.disk.is_whole(name, &spec.kind), self.is_attachable(spec)) {
                (false, _) => Standing::Lost,
                (true, true) => Standing::Idle,
                (true, false) => Standing::Present,
            },
        )
    }

    fn attach(&self, name: &VolumeName, spec: &Settings) -> Result<(), Fault> {
        match &spec.kind {
            Kind::Directory => Ok(()),
            Kind::Image { filesystem, .. } => attach::image(&self.disk, name, spec, *filesystem),
            Kind::Mounted(given) => attach::given(&self.disk, name, spec, given),
        }
    }

    fn detach(&self, name: &VolumeName, spec: &Settings) -> Result<Detached, Fault> {
        attach::detach(name, &self.disk.point(name, &spec.kind), &spec.kind)
    }

    fn path(&self, name: &VolumeName, spec: &Settings) -> PathBuf {
        self.disk.data(name, &spec.kind)
    }

    /// A bind is never used for its own sake: what it shows is not ours to keep or to lose.
    fn users(&self, name: &VolumeName, spec: &Settings) -> Result<Sight, Fault> {
        let point = match &spec.kind {
            Kind::Mounted(given) if given.is_bind() => return Ok(Sight::default()),
            Kind::Directory => self.disk.volume(name),
            Kind::Image { .. } | Kind::Mounted(_) => self.disk.point(name, &spec.kind),
        };
        if self.is_attachable(spec) && self.standing(name, spec)? != Standing::Attached {
            // Nobody can be found in what has no device yet.
            return Ok(Sight::default());
        }
        match usage::look_for_users(&point) {
            Ok(sight) => Ok(sight),
            // Somebody took the directory away by hand, so nobody can have it mounted anew.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Sight::default()),
            Err(error) => {
                let text = format!("look for mounts of {}", point.display());
                Err(Fault::new(FaultKind::Unavailable, text).because(error))
            }
        }
    }
}
