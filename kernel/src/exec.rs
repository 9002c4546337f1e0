//! The one runner for tools that are the only door to something: `mkfs`, `rbd`, a mount helper.
//!
//! No shell, no inherited environment, no standard input: a tool that asks a question gets end of file,
//! not an hour. What it writes goes to memory files instead of pipes, so a daemon that a tool leaves
//! behind cannot keep the caller waiting. At the deadline the tool's whole process group is killed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::fault;

/// Bytes kept of what a tool writes to its standard output.
const OUTPUT_LIMIT: usize = 16 << 20;
/// Bytes kept of its complaints: the last ones, where the reason stands.
const COMPLAINT_LIMIT: usize = 4 << 10;
/// Longest sleep between two looks at the tool.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Why a tool did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It could not be started.
    #[error("start {tool}")]
    Start {
        /// Program and arguments.
        tool: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It was killed at its deadline.
    #[error("run {tool}: killed after {after:?}: {complaint}")]
    Deadline {
        /// Program and arguments.
        tool: String,
        /// The deadline.
        after: Duration,
        /// The end of its standard error.
        complaint: String,
    },
    /// It ended with a status of its own.
    #[error("run {tool}: {status}: {complaint}")]
    Status {
        /// Program and arguments.
        tool: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its standard error.
        complaint: String,
    },
}

impl ExecError {
    /// The exit code, if the tool ended with one.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Status { status, .. } => status.code(),
            Self::Start { .. } | Self::Deadline { .. } => None,
        }
    }
}

/// A tool to be run: program, arguments and the few variables it shall see.
#[derive(Debug, Clone)]
pub struct Tool {
    program: OsString,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    input: Vec<u8>,
}

impl Tool {
    /// A program by path, or by name on the fixed path of system tools.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            variables: Vec::new(),
            input: Vec::new(),
        }
    }

    /// Adds one argument, as it is: nobody splits or expands it.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        arguments.into_iter().fold(self, Self::arg)
    }

    /// Adds a variable of the environment, which is otherwise `PATH` and `LC_ALL=C` alone.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.variables
            .push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Gives the tool bytes to read on its standard input, where nobody else sees them.
    #[must_use]
    pub fn input(mut self, bytes: &[u8]) -> Self {
        self.input = bytes.to_vec();
        self
    }

    /// Starts the tool with nothing on its standard streams and leaves it to the caller.
    pub fn spawn(&self) -> Result<Child, ExecError> {
        self.start(Stdio::null(), Stdio::null())
    }

    /// Starts the tool, lets it write to `log`, and leaves it to the caller.
    pub fn spawn_logging(&self, log: File) -> Result<Child, ExecError> {
        let copy = log.try_clone().map_err(|source| self.not_started(source))?;
        self.start(copy.into(), log.into())
    }

    /// Runs the tool to its end, at most for `deadline`, and returns its standard output.
    pub fn run(&self, deadline: Duration) -> Result<Vec<u8>, ExecError> {
        let output = memory_file("stdout").map_err(|source| self.not_started(source))?;
        let complaints = memory_file("stderr").map_err(|source| self.not_started(source))?;
        let streams = (output.try_clone(), complaints.try_clone());
        let (Ok(stdout), Ok(stderr)) = streams else {
            return Err(self.not_started(std::io::Error::other("no file descriptor is left")));
        };
        let mut child = self.start(stdout.into(), stderr.into())?;
        let ended = wait(&mut child, deadline).map_err(|source| self.not_started(source))?;
        match ended {
            Some(status) if status.success() => Ok(read_tail(&output, OUTPUT_LIMIT)),
            Some(status) => Err(ExecError::Status {
                tool: self.shown(),
                status,
                complaint: complaint(&complaints),
            }),
            None => Err(ExecError::Deadline {
                tool: self.shown(),
                after: deadline,
                complaint: complaint(&complaints),
            }),
        }
    }

    fn stdin(&self) -> std::io::Result<Stdio> {
        if self.input.is_empty() {
            return Ok(Stdio::null());
        }
        let file = memory_file("stdin")?;
        file.write_all_at(&self.input, 0)?;
        Ok(file.into())
    }

    fn start(&self, stdout: Stdio, stderr: Stdio) -> Result<Child, ExecError> {
        let program = self.program.to_string_lossy();
        fault::point("run tool", &program).map_err(|error| self.not_started(error.source))?;
        tracing::debug!(tool = self.shown(), "run");
        let stdin = self.stdin().map_err(|source| self.not_started(source))?;
        #[allow(
            clippy::disallowed_methods,
            reason = "this is the place that everybody else is sent to"
        )]
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("LC_ALL", "C")
            .envs(self.variables.iter().map(|(key, value)| (key, value)))
            .current_dir("/")
            .process_group(0)
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr);
        command.spawn().map_err(|source| self.not_started(source))
    }

    fn not_started(&self, source: std::io::Error) -> ExecError {
        let tool = self.shown();
        ExecError::Start { tool, source }
    }

    fn shown(&self) -> String {
        let words = std::iter::once(&self.program).chain(&self.arguments);
        let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }
}

fn memory_file(name: &str) -> std::io::Result<File> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC)?.into())
}

/// Waits for the end of `child`; at the deadline kills its group and returns `None`.
fn wait(child: &mut Child, deadline: Duration) -> std::io::Result<Option<ExitStatus>> {
    let until = Instant::now() + deadline;
    let mut pause = Duration::from_micros(500);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let Some(left) = until.checked_duration_since(Instant::now()) else {
            break;
        };
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(LOOK_AGAIN);
    }
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(group) = group {
        // Not waited for yet, so the id is still the tool's own. A group that is gone has no need of it.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let status = child.wait()?;
    // It may have ended between the last look and the signal.
    Ok((status.signal() != Some(Signal::KILL.as_raw())).then_some(status))
}

/// The last `limit` bytes that were written.
fn read_tail(file: &File, limit: usize) -> Vec<u8> {
    let length = file.metadata().map_or(0, |data| data.len());
    let wanted = usize::try_from(length).unwrap_or(limit).min(limit);
    let mut bytes = vec![0; wanted];
    let from = length - wanted as u64;
    match file.read_exact_at(&mut bytes, from) {
        Ok(()) => bytes,
        Err(_) => Vec::new(),
    }
}

fn complaint(file: &File) -> String {
    let bytes = read_tail(file, COMPLAINT_LIMIT);
    let text = String::from_utf8_lossy(&bytes);
    match text.trim() {
        "" => "it said nothing".to_owned(),
        said => said.replace('\n', "; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn output_comes_back_and_arguments_are_not_expanded() {
        let output = Tool::new("echo").arg("$(id);ls  *").run(SOON).unwrap();
        assert_eq!(output, b"$(id);ls  *\n");
    }

    #[test]
    fn the_environment_is_ours() {
        let output = Tool::new("env").env("KEY", "value").run(SOON).unwrap();
        let text = String::from_utf8(output).unwrap();
        let mut keys: Vec<_> = text.lines().filter_map(|line| line.split('=').next()).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["KEY", "LC_ALL", "PATH"]);
    }

    #[test]
    fn a_failure_tells_code_and_complaint() {
        let error = Tool::new("ls").arg("/does/not/exist").run(SOON).unwrap_err();
        assert_eq!(error.code(), Some(2));
        assert!(error.to_string().contains("No such file"), "{error}");
        let error = Tool::new("/does/not/exist").run(SOON).unwrap_err();
        assert_eq!(error.to_string(), "start /does/not/exist");
    }

    #[test]
    fn a_question_gets_end_of_file() {
        assert_eq!(Tool::new("cat").run(SOON).unwrap(), b"");
    }

    #[test]
    fn the_deadline_kills_the_tool_and_its_children() {
        let began = Instant::now();
        let script = "sleep 61.25 & echo begun >&2; wait";
        let tool = Tool::new("sh").args(["-c", script]);
        let error = tool.run(Duration::from_millis(300)).unwrap_err();
        assert!(error.to_string().contains("begun"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(10));
        let listed = Tool::new("ps").args(["-eo", "stat,args"]).run(SOON).unwrap();
        let listed = String::from_utf8(listed).unwrap();
        let left: Vec<_> = listed
            .lines()
            .filter(|line| line.ends_with("sleep 61.25") && !line.starts_with('Z'))
            .collect();
        assert_eq!(left, Vec::<&str>::new());
    }

    #[test]
    fn a_daemon_left_behind_does_not_hold_the_caller() {
        let began = Instant::now();
        let script = "sleep 3 & echo started";
        let output = Tool::new("sh").args(["-c", script]).run(SOON).unwrap();
        assert_eq!(output, b"started\n");
        assert!(began.elapsed() < Duration::from_secs(2));
    }
}
