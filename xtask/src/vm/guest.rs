//! One guest: the words for QEMU, and the process that they start.
//!
//! KVM is left aside: where the processor has it only by name, a guest hangs before it starts.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::run;

/// The emulator.
pub(super) const QEMU: &str = "qemu-system-x86_64";

/// What one guest is made of.
pub(super) struct Machine<'a> {
    /// The guest's number, from 1.
    pub(super) number: u8,
    /// How many guests share the network; one has none.
    pub(super) guests: u8,
    /// Memory in MiB.
    pub(super) memory: u32,
    /// Sizes of its empty disks, in bytes.
    pub(super) disks: &'a [u64],
    /// The kernel's image.
    pub(super) kernel: &'a Path,
    /// A folder of its own, for everything it writes.
    pub(super) folder: &'a Path,
}

/// A guest that runs.
pub(super) struct Guest {
    number: u8,
    child: Child,
    said: JoinHandle<Vec<u8>>,
    code: std::path::PathBuf,
    console: std::path::PathBuf,
}

impl Machine<'_> {
    /// Makes the disks and starts QEMU; the archive `initramfs` lies in the folder.
    pub(super) fn start(&self) -> Result<Guest> {
        for (at, size) in self.disks.iter().enumerate() {
            let path = self.folder.join(format!("disk{at}"));
            let file = std::fs::File::create(&path).with_context(|| format!("make {}", path.display()))?;
            file.set_len(*size)
                .with_context(|| format!("give {} its size", path.display()))?;
        }
        if self.number > 1 {
            appear(&self.folder.join(wire(self.number)))?;
        }
        // The guest dies with us, however we die.
        let mut command = run::program("setpriv");
        command.args(["--pdeathsig", "KILL", QEMU]);
        // Sockets have short paths, so everything is named from its folder.
        command.args(self.words()).current_dir(self.folder);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = spawn(&mut command)?;
        let output = child.stdout.take().context("qemu has no output")?;
        let mark = (self.guests > 1).then(|| format!("[{}] ", self.number));
        Ok(Guest {
            number: self.number,
            child,
            said: std::thread::spawn(move || pass_on(output, mark.as_deref())),
            code: self.folder.join("code"),
            console: self.folder.join("console"),
        })
    }

    fn words(&self) -> Vec<String> {
        let mut words: Vec<String> = [
            "-nodefaults -no-user-config -no-reboot -display none",
            "-machine q35 -accel tcg,thread=multi -cpu max -smp 1",
            "-initrd initramfs -serial file:console -append",
        ]
        .iter()
        .flat_map(|line| line.split(' '))
        .map(str::to_owned)
        .collect();
        words.push("console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off random.trust_cpu=on".into());
        let mut add = |word: &str, value: String| words.extend([word.to_owned(), value]);
        add("-m", self.memory.to_string());
        add("-kernel", self.kernel.to_string_lossy().into_owned());
        let root = "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap";
        add("-virtfs", root.into());
        add("-device", "virtio-serial-pci".into());
        // Our end is a pipe. Not `stdio`: a port counts as closed once standard input has ended.
        add("-chardev", "file,id=out,path=/dev/stdout,append=on".into());
        add("-device", "virtserialport,nr=1,chardev=out,name=out".into());
        add("-chardev", "file,id=code,path=code".into());
        add("-device", "virtserialport,nr=2,chardev=code,name=code".into());
        for at in 0..self.disks.len() {
            let drive = format!("file=disk{at},if=none,format=raw,cache=unsafe,discard=unmap,id=disk{at}");
            add("-drive", drive);
            add(
                "-device",
                format!("virtio-blk-pci,drive=disk{at},serial=disk{at}"),
            );
        }
        words.extend(self.network());
        words
    }

    /// A network that leaves no trace on the host: the first guest's QEMU is the hub, and the others reach
    /// it over Unix sockets.
    fn network(&self) -> Vec<String> {
        let number = self.number;
        let mut words = Vec::new();
        if self.guests == 1 {
            return words;
        }
        let mut add = |word: &str, value: String| words.extend([word.to_owned(), value]);
        if number == 1 {
            for other in 2..=self.guests {
                let wire = wire(other);
                add(
                    "-netdev",
                    format!("stream,id=wire{other},server=on,addr.type=unix,addr.path={wire}"),
                );
                add(
                    "-netdev",
                    format!("hubport,id=port{other},hubid=0,netdev=wire{other}"),
                );
            }
            add("-netdev", "hubport,id=net,hubid=0".to_owned());
        } else {
            let wire = wire(number);
            add(
                "-netdev",
                format!("stream,id=net,server=off,addr.type=unix,addr.path={wire}"),
            );
        }
        add(
            "-device",
            format!("virtio-net-pci,netdev=net,mac=52:54:00:00:00:{number:02x}"),
        );
        words
    }
}

/// The socket between the hub and guest `other`, from a guest's folder.
fn wire(other: u8) -> String {
    format!("../wire{other}")
}

/// Waits for the hub's socket.
fn appear(socket: &Path) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(20);
    while !socket.exists() {
        if Instant::now() > until {
            bail!("the hub of the guests' network did not come");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

impl Guest {
    /// Whether QEMU has ended.
    pub(super) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("wait for qemu")?.is_some())
    }

    /// What the program said and its exit code; an error with the end of the console if there is no code.
    pub(super) fn finish(mut self) -> Result<(Vec<u8>, i32)> {
        let status = self.child.wait().context("wait for qemu")?;
        let said = self.said.join().unwrap_or_default();
        let code = std::fs::read_to_string(&self.code).unwrap_or_default();
        match code.trim().parse() {
            Ok(code) => Ok((said, code)),
            Err(_) => bail!(
                "guest {} ended without a word ({status}); its console said:\n{}",
                self.number,
                tail(&self.console)
            ),
        }
    }

    /// Ends QEMU at once.
    pub(super) fn kill(&mut self) {
        // One that has ended already needs it no more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The end of the console, for whoever gives up.
    pub(super) fn console(&self) -> String {
        tail(&self.console)
    }
}

fn spawn(command: &mut Command) -> Result<Child> {
    let spoken = run::spoken(command);
    command.spawn().with_context(|| format!("start {spoken}"))
}

/// Copies what a guest says to our own output, each line marked, and keeps it.
fn pass_on(output: impl std::io::Read, mark: Option<&str>) -> Vec<u8> {
    let mut output = BufReader::new(output);
    let (mut said, mut line) = (Vec::new(), Vec::new());
    while output.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        let mut ours = std::io::stdout().lock();
        // Nobody may be listening to us; the guest shall end all the same.
        let _ = ours.write_all(mark.unwrap_or_default().as_bytes());
        let _ = ours.write_all(&line);
        let _ = ours.flush();
        said.append(&mut line);
    }
    said
}

fn tail(console: &Path) -> String {
    let bytes = std::fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// Waits until every guest has ended; kills all of them when `until` has passed or `stop` says so.
pub(super) fn wait(guests: &mut [Guest], until: Instant, stop: impl Fn() -> bool) -> Result<()> {
    loop {
        let mut running = 0;
        for guest in guests.iter_mut() {
            running += usize::from(!guest.has_ended()?);
        }
        if running == 0 {
            return Ok(());
        }
        let late = Instant::now() >= until;
        if late || stop() {
            let console = guests.first().map(Guest::console).unwrap_or_default();
            guests.iter_mut().for_each(Guest::kill);
            if late {
                bail!("{running} guests were still running at the deadline; a console said:\n{console}");
            }
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_kept_as_it_came() {
        assert_eq!(pass_on(&b"a\nb"[..], Some("[1] ")), b"a\nb");
    }

    #[test]
    fn disks_are_named_in_their_order() {
        let machine = Machine {
            number: 1,
            guests: 1,
            memory: 64,
            disks: &[1, 2],
            kernel: Path::new("/boot/k"),
            folder: Path::new("/scratch"),
        };
        let words = machine.words();
        let devices: Vec<&String> = words
            .iter()
            .filter(|word| word.starts_with("virtio-blk"))
            .collect();
        assert_eq!(
            devices,
            [
                "virtio-blk-pci,drive=disk0,serial=disk0",
                "virtio-blk-pci,drive=disk1,serial=disk1"
            ]
        );
        assert!(!words.iter().any(|word| word.contains("kvm")));
    }
}
