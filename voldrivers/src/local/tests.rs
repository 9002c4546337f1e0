use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Child;
use std::time::{Duration, Instant};

use kernel::exec::Tool;

use super::*;
use crate::keeper::{GRACE, Suspicions};
use crate::shelf::{ENGINES, HOLDS, Phase, VOLUMES};

/// An engine that the socket does not tell apart from others.
const PEER: EnginePeer = EnginePeer { pid: None };

struct World {
    folder: tempfile::TempDir,
    driver: Driver<Local>,
}

fn open(state: &Path) -> Result<Driver<Local>, Fault> {
    let disk = Disk::open(state).unwrap();
    Driver::open(state, Local { disk })
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let driver = open(folder.path()).unwrap();
        Self { folder, driver }
    }

    /// The driver of a new process over the same state.
    fn restarted(self) -> Self {
        let Self { folder, driver } = self;
        drop(driver);
        let driver = open(folder.path()).unwrap();
        Self { folder, driver }
    }

    fn with_volume(self, volume: &str) -> Self {
        assert_eq!(
            self.driver.create(&name(volume), &Options::new()).unwrap(),
            Done::Changed
        );
        self
    }

    fn mount(&self, volume: &str, by: &str) -> PathBuf {
        self.driver.mount(&name(volume), &holder(by), PEER).unwrap()
    }

    fn unmount(&self, volume: &str, by: &str) -> Done {
        self.driver.unmount(&name(volume), &holder(by)).unwrap()
    }

    fn remove(&self, volume: &str) -> Result<Done, Fault> {
        self.driver.remove(&name(volume))
    }

    fn holds(&self, volume: &str) -> String {
        let info = self.driver.get(&name(volume)).unwrap();
        assert_eq!(info.mountpoint.is_some(), info.status["holds"] != "0");
        info.status["holds"].clone()
    }

    /// Nothing but the record store and two empty folders.
    fn assert_empty(&self) {
        let state = self.folder.path();
        let until = Instant::now() + Duration::from_secs(10);
        while count(&state.join("trash")) > 0 {
            assert!(Instant::now() < until, "the trash stays full");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(count(&state.join("volumes")), 0);
        assert_eq!(count(state), 3);
        for table in [VOLUMES, HOLDS] {
            assert_eq!(
                self.driver.records.list(table).unwrap(),
                [],
                "{table} records left"
            );
        }
    }
}

fn count(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

fn name(text: &str) -> VolumeName {
    VolumeName::new(text).unwrap()
}

fn holder(text: &str) -> HolderId {
    HolderId::new(text).unwrap()
}

fn options(pairs: &[(&str, &str)]) -> Options {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

#[test]
fn a_volume_lives_and_leaves_nothing() {
    let world = World::new().with_volume("db");
    assert_eq!(world.holds("db"), "0");
    let path = world.mount("db", "c1");
    std::fs::write(path.join("file"), "text").unwrap();
    std::fs::create_dir_all(path.join("a/b/c")).unwrap();
    assert_eq!(world.holds("db"), "1");
    let refused = world.remove("db").unwrap_err();
    assert_eq!(refused.kind, FaultKind::InUse);
    assert_eq!(
        refused.message,
        "remove volume db: held by c1; remove the containers that use it first"
    );
    assert_eq!(world.unmount("db", "c1"), Done::Changed);
    assert_eq!(world.unmount("db", "c1"), Done::AlreadySo);
    assert_eq!(world.remove("db").unwrap(), Done::Changed);
    assert_eq!(world.remove("db").unwrap(), Done::AlreadySo);
    assert_eq!(
        world.driver.get(&name("db")).unwrap_err().kind,
        FaultKind::NotFound
    );
    world.assert_empty();
}

#[test]
fn owner_and_mode_are_set_whatever_the_umask() {
    let world = World::new();
    let asked = options(&[("uid", "1000"), ("gid", "2000"), ("mode", "2770")]);
    world.driver.create(&name("db"), &asked).unwrap();
    let data = world.mount("db", "c1").metadata().unwrap();
    assert_eq!((data.uid(), data.gid()), (1000, 2000));
    assert_eq!(data.permissions().mode() & 0o7777, 0o2770);
    world.driver.create(&name("plain"), &Options::new()).unwrap();
    let data = world.mount("plain", "c1").metadata().unwrap();
    assert_eq!((data.uid(), data.gid(), data.mode() & 0o7777), (0, 0, 0o755));
}

#[test]
fn create_again_is_already_so_unless_options_differ() {
    let world = World::new().with_volume("db");
    let same = options(&[("mode", "0755"), ("uid", "0")]);
    assert_eq!(world.driver.create(&name("db"), &same).unwrap(), Done::AlreadySo);
    let refused = world
        .driver
        .create(&name("db"), &options(&[("mode", "700")]))
        .unwrap_err();
    assert_eq!(refused.kind, FaultKind::AlreadyExists);
    assert!(
        refused.message.ends_with("mode is 0755, not 0700"),
        "{}",
        refused.message
    );
    let refused = world
        .driver
        .create(&name("db2"), &options(&[("quota", "1G")]))
        .unwrap_err();
    assert_eq!(refused.kind, FaultKind::Invalid);
    assert_eq!(world.driver.list().unwrap().len(), 1);
}

#[test]
fn what_lies_there_and_is_no_volume_is_not_touched() {
    let world = World::new();
    let outside = world.folder.path().join("precious");
    std::fs::create_dir(&outside).unwrap();
    symlink(&outside, world.folder.path().join("volumes/link")).unwrap();
    std::fs::create_dir(world.folder.path().join("volumes/stray")).unwrap();
    for taken in ["link", "stray"] {
        let refused = world.driver.create(&name(taken), &Options::new()).unwrap_err();
        assert_eq!(refused.kind, FaultKind::Conflict, "{}", refused.message);
    }
    let world = world.restarted();
    assert!(outside.is_dir());
    assert!(world.folder.path().join("volumes/stray").is_dir());
    assert!(world.driver.list().unwrap().is_empty());
}

#[test]
fn docker_cp_leaves_the_containers_hold() {
    let world = World::new().with_volume("db");
    world.mount("db", "c1");
    world.mount("db", "c1");
    assert_eq!(world.unmount("db", "c1"), Done::Changed);
    let world = world.restarted();
    assert_eq!(world.holds("db"), "1");
    assert_eq!(world.remove("db").unwrap_err().kind, FaultKind::InUse);
}

#[test]
fn a_new_engine_takes_its_predecessors_hold_over() {
    let world = World::new().with_volume("db");
    world.mount("db", "c1");
    world.mount("db", "c1");
    world.driver.engine_arrived(PEER);
    // The epoch outlives this process, which may die between the two calls.
    let world = world.restarted();
    world.mount("db", "c1");
    assert_eq!(world.holds("db"), "1");
    world.unmount("db", "c1");
    assert_eq!(world.remove("db").unwrap(), Done::Changed);
}

#[test]
fn a_dead_engines_hold_that_nothing_backs_is_dropped() {
    let world = World::new().with_volume("db");
    world.mount("db", "c1");
    world.driver.engine_arrived(PEER);
    assert_eq!(world.holds("db"), "1");
    assert_eq!(world.remove("db").unwrap(), Done::Changed);
    world.assert_empty();
}

#[test]
fn hello_without_holds_writes_nothing() {
    let world = World::new().with_volume("db");
    let engines = || world.driver.records.list(ENGINES).unwrap().len();
    world.driver.engine_arrived(PEER);
    assert_eq!(engines(), 0);
    world.mount("db", "c1");
    assert_eq!(engines(), 1);
    world.driver.engine_arrived(PEER);
    world.driver.engine_arrived(PEER);
    assert_eq!(engines(), 0);
    assert_eq!(world.holds("db"), "1");
}

/// A process that stays until it is told to go.
fn engine() -> (Child, EnginePeer) {
    let child = Tool::new("sleep").arg("120").spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    (child, EnginePeer { pid: Some(pid) })
}

#[test]
fn engines_that_share_a_socket_do_not_end_one_anothers_holds() {
    let world = World::new().with_volume("db");
    let ((mut docker, peer), (mut other, stranger)) = (engine(), engine());
    world.driver.mount(&name("db"), &holder("c1"), peer).unwrap();
    world.driver.mount(&name("db"), &holder("c1"), peer).unwrap();
    world.driver.engine_arrived(stranger);
    world.driver.mount(&name("db"), &holder("c2"), stranger).unwrap();
    world.driver.engine_arrived(stranger);
    assert_eq!(world.holds("db"), "3");
    let refused = world.remove("db").unwrap_err();
    assert!(
        refused.message.contains("held by c1; remove"),
        "{}",
        refused.message
    );
    // The record tells the same to the next process.
    let world = world.restarted();
    assert!(
        world
            .remove("db")
            .unwrap_err()
            .message
            .contains("held by c1; remove")
    );
    docker.kill().unwrap();
    docker.wait().unwrap();
    assert_eq!(world.remove("db").unwrap(), Done::Changed);
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn the_same_holder_of_a_new_process_counts_once() {
    let world = World::new().with_volume("db");
    // Podman: every command is a process, and every hold has the same id.
    for _ in 0..3 {
        let (mut command, peer) = engine();
        world.driver.engine_arrived(peer);
        world
            .driver
            .mount(&name("db"), &holder("constant"), peer)
            .unwrap();
        command.kill().unwrap();
        command.wait().unwrap();
    }
    assert_eq!(world.holds("db"), "1");
    assert_eq!(world.unmount("db", "constant"), Done::Changed);
    assert_eq!(world.remove("db").unwrap(), Done::Changed);
}

#[test]
fn a_suspect_is_dropped_after_its_grace_and_not_before() {
    let world = World::new().with_volume("db");
    let (mut docker, peer) = engine();
    world.driver.mount(&name("db"), &holder("c1"), peer).unwrap();
    let (mut suspicions, now) = (Suspicions::new(), Instant::now());
    world.driver.look_after(&mut suspicions, now, GRACE);
    assert!(suspicions.is_empty(), "its engine lives");
    docker.kill().unwrap();
    docker.wait().unwrap();
    world.driver.look_after(&mut suspicions, now, GRACE);
    world.driver.look_after(&mut suspicions, now + GRACE / 2, GRACE);
    assert_eq!(world.holds("db"), "1");
    world.driver.look_after(&mut suspicions, now + GRACE, GRACE);
    assert_eq!(world.holds("db"), "0");
}

#[test]
fn a_suspect_that_a_container_has_mounted_stays() {
    let world = World::new().with_volume("db");
    let elsewhere = tempfile::tempdir().unwrap();
    let on = elsewhere.path().join("mnt");
    std::fs::create_dir(&on).unwrap();
    let container = Container::start(&world.mount("db", "c1"), &on);
    world.driver.engine_arrived(PEER);
    let (mut suspicions, now) = (Suspicions::new(), Instant::now());
    world.driver.look_after(&mut suspicions, now, GRACE);
    world.driver.look_after(&mut suspicions, now + 2 * GRACE, GRACE);
    assert_eq!(world.holds("db"), "1");
    container.stop();
    world.driver.look_after(&mut suspicions, now + 3 * GRACE, GRACE);
    assert_eq!(world.holds("db"), "0");
}

/// A process in a mount namespace of its own that has `from` bind-mounted on `on`.
struct Container(Child);

impl Container {
    fn start(from: &Path, on: &Path) -> Self {
        let script = r#"mount --bind "$1" "$2" && : > "$3" && exec sleep 120"#;
        let ready = on.with_extension("ready");
        let tool = Tool::new("unshare").args(["--mount", "--propagation", "private"]);
        let tool = tool.args(["sh", "-c", script, "sh"]).args([from, on, &ready]);
        let child = tool.spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while !ready.exists() {
            assert!(Instant::now() < until, "the bind mount did not come");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self(child)
    }

    fn stop(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_container_that_outlived_its_engine_keeps_its_volume() {
    let world = World::new().with_volume("db");
    let elsewhere = tempfile::tempdir().unwrap();
    let on = elsewhere.path().join("mnt");
    std::fs::create_dir(&on).unwrap();
    let path = world.mount("db", "c1");
    let container = Container::start(&path, &on);
    world.driver.engine_arrived(PEER);
    let refused = world.remove("db").unwrap_err();
    assert_eq!(refused.kind, FaultKind::InUse);
    let pid = container.0.id();
    let told = format!("mounted on {} by process {pid}", on.display());
    assert!(refused.message.contains(&told), "{}", refused.message);
    assert!(refused.message.ends_with("by c1"), "{}", refused.message);
    assert_eq!(world.holds("db"), "1");
    container.stop();
    assert_eq!(world.remove("db").unwrap(), Done::Changed);
}

#[test]
fn a_mounted_subdirectory_is_a_use_even_without_a_hold() {
    let world = World::new().with_volume("db").with_volume("db2");
    let elsewhere = tempfile::tempdir().unwrap();
    let on = elsewhere.path().join("mnt");
    std::fs::create_dir(&on).unwrap();
    let sub = world.mount("db", "c1").join("sub");
    std::fs::create_dir(&sub).unwrap();
    let container = Container::start(&sub, &on);
    world.unmount("db", "c1");
    assert_eq!(world.remove("db").unwrap_err().kind, FaultKind::InUse);
    // A volume whose name begins alike is another one.
    let world = World::new().with_volume("d").with_volume("db2");
    assert_eq!(world.remove("d").unwrap(), Done::Changed);
    assert_eq!(world.remove("db2").unwrap(), Done::Changed);
    container.stop();
}

#[test]
fn half_made_and_half_removed_volumes_are_taken_away_at_start() {
    for phase in [Phase::Creating, Phase::Removing] {
        let world = World::new().with_volume("db").with_volume("whole");
        let path = world.mount("db", "c1");
        std::fs::write(path.join("file"), "text").unwrap();
        world.unmount("db", "c1");
        let entry = world.driver.known().volumes[&name("db")].entry.in_phase(phase);
        world.driver.write_entry(&name("db"), &entry).unwrap();
        assert_eq!(
            world.driver.get(&name("db")).unwrap_err().kind,
            FaultKind::NotFound
        );
        let world = world.restarted();
        assert_eq!(world.driver.list().unwrap().len(), 1);
        assert_eq!(
            world.driver.create(&name("db"), &Options::new()).unwrap(),
            Done::Changed
        );
        assert_eq!(count(&world.mount("db", "c2")), 0, "old data came back");
        world.unmount("db", "c2");
        world.remove("db").unwrap();
        world.remove("whole").unwrap();
        world.assert_empty();
    }
}

#[test]
fn an_interrupted_verb_is_ended_by_the_next_one() {
    for phase in [Phase::Creating, Phase::Removing] {
        let world = World::new().with_volume("db");
        let entry = world.driver.known().volumes[&name("db")].entry.in_phase(phase);
        world.driver.write_entry(&name("db"), &entry).unwrap();
        assert_eq!(
            world.driver.create(&name("db"), &Options::new()).unwrap(),
            Done::Changed
        );
        world.driver.write_entry(&name("db"), &entry).unwrap();
        assert_eq!(world.remove("db").unwrap(), Done::Changed);
        world.assert_empty();
    }
}

#[test]
fn a_lost_directory_is_told_and_can_be_removed() {
    let world = World::new().with_volume("db");
    std::fs::remove_dir_all(world.folder.path().join("volumes/db")).unwrap();
    let world = world.restarted();
    // An engine forgets a volume whose `get` fails, so it does not.
    world.driver.get(&name("db")).unwrap();
    let refused = world.driver.mount(&name("db"), &holder("c1"), PEER).unwrap_err();
    assert_eq!(refused.kind, FaultKind::Corrupt);
    assert_eq!(world.remove("db").unwrap(), Done::Changed);
    world.assert_empty();
}

#[test]
fn one_name_is_worked_on_by_one_and_many_at_once() {
    let world = World::new();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let driver = &world.driver;
            scope.spawn(move || {
                let holder = holder(&format!("c{thread}"));
                let (shared, own) = (name("shared"), name(&format!("own{thread}")));
                for _ in 0..4 {
                    driver.create(&own, &Options::new()).unwrap();
                    driver.create(&shared, &Options::new()).unwrap();
                    if driver.mount(&shared, &holder, PEER).is_ok() {
                        driver.unmount(&shared, &holder).unwrap();
                    }
                    let _ = driver.remove(&shared);
                    assert_eq!(driver.remove(&own).unwrap(), Done::Changed);
                }
            });
        }
    });
    world.remove("shared").unwrap();
    world.assert_empty();
}

#[test]
fn a_second_process_on_one_state_is_refused() {
    let world = World::new();
    let Err(refused) = open(world.folder.path()) else {
        panic!("two drivers opened one state");
    };
    let sentence = refused.sentence();
    assert!(
        sentence.contains("another longshore process has it open"),
        "{sentence}"
    );
}
