//! What rooms stand on: a mount namespace of our own, fresh file systems, programs of others.

use std::fs;
use std::io::Write;
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Milliseconds that something takes, and what it gave.
pub(crate) fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let start = Instant::now();
    let outcome = work()?;
    Ok((start.elapsed().as_secs_f64() * 1e3, outcome))
}

/// Milliseconds that something takes.
pub(crate) fn milliseconds(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    timed(work).map(|(time, ())| time)
}

/// A program by name or path.
#[allow(
    clippy::disallowed_methods,
    reason = "peers and servers are what is measured; nothing of ours stands between"
)]
pub(crate) fn program(path: impl AsRef<Path>) -> Command {
    Command::new(path.as_ref())
}

/// Whether the machine has a program.
pub(crate) fn has(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// Runs a program to its end, which must be a success, and gives what it printed.
pub(crate) fn run(command: &mut Command, input: &str) -> Result<String> {
    let what = command.get_program().display().to_string();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {what}"))?;
    let mut stdin = child.stdin.take().context("its standard input")?;
    stdin
        .write_all(input.as_bytes())
        .with_context(|| format!("write to {what}"))?;
    drop(stdin);
    let out = child
        .wait_with_output()
        .with_context(|| format!("wait for {what}"))?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(out.status.success(), "{what} failed: {said}");
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs a program by its words.
pub(crate) fn run_words(words: &[&str]) -> Result<String> {
    let (first, rest) = words.split_first().context("a program has a name")?;
    run(program(first).args(rest), "")
}

/// Makes this process's mount namespace fit for engines: a `/run` that nobody else sees, and the `/sys` of
/// our own network namespace with the machine's control groups. Refuses where others would see it.
pub(crate) fn make_private() -> Result<()> {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt"));
    let is_ours = namespace("self").context("read our mount namespace")?
        != namespace(&parent_id().to_string()).context("read our parent's mount namespace")?;
    ensure!(
        is_ours,
        "measure in a mount namespace of its own: cargo xtask bench"
    );
    let home = tempfile::tempdir().context("make a folder")?;
    let groups = home.path().to_str().context("a folder with a plain name")?;
    run_words(&["mount", "-t", "tmpfs", "tmpfs", "/run"])?;
    run_words(&["mount", "--rbind", "/sys/fs/cgroup", groups])?;
    run_words(&["mount", "-t", "sysfs", "sysfs", "/sys"])?;
    run_words(&["mount", "--move", groups, "/sys/fs/cgroup"])?;
    run_words(&["ip", "link", "set", "lo", "up"])?;
    Ok(())
}

/// A fresh ext4 of six gigabytes on a loop device; it takes only the room of what is written.
pub(crate) struct Disk {
    root: PathBuf,
    home: tempfile::TempDir,
}

impl Disk {
    pub(crate) fn fresh() -> Result<Self> {
        let home = tempfile::tempdir().context("make a folder")?;
        let (image, root) = (home.path().join("image"), home.path().join("disk"));
        let file = fs::File::create(&image).with_context(|| format!("make {}", image.display()))?;
        file.set_len(6 << 30).context("size the image")?;
        fs::create_dir(&root).context("make the mountpoint")?;
        // Nothing is put off: the kernel would write inode tables while we measure.
        let eager = "lazy_itable_init=0,lazy_journal_init=0";
        run(
            program("mkfs.ext4").args(["-q", "-F", "-E", eager]).arg(&image),
            "",
        )?;
        run(program("mount").args(["-o", "loop"]).args([&image, &root]), "")?;
        Ok(Self { root, home })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.root
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Of what a daemon left mounted upon it, we only need that it does not keep the disk.
        let _ = run(program("umount").args(["-R", "-l"]).arg(&self.root), "");
        let _ = fs::remove_file(self.home.path().join("image"));
    }
}

/// A daemon of somebody's; it ends with us.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it and waits until `answers`.
    pub(crate) fn start(command: &mut Command, log: &Path, answers: impl Fn() -> bool) -> Result<Self> {
        let what = command.get_program().display().to_string();
        let file = fs::File::create(log).with_context(|| format!("make {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("a second handle of the log")?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {what}"))?;
        let mut daemon = Self {
            child,
            log: log.to_owned(),
        };
        let start = Instant::now();
        while !answers() {
            let is_gone = daemon.child.try_wait().context("look at a daemon")?.is_some();
            let is_late = start.elapsed() > Duration::from_secs(60);
            ensure!(!is_gone && !is_late, "{what} does not answer: {}", daemon.said());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }

    /// The end of its log.
    fn said(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let id = self.child.id().to_string();
        // Asked first, so that it ends its own children; killed if it does not listen.
        let _ = run_words(&["kill", &id]);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(15) {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
