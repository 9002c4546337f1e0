//! The device mapper: pools, thin devices, snapshots, removal.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use kernel::dm::{
    BlockSize, Blocks, Bytes, Device, Mapper, Name, Pause, PoolFeatures, PoolMessage, PoolMode, PoolState,
    PoolStatus, Removal, Removed, Sectors, Target, ThinId, ThinStatus,
};

use crate::in_guest;

const BLOCK: u64 = 64 << 10;
const THIN: Sectors = Sectors(64 << 11);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn id(number: u32) -> ThinId {
    ThinId::new(number).unwrap()
}

fn numbers(path: &str) -> Device {
    let text = std::fs::read_to_string(Path::new("/sys/class/block").join(path).join("dev")).unwrap();
    let (major, minor) = text.trim().split_once(':').unwrap();
    Device {
        major: major.parse().unwrap(),
        minor: minor.parse().unwrap(),
    }
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

fn write(path: &Path, byte: u8, at: u64) {
    let file = open(path);
    file.write_all_at(&vec![byte; usize::try_from(BLOCK).unwrap()], at)
        .unwrap();
    file.sync_all().unwrap();
}

fn read(path: &Path, at: u64) -> u8 {
    let mut byte = [0];
    open(path).read_exact_at(&mut byte, at).unwrap();
    byte[0]
}

/// Makes a pool on the guest's disks; its metadata's first block is wiped, so it starts empty.
fn pool(mapper: &Mapper, pool: &Name, low_water: Blocks) -> Device {
    write(Path::new("/dev/vdb"), 0, 0);
    let made = mapper.create(pool, Some(&format!("longshore-{pool}"))).unwrap();
    assert!(!made.active && !made.loaded);
    let target = Target::ThinPool {
        metadata: numbers("vdb"),
        data: numbers("vda"),
        block: BlockSize::new(Bytes(BLOCK)).unwrap(),
        low_water,
        features: PoolFeatures {
            error_if_no_space: true,
            ..PoolFeatures::default()
        },
    };
    let size = Bytes(256 << 20).sectors();
    assert!(mapper.load(pool, &[(size, target)]).unwrap().loaded);
    assert!(mapper.resume(pool).unwrap().active);
    made.device
}

fn activate(mapper: &Mapper, thin: &Name, pool: Device, id: ThinId) -> std::path::PathBuf {
    mapper.create(thin, None).unwrap();
    let target = Target::Thin {
        pool,
        id,
        origin: None,
    };
    mapper.load(thin, &[(THIN, target)]).unwrap();
    mapper.resume(thin).unwrap().path()
}

fn state(mapper: &Mapper, pool: &Name) -> PoolState {
    let lines = mapper.status(pool).unwrap();
    match PoolStatus::parse(&lines[0].text) {
        Some(PoolStatus::Working(state)) => state,
        other => panic!("{lines:?}: {other:?}"),
    }
}

fn mapped(mapper: &Mapper, thin: &Name) -> Sectors {
    let lines = mapper.status(thin).unwrap();
    match ThinStatus::parse(&lines[0].text) {
        Some(ThinStatus::Working { mapped, .. }) => mapped,
        other => panic!("{lines:?}: {other:?}"),
    }
}

#[test]
fn the_kernel_tells_its_version_and_targets() {
    in_guest!();
    let mapper = Mapper::open().unwrap();
    assert_eq!(mapper.version().unwrap()[0], 4);
    let targets = mapper.targets().unwrap();
    for wanted in ["linear", "error", "thin", "thin-pool", "flakey"] {
        assert!(
            targets.iter().any(|(name, _)| name == wanted),
            "{wanted} in {targets:?}"
        );
    }
}

#[test]
fn a_snapshot_keeps_what_its_origin_had() {
    in_guest!();
    let mapper = Mapper::open().unwrap();
    let (base, one, two, snap) = (name("t-pool"), name("t-one"), name("t-two"), name("t-snap"));
    let device = pool(&mapper, &base, Blocks(16));
    mapper.message(&base, PoolMessage::CreateThin(id(1))).unwrap();
    mapper.message(&base, PoolMessage::CreateThin(id(2))).unwrap();
    let again = mapper.message(&base, PoolMessage::CreateThin(id(1))).unwrap_err();
    assert!(again.is_exists(), "{again:?}");

    let first = activate(&mapper, &one, device, id(1));
    let second = activate(&mapper, &two, device, id(2));
    write(&first, 0xaa, 0);
    write(&second, 0xbb, BLOCK);
    mapper.suspend(&one, Pause::Flush).unwrap();
    let snapshot = PoolMessage::CreateSnap {
        new: id(3),
        origin: id(1),
    };
    mapper.message(&base, snapshot).unwrap();
    assert!(!mapper.resume(&one).unwrap().suspended);
    write(&first, 0xcc, 0);
    let third = activate(&mapper, &snap, device, id(3));

    assert_eq!(
        (read(&first, 0), read(&second, BLOCK), read(&third, 0)),
        (0xcc, 0xbb, 0xaa)
    );
    assert_eq!(read(&second, 0), 0);
    assert_eq!(mapped(&mapper, &two), Sectors(BLOCK / 512));
    mapper
        .message(&base, PoolMessage::SetTransaction { old: 0, new: 7 })
        .unwrap();
    mapper
        .message(&base, PoolMessage::SetTransaction { old: 0, new: 8 })
        .unwrap_err();
    let now = state(&mapper, &base);
    assert_eq!((now.transaction, now.mode), (7, PoolMode::ReadWrite));
    // One block for each of: the origin's new one, the shared one, the other device's.
    assert_eq!((now.data_used, now.data_total), (Blocks(3), Blocks(4096)));
    assert!(now.error_if_no_space && now.held_root.is_none());
    let table = mapper.table(&snap).unwrap();
    assert_eq!((table[0].kind.as_str(), table[0].length), ("thin", THIN));
    assert_eq!(table[0].text, format!("{device} 3"));

    let busy = mapper.message(&base, PoolMessage::Delete(id(3))).unwrap_err();
    assert!(busy.is_busy(), "{busy:?}");
    for thin in [&one, &two, &snap] {
        assert_eq!(mapper.remove(thin, Removal::Now).unwrap(), Removed::Gone);
    }
    for number in 1..=3 {
        mapper.message(&base, PoolMessage::Delete(id(number))).unwrap();
    }
    assert_eq!(state(&mapper, &base).data_used, Blocks(0));
    mapper.remove(&base, Removal::Now).unwrap();
    assert!(mapper.devices().unwrap().is_empty());
}

#[test]
fn a_device_that_is_open_goes_at_the_last_close() {
    in_guest!();
    let mapper = Mapper::open().unwrap();
    let held = name("t-held");
    mapper.create(&held, None).unwrap();
    let target = Target::Linear {
        device: numbers("vda"),
        offset: Sectors(8),
    };
    mapper
        .load(&held, &[(Sectors(64), target), (Sectors(8), Target::Error)])
        .unwrap();
    let info = mapper.resume(&held).unwrap();
    write(Path::new("/dev/vda"), 0x11, 0);
    assert_eq!(read(&info.path(), 0), 0x11);

    let file = File::open(info.path()).unwrap();
    assert_eq!(
        file.metadata().unwrap().rdev() & 0xff,
        u64::from(info.device.minor)
    );
    let mut sector = [0; 512];
    let failed = file.read_exact_at(&mut sector, 64 * 512).unwrap_err();
    assert_ne!(failed.kind(), ErrorKind::UnexpectedEof, "{failed:?}");
    assert!(mapper.remove(&held, Removal::Now).unwrap_err().is_busy());
    assert_eq!(
        mapper.remove(&held, Removal::Deferred).unwrap(),
        Removed::AtLastClose
    );
    let info = mapper.info(&held).unwrap();
    assert!(info.leaving && info.opens == 1, "{info:?}");
    drop(file);
    for _ in 0..100 {
        if mapper.info(&held).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(mapper.info(&held).unwrap_err().is_missing());
    assert!(mapper.remove(&held, Removal::Now).unwrap_err().is_missing());
}

#[test]
fn a_table_that_is_refused_changes_nothing() {
    in_guest!();
    let mapper = Mapper::open().unwrap();
    let bad = name("t-bad");
    mapper.create(&bad, None).unwrap();
    assert!(mapper.create(&bad, None).unwrap_err().is_busy());
    let target = Target::Linear {
        device: Device { major: 0, minor: 0 },
        offset: Sectors(0),
    };
    mapper.load(&bad, &[(Sectors(8), target)]).unwrap_err();
    let info = mapper.info(&bad).unwrap();
    assert!(!info.active && !info.loaded, "{info:?}");
    mapper.remove(&bad, Removal::Now).unwrap();
    assert!(mapper.devices().unwrap().is_empty());
}

#[test]
fn a_pool_that_runs_low_tells_everybody_who_waits() {
    in_guest!();
    let mapper = Mapper::open().unwrap();
    let (base, thin) = (name("t-low"), name("t-thin"));
    // All blocks are few enough, so the first one taken is the event.
    let device = pool(&mapper, &base, Blocks(4096));
    mapper.message(&base, PoolMessage::CreateThin(id(1))).unwrap();
    let path = activate(&mapper, &thin, device, id(1));
    let seen = mapper.info(&base).unwrap().events;
    mapper.arm().unwrap();
    assert!(!mapper.ready(Duration::from_millis(100)).unwrap());
    let (send, events) = std::sync::mpsc::channel();
    let waited = base.clone();
    std::thread::spawn(move || send.send(Mapper::open().unwrap().wait(&waited, seen).unwrap().events));
    events.recv_timeout(Duration::from_millis(100)).unwrap_err();
    write(&path, 1, 0);
    assert!(mapper.ready(Duration::from_secs(20)).unwrap());
    assert!(events.recv_timeout(Duration::from_secs(20)).unwrap() > seen);
    mapper.remove(&thin, Removal::Now).unwrap();
    mapper.remove(&base, Removal::Now).unwrap();
    assert!(mapper.devices().unwrap().is_empty());
}
