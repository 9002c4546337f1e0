//! The little world that a guest starts in: busybox, modules, and the script `init.sh`.
//!
//! A cpio archive in the form `newc`, as the kernel's own documentation describes it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::kernel::Kernel;
use crate::run;

/// Modules that are needed to reach the host's files and to answer.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "virtio_net",
    "9pnet_virtio",
    "9p",
    "overlay",
];

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// The archive for `kernel`, with `job` as the script that the guest runs when its files are there.
pub(super) fn build(kernel: &Kernel, job: &str) -> Result<Vec<u8>> {
    let busybox = run::which("busybox").context("busybox is not on this machine")?;
    let mut archive = Archive::default();
    for folder in ["bin", "modules"] {
        archive.add(folder, FOLDER, &[]);
    }
    let busybox = std::fs::read(&busybox).with_context(|| format!("read {}", busybox.display()))?;
    archive.add("bin/busybox", PROGRAM, &busybox);
    archive.add("init", PROGRAM, include_bytes!("init.sh"));
    archive.add("job", PROGRAM, job.as_bytes());
    let mut order = String::new();
    for path in in_order(&kernel.modules(), MODULES)? {
        let name = path.rsplit('/').next().unwrap_or(&path).to_owned();
        let file = kernel.modules().join(&path);
        let bytes = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        archive.add(&format!("modules/{name}"), PROGRAM, &bytes);
        order.push_str(&name);
        order.push('\n');
    }
    archive.add("modules/order", PROGRAM, order.as_bytes());
    Ok(archive.finish())
}

/// Paths of the modules called `names` and of all that they need, below `modules`, each after what it needs.
fn in_order(modules: &Path, names: &[&str]) -> Result<Vec<String>> {
    let read = |name: &str| {
        let file = modules.join(name);
        std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
    };
    let (needs, builtin) = (read("modules.dep")?, read("modules.builtin")?);
    let needs: BTreeMap<&str, Vec<&str>> = needs
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(path, needs)| (path, needs.split_whitespace().collect()))
        .collect();
    let mut order = Vec::new();
    for name in names {
        match needs.keys().find(|path| module_name(path) == *name) {
            Some(path) => load(path, &needs, &mut order),
            None if builtin.lines().any(|path| module_name(path) == *name) => {}
            None => bail!("this kernel has no module {name}"),
        }
    }
    if let Some(packed) = order
        .iter()
        .find(|path| Path::new(path).extension().is_none_or(|end| end != "ko"))
    {
        bail!("the module {packed} is compressed, which busybox cannot load");
    }
    Ok(order)
}

fn load(path: &str, needs: &BTreeMap<&str, Vec<&str>>, order: &mut Vec<String>) {
    if order.iter().any(|done| done == path) {
        return;
    }
    for need in needs.get(path).into_iter().flatten() {
        load(need, needs, order);
    }
    order.push(path.to_owned());
}

/// `kernel/fs/9p/9p.ko` is `9p`; the kernel takes `-` and `_` for the same.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// A cpio archive on its way.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.inode += 1;
        let size = u32::try_from(content.len()).expect("what we pack is small");
        let name_size = u32::try_from(name.len() + 1).expect("our names are short");
        let (links, none) = (1, 0);
        let head = [
            self.inode, mode, none, none, links, none, size, none, none, none, none, name_size, none,
        ];
        self.bytes.extend(b"070701");
        for field in head {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_after_what_it_needs() {
        let folder = tempfile::tempdir().unwrap();
        let dep = "k/a.ko: k/b-x.ko k/c.ko\nk/b-x.ko: k/c.ko\nk/c.ko:\nk/d.ko.xz:\n";
        std::fs::write(folder.path().join("modules.dep"), dep).unwrap();
        std::fs::write(folder.path().join("modules.builtin"), "k/e.ko\n").unwrap();
        let order = |names: &[&str]| in_order(folder.path(), names);
        assert_eq!(order(&["a", "c"]).unwrap(), ["k/c.ko", "k/b-x.ko", "k/a.ko"]);
        assert_eq!(order(&["b_x"]).unwrap(), ["k/c.ko", "k/b-x.ko"]);
        assert!(order(&["e"]).unwrap().is_empty());
        assert!(order(&["f"]).is_err());
        assert!(order(&["d"]).is_err());
    }

    #[test]
    fn the_archive_is_one_that_cpio_reads() {
        let mut archive = Archive::default();
        archive.add("bin", FOLDER, &[]);
        archive.add("bin/a", PROGRAM, b"hello");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        // Each head is 110 bytes, and names and contents end on multiples of four.
        assert_eq!(text.find("070701"), Some(0));
        assert_eq!(text.find("bin/a"), Some(116 + 110));
        assert_eq!(text.find("hello"), Some(116 + 116));
        assert_eq!(text.find("TRAILER!!!"), Some(116 + 116 + 8 + 110));
    }
}
