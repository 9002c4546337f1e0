//! The OCI runtime: crun where it works, else runc.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A runtime program and the folder of its own state.
#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    program: PathBuf,
    folder: PathBuf,
}

/// crun refuses hosts with control groups of both versions.
fn is_hybrid() -> bool {
    Path::new("/sys/fs/cgroup/unified/cgroup.controllers").exists()
}

fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

impl Runtime {
    /// The runtime asked for, or the first that works here.
    pub(crate) fn choose(typed: Option<&str>, root: &Path) -> Result<Self> {
        let folder = root.join("runtime");
        let order: &[&str] = match typed {
            Some(one) => &[one],
            None if is_hybrid() => &["runc", "crun"],
            None => &["crun", "runc"],
        };
        let Some(program) = order.iter().find_map(|program| installed(program)) else {
            bail!("no OCI runtime found: none of {} is installed", order.join(", "));
        };
        Ok(Self { program, folder })
    }

    /// The program's name.
    pub(crate) fn name(&self) -> String {
        self.program
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.folder);
        if self.name() == "crun" {
            command.arg("--cgroup-manager=disabled");
        }
        command
    }

    /// Runs the bundle's process and stays until it ends, with its exit code.
    pub(crate) fn run(&self, id: &str, bundle: &Path) -> Command {
        let mut command = self.command();
        command
            .arg("--log")
            .arg(bundle.join("runtime.log"))
            .args(["--log-format", "json"]);
        command.arg("run").arg("--bundle").arg(bundle);
        command.arg("--pid-file").arg(bundle.join("pid")).arg(id);
        command
    }

    /// Runs a further process in a container.
    pub(crate) fn exec(&self, id: &str, log: &Path, options: &[String], args: &[String]) -> Command {
        let mut command = self.command();
        command.arg("--log").arg(log).args(["--log-format", "json"]);
        command.arg("exec").args(options).arg(id).args(args);
        command
    }

    /// The runtime's word for how the container is: `created`, `running`, `stopped`; nothing where it
    /// does not know it.
    pub(crate) fn status(&self, id: &str) -> Option<String> {
        let output = self
            .command()
            .args(["state", id])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        value["status"].as_str().map(str::to_owned)
    }

    /// Sends a signal to the container's first process.
    pub(crate) fn kill(&self, id: &str, signal: &str) -> Result<()> {
        let output = self
            .command()
            .args(["kill", id, signal])
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("start {}", self.program.display()))?;
        if !output.status.success() {
            bail!(
                "send {signal} to container {}: {}",
                crate::state::short(id),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }

    /// Kills and forgets the container; one it does not know is no error.
    pub(crate) fn delete(&self, id: &str) -> Result<()> {
        if !self.folder.join(id).exists() {
            return Ok(());
        }
        let output = self
            .command()
            .args(["delete", "--force", id])
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("start {}", self.program.display()))?;
        if !output.status.success() && self.folder.join(id).exists() {
            bail!(
                "delete container {} at {}: {}",
                crate::state::short(id),
                self.name(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }
}

/// The last failure in what the runtime wrote to its log, one JSON object per line.
pub(crate) fn complaint(log: &str) -> Option<String> {
    let mut errors = log.lines().rev().filter_map(|line| {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        let grave = matches!(value["level"].as_str(), Some("error" | "fatal"));
        value["msg"].as_str().filter(|_| grave).map(str::to_owned)
    });
    errors.next()
}

/// The exit code users of Docker expect for a process that could not be started, by what the runtime
/// says: 127 not found, 126 not to be run, 125 anything else.
pub(crate) fn start_failure_code(message: &str) -> i32 {
    if message.contains("no such file or directory") || message.contains("not found") {
        127
    } else if message.to_lowercase().contains("permission denied") {
        126
    } else {
        125
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_failures_have_dockers_codes() {
        let runc = r#"exec: "/bin/nosuch": stat /bin/nosuch: no such file or directory"#;
        assert_eq!(start_failure_code(runc), 127);
        assert_eq!(start_failure_code("executable file `x` not found in $PATH"), 127);
        assert_eq!(start_failure_code("exec /data: Permission denied"), 126);
        assert_eq!(start_failure_code("something else"), 125);
    }

    #[test]
    fn the_last_error_of_a_log_is_its_complaint() {
        let log = "{\"level\":\"error\",\"msg\":\"a\"}\n{\"level\":\"error\",\"msg\":\"b\"}\n{\"level\":\"warning\",\"msg\":\"c\"}\nnoise\n";
        assert_eq!(complaint(log).as_deref(), Some("b"));
        assert_eq!(complaint(""), None);
    }

    #[test]
    fn a_runtime_that_is_not_there_is_told() {
        let error = Runtime::choose(Some("no-such-runtime"), Path::new("/x")).unwrap_err();
        assert!(error.to_string().contains("no-such-runtime"));
    }
}
