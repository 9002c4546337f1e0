//! What a guest does once it has its files: a script for busybox, and the words in it.

use std::fmt::Write;
use std::path::Path;

/// What one guest is to do.
pub(super) struct Job<'a> {
    /// The guest's number, from 1.
    pub(super) guest: u8,
    /// How many guests there are.
    pub(super) guests: u8,
    /// The kernel's folder of modules, as the host names it.
    pub(super) modules: &'a Path,
    /// Modules to load beforehand.
    pub(super) load: &'a [String],
    /// Where the program starts.
    pub(super) folder: &'a Path,
    /// Variables of its environment.
    pub(super) variables: &'a [(String, String)],
    /// The program and its arguments.
    pub(super) words: &'a [String],
}

impl Job<'_> {
    /// The script: run as the first process, so it ends with the end of the guest.
    pub(super) fn script(&self) -> String {
        let mut text = String::from("b=/run/vm/busybox\n");
        // Lines go to the string only, which cannot fail.
        let mut line = |words: &str| {
            let _ = writeln!(text, "{words}");
        };
        let modules = quoted(&self.modules.to_string_lossy());
        let release = self.modules.file_name().unwrap_or_default().to_string_lossy();
        let target = quoted(&format!("/lib/modules/{release}"));
        line(&format!(
            "$b mkdir -p {target} && $b mount --bind {modules} {target}"
        ));
        line("$b echo /run/vm/modprobe >/proc/sys/kernel/modprobe");
        line(&format!("$b hostname guest{}; $b ip link set lo up", self.guest));
        for module in self.load {
            line(&format!(
                "/run/vm/modprobe {} || $b echo 'guest: no module' >/dev/console",
                quoted(module)
            ));
        }
        if self.guests > 1 {
            line(&format!(
                "$b ip addr add 10.77.0.{}/24 dev eth0 && $b ip link set eth0 up",
                self.guest
            ));
        }
        for (name, value) in self.variables {
            line(&format!("export {name}={}", quoted(value)));
        }
        line(&format!("export LONGSHORE_GUEST={}", self.guest));
        line("export TMPDIR=/run/tmp");
        line(&format!("cd {}", quoted(&self.folder.to_string_lossy())));
        let words: Vec<String> = self.words.iter().map(|word| quoted(word)).collect();
        // The first port takes what the program says, the second its code.
        line("for out in /dev/vport*p1; do :; done; for code in /dev/vport*p2; do :; done");
        line(&format!("{} </dev/null >\"$out\" 2>&1", words.join(" ")));
        line("$b echo $? >\"$code\"");
        line("$b sync; $b reboot -f");
        text
    }
}

/// One word for the shell, whatever is in it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stays_one_word() {
        assert_eq!(quoted("a b;$(c)"), "'a b;$(c)'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn the_program_runs_where_it_was_called_and_its_code_goes_out() {
        let job = Job {
            guest: 2,
            guests: 2,
            modules: Path::new("/kernels/lib/modules/6.1"),
            load: &["dm_mod".to_owned()],
            folder: Path::new("/here it is"),
            variables: &[("A".to_owned(), "b c".to_owned())],
            words: &["/bin/program".to_owned(), "--flag=x y".to_owned()],
        };
        let script = job.script();
        let lines: Vec<&str> = script.lines().collect();
        for line in [
            "/run/vm/modprobe 'dm_mod' || $b echo 'guest: no module' >/dev/console",
            "export A='b c'",
            "cd '/here it is'",
            "'/bin/program' '--flag=x y' </dev/null >\"$out\" 2>&1",
            "$b ip addr add 10.77.0.2/24 dev eth0 && $b ip link set eth0 up",
        ] {
            assert!(lines.contains(&line), "{line} is not in\n{script}");
        }
        assert_eq!(lines.last(), Some(&"$b sync; $b reboot -f"));
    }
}
