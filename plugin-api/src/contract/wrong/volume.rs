//! Wrong volume drivers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use super::defects;
use crate::contract::twin;
use crate::fault::{Fault, FaultKind};
use crate::id::{HolderId, VolumeName};
use crate::volume::{Scope, VolumeDriver, VolumeInfo};
use crate::{Done, EnginePeer, Options};

defects! {
    /// One broken rule of a volume driver.
    VolumeDefect;
    GetTellsAnotherName fails create_makes_a_volume_that_get_finds;
    RepeatedCreateFails fails create_twice_is_already_so create_with_other_options_is_refused concurrent_creates_make_one volumes_survive_a_restart_of_the_driver;
    OtherOptionsAreTaken fails create_with_other_options_is_refused;
    UnknownOptionIsTaken fails create_with_an_unknown_option_makes_nothing;
    RefusedLongNameIsMade fails the_longest_name_is_taken_or_makes_nothing;
    CreatesRace fails concurrent_creates_make_one;
    GetInvents fails create_with_an_unknown_option_makes_nothing get_of_an_unknown_volume_is_an_error mount_of_an_unknown_volume_is_refused remove_makes_get_and_list_forget;
    MountpointIsToldAlways fails get_tells_the_mountpoint_only_while_held volumes_survive_a_restart_of_the_driver;
    CreatedIsNow fails get_tells_the_same_time_of_creation;
    ListIsReversed fails list_is_sorted_and_complete;
    ListTellsNoMountpoint fails list_tells_the_mountpoint_of_a_held_volume;
    PathsAreRelative fails mount_gives_an_absolute_path_that_exists;
    MountCreates fails mount_of_an_unknown_volume_is_refused;
    PathPerHolder fails mount_by_another_holder_gives_the_same_path concurrent_mounts_all_count;
    MountsOnce fails remove_takes_the_data_away mount_after_the_last_unmount_works data_outlives_its_holders;
    MountsAreASet fails mount_of_a_held_id_counts docker_cp_into_a_running_container_leaves_it_mounted the_second_mount_after_an_engine_restart_counts holds_survive_a_restart_of_the_driver;
    ThirdMountSetsTheCount fails docker_cp_into_a_running_container_leaves_it_mounted the_second_mount_after_an_engine_restart_counts;
    HoldersShareACount fails holders_are_counted_apart unmount_of_an_unknown_holder_is_already_so;
    EmptyHolderIsRefused fails an_empty_holder_can_mount;
    UnmountOfUnknownVolumeFails fails unmount_of_an_unknown_volume_is_already_so;
    UnmountOfUnknownHolderFails fails unmount_of_an_unknown_holder_is_already_so holders_are_counted_apart;
    MountsRace fails concurrent_mounts_all_count;
    ArrivalIsIgnored fails the_second_mount_after_an_engine_restart_counts the_first_mount_after_an_engine_restart_sets_the_count;
    EveryMountAfterArrivalSets fails the_second_mount_after_an_engine_restart_counts;
    ArrivalDropsHolds fails an_engine_restart_keeps_holds unmount_after_an_engine_restart_lets_go;
    UnmountAfterArrivalIsIgnored fails unmount_after_an_engine_restart_lets_go;
    RemoveOfUnknownFails fails remove_of_an_unknown_volume_is_already_so;
    RefusedRemoveTakesTheData fails remove_of_a_held_volume_is_refused;
    RemovedStaysListed fails remove_makes_get_and_list_forget;
    RemoveKeepsTheData fails remove_takes_the_data_away;
    UnmountTakesTheData fails data_outlives_its_holders;
    RestartForgetsVolumes fails volumes_survive_a_restart_of_the_driver holds_survive_a_restart_of_the_driver;
    RestartForgetsHolds fails holds_survive_a_restart_of_the_driver;
}

/// A volume twin with one defect.
#[derive(Debug)]
pub struct Volume {
    defect: VolumeDefect,
    home: PathBuf,
    inner: twin::Volume,
    /// Every mount so far, oldest first.
    mounts: Mutex<Vec<(VolumeName, HolderId)>>,
    stale: Mutex<BTreeSet<(VolumeName, HolderId)>>,
    removed: Mutex<BTreeSet<VolumeName>>,
    spent: Mutex<BTreeSet<VolumeName>>,
    under_way: AtomicUsize,
}

impl Volume {
    /// A driver below `home` that has this defect only.
    pub fn open(home: &Path, defect: VolumeDefect) -> Result<Self, Fault> {
        Ok(Self::over(twin::Volume::open(home)?, home, defect))
    }

    fn over(inner: twin::Volume, home: &Path, defect: VolumeDefect) -> Self {
        Self {
            defect,
            home: home.to_path_buf(),
            inner,
            mounts: Mutex::default(),
            stale: Mutex::default(),
            removed: Mutex::default(),
            spent: Mutex::default(),
            under_way: AtomicUsize::new(0),
        }
    }

    /// The driver as a new process finds it.
    pub fn restarted(&self) -> Result<Self, Fault> {
        if self.is(VolumeDefect::RestartForgetsVolumes) {
            return Self::open(&self.home, self.defect);
        }
        let inner = self.inner.restarted();
        if self.is(VolumeDefect::RestartForgetsHolds) {
            for (name, holder) in twin::locked(&self.mounts).iter() {
                inner.unmount(name, holder)?;
            }
        }
        Ok(Self::over(inner, &self.home, self.defect))
    }

    fn is(&self, defect: VolumeDefect) -> bool {
        self.defect == defect
    }

    fn told(&self, path: PathBuf) -> PathBuf {
        if !self.is(VolumeDefect::PathsAreRelative) {
            return path;
        }
        let up = std::env::current_dir().map_or(0, |dir| dir.components().count());
        PathBuf::from("../".repeat(up)).join(path.strip_prefix("/").unwrap_or(&path))
    }

    fn retold(&self, mut info: VolumeInfo) -> VolumeInfo {
        info.mountpoint = info.mountpoint.map(|path| self.told(path));
        info
    }

    fn trash(&self, name: &VolumeName) -> PathBuf {
        self.home.join(format!(".trash-{name}"))
    }
}

fn emptied(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let _ = std::fs::remove_dir_all(entry.path());
        let _ = std::fs::remove_file(entry.path());
    }
}

fn shared() -> HolderId {
    HolderId::new("shared").expect("a printable word")
}

impl VolumeDriver for Volume {
    fn scope(&self) -> Scope {
        self.inner.scope()
    }

    fn engine_arrived(&self, peer: EnginePeer) {
        let mounts = twin::locked(&self.mounts).clone();
        match self.defect {
            VolumeDefect::ArrivalIsIgnored => return,
            VolumeDefect::ArrivalDropsHolds => {
                for (name, holder) in &mounts {
                    let _ = self.inner.unmount(name, holder);
                }
            }
            _ => {}
        }
        *twin::locked(&self.stale) = mounts.into_iter().collect();
        self.inner.engine_arrived(peer);
    }

    fn create(&self, name: &VolumeName, options: &Options) -> Result<Done, Fault> {
        let known = self.inner.get(name).is_ok();
        if self.is(VolumeDefect::CreatesRace) && !known {
            std::thread::sleep(Duration::from_millis(30));
            return self.inner.create(name, options).map(|_| Done::Changed);
        }
        let answer = self.inner.create(name, options);
        match (self.defect, answer) {
            (VolumeDefect::RepeatedCreateFails, Ok(Done::AlreadySo)) => {
                Err(Fault::already_exists("it exists"))
            }
            (VolumeDefect::OtherOptionsAreTaken, Err(fault)) if fault.kind == FaultKind::AlreadyExists => {
                Ok(Done::AlreadySo)
            }
            (VolumeDefect::UnknownOptionIsTaken, Err(fault)) if fault.kind == FaultKind::Invalid => {
                self.inner.create(name, &Options::new())
            }
            (VolumeDefect::RefusedLongNameIsMade, Ok(_)) if name.as_str().len() > 200 => {
                Err(Fault::invalid("the name is too long"))
            }
            (VolumeDefect::RemoveKeepsTheData, Ok(Done::Changed)) if self.trash(name).is_dir() => {
                let _ = std::fs::remove_dir(self.home.join(name.as_str()));
                let _ = std::fs::rename(self.trash(name), self.home.join(name.as_str()));
                Ok(Done::Changed)
            }
            (_, answer) => answer,
        }
    }

    fn remove(&self, name: &VolumeName) -> Result<Done, Fault> {
        let dir = self.home.join(name.as_str());
        let held = self.inner.get(name).is_ok_and(|info| info.mountpoint.is_some());
        if self.is(VolumeDefect::RemoveKeepsTheData) && !held {
            let _ = std::fs::rename(&dir, self.trash(name));
            let _ = std::fs::create_dir(&dir);
        }
        let answer = self.inner.remove(name);
        match (self.defect, &answer) {
            (VolumeDefect::RemoveOfUnknownFails, Ok(Done::AlreadySo)) => {
                return Err(Fault::not_found("no such volume"));
            }
            (VolumeDefect::RefusedRemoveTakesTheData, Err(_)) => emptied(&dir),
            (VolumeDefect::RemovedStaysListed, Ok(Done::Changed)) => {
                twin::locked(&self.removed).insert(name.clone());
            }
            _ => {}
        }
        answer
    }

    fn mount(&self, name: &VolumeName, holder: &HolderId, peer: EnginePeer) -> Result<PathBuf, Fault> {
        let mine = (name.clone(), holder.clone());
        let before = self.under_way.fetch_add(1, Ordering::SeqCst);
        let seen = twin::locked(&self.mounts)
            .iter()
            .filter(|mount| **mount == mine)
            .count();
        let held = self.inner.get(name).is_ok_and(|info| info.mountpoint.is_some());
        if self.is(VolumeDefect::MountsRace) {
            std::thread::sleep(Duration::from_millis(30));
        }
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        match self.defect {
            VolumeDefect::MountCreates => drop(self.inner.create(name, &Options::new())?),
            VolumeDefect::EmptyHolderIsRefused if holder.as_str().is_empty() => {
                return Err(Fault::invalid("the holder is empty"));
            }
            VolumeDefect::MountsOnce if twin::locked(&self.spent).contains(name) => {
                return Err(Fault::unsupported("it was mounted before"));
            }
            VolumeDefect::HoldersShareACount => return self.inner.mount(name, &shared(), peer),
            VolumeDefect::MountsRace if before > 0 => return Ok(self.home.join(name.as_str())),
            VolumeDefect::MountsAreASet if seen > 0 => drop(self.inner.unmount(name, holder)?),
            VolumeDefect::ThirdMountSetsTheCount if seen == 2 => drop(self.inner.unmount(name, holder)?),
            VolumeDefect::EveryMountAfterArrivalSets if twin::locked(&self.stale).contains(&mine) => {
                self.inner.engine_arrived(peer);
            }
            _ => {}
        }
        let path = self.inner.mount(name, holder, peer)?;
        twin::locked(&self.mounts).push(mine);
        if self.is(VolumeDefect::PathPerHolder) && held && seen == 0 {
            return Ok(path.join("..").join(name.as_str()));
        }
        Ok(self.told(path))
    }

    fn unmount(&self, name: &VolumeName, holder: &HolderId) -> Result<Done, Fault> {
        let mine = (name.clone(), holder.clone());
        match self.defect {
            VolumeDefect::HoldersShareACount => return self.inner.unmount(name, &shared()),
            VolumeDefect::UnmountAfterArrivalIsIgnored
                if twin::locked(&self.stale).contains(&mine)
                    && twin::locked(&self.mounts)
                        .iter()
                        .filter(|mount| **mount == mine)
                        .count()
                        == 1 =>
            {
                return Ok(Done::Changed);
            }
            _ => {}
        }
        let answer = self.inner.unmount(name, holder)?;
        let info = self.inner.get(name);
        let held = info.as_ref().is_ok_and(|info| info.mountpoint.is_some());
        match self.defect {
            VolumeDefect::UnmountOfUnknownVolumeFails if info.is_err() => {
                Err(Fault::not_found("no such volume"))
            }
            VolumeDefect::UnmountOfUnknownHolderFails if info.is_ok() && answer == Done::AlreadySo => {
                Err(Fault::not_found("no such holder"))
            }
            VolumeDefect::UnmountTakesTheData if !held => {
                emptied(&self.home.join(name.as_str()));
                Ok(answer)
            }
            VolumeDefect::MountsOnce if !held => {
                twin::locked(&self.spent).insert(name.clone());
                Ok(answer)
            }
            _ => Ok(answer),
        }
    }

    fn get(&self, name: &VolumeName) -> Result<VolumeInfo, Fault> {
        let mut info = match self.inner.get(name) {
            Err(_) if self.is(VolumeDefect::GetInvents) => {
                let (created, status) = (None, std::collections::BTreeMap::new());
                VolumeInfo {
                    name: name.clone(),
                    mountpoint: None,
                    created,
                    status,
                }
            }
            answer => answer?,
        };
        match self.defect {
            VolumeDefect::GetTellsAnotherName => {
                info.name = VolumeName::new("another").expect("a plain word");
            }
            VolumeDefect::MountpointIsToldAlways => info.mountpoint = Some(self.home.join(name.as_str())),
            VolumeDefect::CreatedIsNow => info.created = Some(SystemTime::now()),
            _ => {}
        }
        Ok(self.retold(info))
    }

    fn list(&self) -> Result<Vec<VolumeInfo>, Fault> {
        let mut list: Vec<_> = self
            .inner
            .list()?
            .into_iter()
            .map(|info| self.retold(info))
            .collect();
        match self.defect {
            VolumeDefect::ListIsReversed => list.reverse(),
            VolumeDefect::ListTellsNoMountpoint => list.iter_mut().for_each(|info| info.mountpoint = None),
            _ => {}
        }
        for name in twin::locked(&self.removed).iter() {
            let (created, status) = (None, std::collections::BTreeMap::new());
            list.push(VolumeInfo {
                name: name.clone(),
                mountpoint: None,
                created,
                status,
            });
        }
        Ok(list)
    }
}
