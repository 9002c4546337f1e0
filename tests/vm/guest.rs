//! Whether we are in a guest, and what the guest is.

use std::io::Write;

/// Returns from the test, loudly, unless it runs in a guest.
#[macro_export]
macro_rules! in_guest {
    () => {
        if !$crate::guest::here() {
            return;
        }
    };
}

/// Whether this is a guest; otherwise the skip is reported, for these tests change their whole machine.
pub(crate) fn here() -> bool {
    if std::env::var_os("LONGSHORE_GUEST").is_some() {
        return true;
    }
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test without a name");
    let line = format!("{test}: needs a guest, which the lane vm makes");
    assert!(
        std::env::var("LONGSHORE_REQUIRE").as_deref() != Ok("all"),
        "{line}, and LONGSHORE_REQUIRE=all forbids to skip it"
    );
    eprintln!("SKIPPED {line}");
    if let Some(path) = std::env::var_os("LONGSHORE_SKIPS") {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.create(true).append(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
    }
    false
}

#[test]
fn the_guest_has_its_own_kernel_and_disks() {
    in_guest!();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert!(
        std::path::Path::new("/lib/modules").join(release.trim()).is_dir(),
        "no modules for {release}"
    );
    let size = std::fs::read_to_string("/sys/block/vda/size").unwrap();
    assert_eq!(size.trim(), "524288");
}

#[test]
fn what_a_guest_writes_stays_in_its_memory() {
    in_guest!();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(
        mounts.lines().any(|line| line.starts_with("root / overlay ")),
        "{mounts}"
    );
    std::fs::write("/longshore-was-here", "").unwrap();
}
