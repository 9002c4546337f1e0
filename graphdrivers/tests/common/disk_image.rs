//! File systems in files.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use kernel::exec::Tool;
use kernel::mount::Limits;

/// Makes the file `path` with a new file system of `kind`.
pub(crate) fn make(kind: &str, size: usize, path: &Path) {
    File::create(path).unwrap().set_len(size as u64).unwrap();
    let tool = match kind {
        "ext4" => Tool::new("mkfs.ext4").args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"]),
        other => Tool::new(format!("mkfs.{other}")).arg("-q"),
    };
    tool.arg(path).run(Duration::from_secs(60)).unwrap();
}

/// A new file system of `kind`, as bytes.
pub(crate) fn format(kind: &str, size: usize, scratch: &Path) -> Vec<u8> {
    let path = scratch.join("new.img");
    make(kind, size, &path);
    let content = std::fs::read(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    content
}

/// Writes a file of which most is zeros.
pub(crate) fn write_sparse(path: &Path, content: &[u8]) -> std::io::Result<()> {
    const PIECE: usize = 1 << 16;
    let file = File::create(path)?;
    file.set_len(content.len() as u64)?;
    for (number, piece) in content.chunks(PIECE).enumerate() {
        if piece.iter().any(|byte| *byte != 0) {
            file.write_all_at(piece, (number * PIECE) as u64)?;
        }
    }
    Ok(())
}

/// Mounts the file system in a file; the loop device goes with the mount.
pub(crate) fn mount(kind: &str, image: &Path, target: &Path) -> Result<(), kernel::Error> {
    let deadline = Duration::from_secs(30);
    let made = Tool::new("losetup").args(["--find", "--show"]).arg(image);
    let device = String::from_utf8(made.run(deadline).unwrap()).unwrap();
    let device = device.trim();
    let mounted = kernel::mount::mount_filesystem(kind, device, target, Limits::default(), "");
    let freed = Tool::new("losetup").args(["--detach", device]).run(deadline);
    assert!(freed.is_ok(), "{freed:?}");
    mounted
}
