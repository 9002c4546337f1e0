//! Running programs with a deadline, and programs that go on running.

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The longest that one command of a test may take, in seconds.
const DEADLINE: &str = "150";

/// A program to be started by a test.
#[expect(
    clippy::disallowed_methods,
    reason = "tests start engines, which kernel::exec is not made for; `timeout` gives the deadline"
)]
pub(crate) fn program(name: impl AsRef<std::ffi::OsStr>) -> Command {
    Command::new(name)
}

/// What a finished command said.
#[derive(Debug)]
pub(crate) struct Out {
    shown: String,
    status: ExitStatus,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl Out {
    /// Runs to the end under `timeout`.
    pub(crate) fn of(words: &[&str], envs: &[(&str, &str)]) -> Self {
        let mut command = program("timeout");
        command.args(["--kill-after=5", DEADLINE]).args(words);
        command.envs(envs.iter().copied()).stdin(Stdio::null());
        let output = command.output().expect("timeout starts");
        Self {
            shown: words.join(" "),
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Whether it succeeded.
    pub(crate) fn succeeded(&self) -> bool {
        self.status.success()
    }

    /// Standard output without blanks around it; a failure fails the test.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert!(self.succeeded(), "{self}");
        self.stdout.trim().to_owned()
    }

    /// Standard error of a command that must fail; a success fails the test.
    #[track_caller]
    pub(crate) fn refused(self) -> String {
        assert!(!self.succeeded(), "this should have failed: {self}");
        assert!(self.status.code() != Some(124), "this hung: {self}");
        self.stderr.trim().to_owned()
    }
}

impl std::fmt::Display for Out {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n{}", self.shown, self.status)?;
        write!(f, "\n{}{}", self.stdout, self.stderr)
    }
}

/// A program that goes on running in a world.
pub(crate) struct Process {
    shown: String,
    /// `nsenter`, which waits for the program and ends as it ended.
    outer: Child,
    /// The program, as the machine numbers it.
    pid: u32,
    log: PathBuf,
}

impl Process {
    /// Starts `words`, which begin with `nsenter`; both outputs are appended to `log`.
    pub(crate) fn start(words: &[&str], envs: &[(&str, &str)], stdin: Stdio, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).unwrap();
        let mut command = program(words[0]);
        command.args(&words[1..]).envs(envs.iter().copied());
        command.stdin(stdin).stdout(file.try_clone().unwrap());
        let outer = command.stderr(file).spawn().expect("nsenter starts");
        let mut process = Self {
            shown: words.join(" "),
            pid: 0,
            outer,
            log: log.to_owned(),
        };
        eventually("the program in the namespaces has a number", || {
            let child = child_of(process.outer.id());
            process.pid = child.unwrap_or_default();
            // It may have refused to start, and be gone already.
            (child.is_some() || process.ended().is_some()).then_some(())
        });
        process
    }

    /// The end of the log, for messages of failures.
    pub(crate) fn log(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(40)..];
        let mut shown = format!("--- {} ({})\n", self.log.display(), self.shown);
        for line in tail {
            let _ = writeln!(shown, "{line}");
        }
        shown
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.outer.try_wait().unwrap()
    }

    /// Sends a signal, such as `TERM`, to the program alone.
    pub(crate) fn signal(&self, name: &str) {
        assert!(self.pid > 0, "it never ran\n{}", self.log());
        let pid = self.pid.to_string();
        Out::of(&["kill", "-s", name, &pid], &[]).ok();
    }

    /// Waits until it has ended; more than `seconds` fail the test.
    #[track_caller]
    pub(crate) fn wait(mut self, seconds: u64) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < deadline, "still running\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks it to end with SIGTERM and waits.
    #[track_caller]
    pub(crate) fn stop(self) -> ExitStatus {
        self.signal("TERM");
        self.wait(60)
    }

    /// Ends it as a crash would.
    #[track_caller]
    pub(crate) fn kill(self) {
        self.signal("KILL");
        self.wait(10);
    }
}

/// The only child of a process.
pub(crate) fn child_of(pid: u32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Tries for up to 40 seconds until there is an answer.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        if let Some(answer) = attempt() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
