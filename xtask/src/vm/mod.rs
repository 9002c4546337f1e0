//! `cargo xtask vm run`: a program on Debian's own kernel, in a guest that QEMU emulates.
//!
//! The guest sees this machine's files read only, with a layer in memory above them, so the program finds
//! everything it has here. What it needs lies beside what cargo builds; nothing is installed for the guest
//! on this machine but QEMU and busybox, and nothing is left when it ends.

mod guest;
mod initramfs;
mod job;
mod kernel;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::demo::signal::Interrupt;
use crate::lanes::{Need, provide};
use crate::run;
use guest::{Guest, Machine};
use job::Job;
use kernel::Kernel;

/// What the guests are to be like.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Wishes {
    /// Give each guest an empty disk of this size (K, M or G); may be given several times.
    #[arg(long = "disk", value_name = "SIZE", value_parser = bytes)]
    pub(crate) disks: Vec<u64>,
    /// How many guests run the program, on a network of their own: 10.77.0.1, 10.77.0.2 and so on.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub(crate) guests: u8,
    /// Memory of each guest in MiB.
    #[arg(long, value_name = "MB", default_value_t = 1024)]
    pub(crate) memory: u32,
    /// Load this module of the kernel beforehand; may be given several times.
    #[arg(long = "module", value_name = "NAME", value_parser = module)]
    pub(crate) modules: Vec<String>,
    /// Kill the guests when this many seconds have passed.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub(crate) deadline: u64,
    /// The program and its arguments.
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    pub(crate) words: Vec<String>,
}

/// How the program ended in one guest.
#[derive(Debug)]
pub(crate) struct Ended {
    /// What it wrote to its standard output and error.
    pub(crate) said: String,
    /// Its exit code.
    pub(crate) code: i32,
}

/// What guests need on this machine.
pub(crate) const NEEDS: &[Need] = &[
    Need::Root,
    Need::Program(guest::QEMU, "qemu-system-x86"),
    Need::Program("busybox", "busybox-static"),
    Need::Program("setpriv", "util-linux"),
    Need::Program("dpkg-deb", "dpkg"),
    Need::Program("rpc.nfsd", "nfs-kernel-server"),
    Need::Program("exportfs", "nfs-kernel-server"),
    Need::Program("nft", "nftables"),
    Need::Kernel,
];

/// Whether a kernel could be had; the reason why not goes to standard error.
pub(crate) fn have_kernel() -> bool {
    Kernel::provide()
        .inspect_err(|error| eprintln!("no kernel for guests: {error:#}"))
        .is_ok()
}

/// Runs the program in its guests, and answers with the first exit code that is not 0.
pub(crate) fn chore(wishes: &Wishes) -> Result<i32> {
    let missing = provide(NEEDS)?;
    if !missing.is_empty() {
        let missing: Vec<&str> = missing.into_iter().map(Need::spoken).collect();
        bail!("missing {}", missing.join(", "));
    }
    let ended = run(wishes)?;
    Ok(ended
        .iter()
        .map(|end| end.code)
        .find(|code| *code != 0)
        .unwrap_or(0))
}

/// Runs the program in its guests.
pub(crate) fn run(wishes: &Wishes) -> Result<Vec<Ended>> {
    let interrupt = Interrupt::listen()?;
    let until = Instant::now() + Duration::from_secs(wishes.deadline);
    let kernel = Kernel::provide()?;
    let scratch = Scratch::new()?;
    let mut guests = Vec::new();
    let outcome = start(wishes, &kernel, &scratch, &mut guests)
        .and_then(|()| guest::wait(&mut guests, until, || interrupt.asked()));
    if outcome.is_err() || interrupt.asked() {
        guests.iter_mut().for_each(Guest::kill);
    }
    outcome?;
    interrupt.check()?;
    guests
        .into_iter()
        .map(|guest| {
            let (said, code) = guest.finish()?;
            let said = String::from_utf8_lossy(&said).into_owned();
            Ok(Ended { said, code })
        })
        .collect()
}

fn start(wishes: &Wishes, kernel: &Kernel, scratch: &Scratch, guests: &mut Vec<Guest>) -> Result<()> {
    let words = resolve(&wishes.words)?;
    let here = std::env::current_dir().context("find the current folder")?;
    let count = wishes.guests;
    for number in 1..=count {
        let folder = scratch.0.join(number.to_string());
        std::fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        let job = Job {
            guest: number,
            guests: count,
            modules: &kernel.modules(),
            load: &wishes.modules,
            folder: &here,
            variables: &variables(),
            words: &words,
        };
        let archive = initramfs::build(kernel, &job.script())?;
        std::fs::write(folder.join("initramfs"), archive).context("write the initramfs")?;
        let machine = Machine {
            number,
            guests: count,
            memory: wishes.memory,
            disks: &wishes.disks,
            kernel: &kernel.image(),
            folder: &folder,
        };
        guests.push(machine.start()?);
    }
    Ok(())
}

/// The program by its whole path, so that the guest need not search; its arguments as they are.
fn resolve(words: &[String]) -> Result<Vec<String>> {
    let (program, arguments) = words.split_first().context("no program was named")?;
    let found = if program.contains('/') {
        Some(PathBuf::from(program))
    } else {
        run::which(program)
    };
    // Links stay as they are: a program may look at its own name, as busybox does.
    let path = found
        .filter(|path| path.is_file())
        .with_context(|| format!("there is no program {program}"))?;
    let path = std::path::absolute(&path).with_context(|| format!("find {}", path.display()))?;
    let mut all = vec![path.to_string_lossy().into_owned()];
    all.extend_from_slice(arguments);
    Ok(all)
}

/// What of our environment is the program's business too.
fn variables() -> Vec<(String, String)> {
    let wanted =
        |name: &str| name.starts_with("LONGSHORE_") && name != "LONGSHORE_SKIPS" || name == "RUST_BACKTRACE";
    let mut all: Vec<_> = std::env::vars().filter(|(name, _)| wanted(name)).collect();
    let path = run::search_path().to_string_lossy().into_owned();
    all.push(("PATH".to_owned(), format!("{path}:/run/vm")));
    all
}

/// Where kernels and guests have their files, beside what cargo builds.
fn shelf() -> Result<PathBuf> {
    Ok(run::target_dir()?.join("vm"))
}

/// The files of one run, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let runs = shelf()?.join("runs");
        std::fs::create_dir_all(&runs).with_context(|| format!("make {}", runs.display()))?;
        for entry in std::fs::read_dir(&runs)?.flatten() {
            // What a run left that was killed.
            if !Path::new("/proc").join(entry.file_name()).exists() {
                std::fs::remove_dir_all(entry.path()).context("remove an older run's files")?;
            }
        }
        let folder = runs.join(std::process::id().to_string());
        std::fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// `64M` in bytes.
fn bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(digits) if text.ends_with('K') => (digits, 10),
        Some(digits) if text.ends_with('M') => (digits, 20),
        Some(digits) => (digits, 30),
        None => (text, 0),
    };
    let number: u64 = digits
        .parse()
        .map_err(|error| format!("{text} is no size such as 64M: {error}"))?;
    let size = number
        .checked_mul(1 << shift)
        .filter(|size| *size > 0 && size % 512 == 0);
    size.ok_or_else(|| format!("{text} is no whole number of sectors"))
}

/// A module's name, which goes to the guest's modprobe.
fn module(text: &str) -> Result<String, String> {
    let fine = !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    if fine && !text.starts_with('-') {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no name of a module"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_whole_sectors() {
        assert_eq!(bytes("512"), Ok(512));
        assert_eq!(bytes("64M"), Ok(64 << 20));
        assert_eq!(bytes("2G"), Ok(2 << 30));
        for wrong in [
            "",
            "0",
            "100",
            "M",
            "-1M",
            "99999999999999999999",
            "18446744073709551615G",
        ] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_module_is_no_option() {
        assert!(module("dm-thin_pool").is_ok());
        for wrong in ["", "-r", "a b", "../x"] {
            assert!(module(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_program_is_found_by_name_and_keeps_it() {
        let words = resolve(&["sh".to_owned(), "-c".to_owned()]).unwrap();
        assert!(
            words[0].starts_with('/') && words[0].ends_with("/sh"),
            "{words:?}"
        );
        assert_eq!(words[1], "-c");
        assert!(resolve(&["longshore-no-such-program".to_owned()]).is_err());
    }
}
