//! `type`, `device` and `o`: the spelling of Docker's own local driver.
//!
//! `o` is what one writes behind `mount -o`. Words that are about the mount become its limits; all others go to
//! the file system one by one, and it is the kernel that refuses those it does not know.

use kernel::mount::Limits;
use kernel::record::{Damaged, Decoder, Encoder};

use super::options::BadOption;

/// What one may write there for mount(8), and what means nothing to a kernel.
const MEANINGLESS: [&str; 5] = ["defaults", "rw", "_netdev", "nofail", "exec"];
/// Keys whose value is a secret: `docker volume inspect` would show it to everybody.
const SECRETS: [&str; 7] = [
    "password",
    "password2",
    "passwd",
    "pass",
    "secret",
    "cred",
    "credentials",
];
const NETWORK: [&str; 7] = ["nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "afs"];

/// The three options as typed.
#[derive(Debug, Default)]
pub(super) struct Words<'a> {
    pub(super) kind: Option<&'a str>,
    pub(super) device: Option<&'a str>,
    pub(super) options: Option<&'a str>,
}

/// What the user wants mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    /// `ext4`, `nfs`, …; `none` for a bind.
    pub(super) kind: String,
    /// A device, `HOST:/PATH`, a folder to bind.
    pub(super) device: String,
    /// What the mount forbids.
    pub(super) limits: Limits,
    /// Words for the file system.
    pub(super) options: Vec<(String, Option<String>)>,
    /// `o` as it was typed, for showing and comparing.
    pub(super) text: String,
}

impl Given {
    /// Whether a folder of this host is shown, and nothing mounted anew.
    pub(super) fn is_bind(&self) -> bool {
        self.kind == "none"
    }

    /// Whether a server far away may keep us waiting.
    pub(super) fn is_network(&self) -> bool {
        NETWORK.contains(&self.kind.as_str())
    }

    /// Rows for showing and comparing.
    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![("type", self.kind.clone()), ("device", self.device.clone())];
        if !self.text.is_empty() {
            rows.push(("o", self.text.clone()));
        }
        rows
    }

    pub(super) fn encode(&self, to: Encoder) -> Encoder {
        to.text(&self.kind).text(&self.device).text(&self.text)
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Self, Damaged> {
        let (kind, device, text) = (from.text()?, from.text()?, from.text()?);
        let words = Words {
            kind: Some(&kind),
            device: Some(&device),
            options: Some(&text),
        };
        words.read().map_err(|_| from.damaged())
    }
}

impl Words<'_> {
    /// Whether none was typed. Docker's clients send empty ones at times.
    pub(super) fn are_empty(&self) -> bool {
        let words = [self.kind, self.device, self.options];
        words.into_iter().flatten().all(str::is_empty)
    }

    /// Understands them.
    pub(super) fn read(&self) -> Result<Given, BadOption> {
        let (kind, text) = (self.kind.unwrap_or_default(), self.options.unwrap_or_default());
        let mut given = Given {
            kind: kind.to_owned(),
            device: self.device.unwrap_or_default().to_owned(),
            // What comes from elsewhere brings no rights along, unless the user says so.
            limits: Limits {
                no_suid: true,
                no_dev: true,
                ..Limits::default()
            },
            options: Vec::new(),
            text: text.to_owned(),
        };
        let mut bind = false;
        for word in text.split(',').filter(|word| !word.is_empty()) {
            bind |= word == "bind";
            given.take(word)?;
        }
        given.settle(bind, text)
    }
}

impl Given {
    /// One word of `o`.
    fn take(&mut self, word: &str) -> Result<(), BadOption> {
        let refuse = |why: &str| Err(BadOption::value("o", word, why));
        match word {
            "bind" => {}
            "ro" => self.limits.read_only = true,
            "nosuid" => self.limits.no_suid = true,
            "suid" => self.limits.no_suid = false,
            "nodev" => self.limits.no_dev = true,
            "dev" => self.limits.no_dev = false,
            "noexec" => self.limits.no_exec = true,
            "noatime" => self.limits.no_atime = true,
            "relatime" | "atime" => self.limits.no_atime = false,
            "rbind" => {
                return refuse("would show what others mount below as well; bind shows the folder alone");
            }
            "remount" | "move" => return refuse("changes a mount, and a volume is mounted anew each time"),
            word if MEANINGLESS.contains(&word) => {}
            word => {
                let (key, value) = match word.split_once('=') {
                    Some((key, value)) => (key, Some(value.to_owned())),
                    None => (word, None),
                };
                if SECRETS.contains(&key) {
                    // The value is not repeated.
                    let why = "is a secret, and everybody who may inspect the volume would see it";
                    return Err(BadOption::value("o", key, why));
                }
                if key.is_empty() || key == "source" {
                    return refuse("is no option of a file system");
                }
                self.options.push((key.to_owned(), value));
            }
        }
        Ok(())
    }

    /// What can only be said of the whole.
    fn settle(mut self, bind: bool, text: &str) -> Result<Self, BadOption> {
        let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        if bind {
            if !matches!(self.kind.as_str(), "" | "none") {
                return Err(BadOption::value(
                    "type",
                    &self.kind,
                    "is not for o=bind, which has type none",
                ));
            }
            if let Some((key, _)) = self.options.first() {
                return Err(BadOption::value("o", key, "is no option of a bind"));
            }
            if !self.device.starts_with('/') || self.device.split('/').any(|part| part == "..") {
                let why = "is no absolute path without .., as o=bind needs";
                return Err(BadOption::value("device", &self.device, why));
            }
            "none".clone_into(&mut self.kind);
            // A folder of this host is as trusted as the host, as with Docker's own driver.
            let has = |word| text.split(',').any(|one| one == word);
            self.limits.no_suid = has("nosuid");
            self.limits.no_dev = has("nodev");
            return Ok(self);
        }
        if self.kind.is_empty() || self.kind == "none" {
            let why = "is no file system; say type=nfs, type=tmpfs, …, or o=bind for a folder of this host";
            return Err(BadOption::value("type", &self.kind, why));
        }
        if self.kind.len() > 32 || !self.kind.bytes().all(is_word) {
            return Err(BadOption::value(
                "type",
                &self.kind,
                "is no name of a file system",
            ));
        }
        if self.kind == "tmpfs" && self.device.is_empty() {
            "tmpfs".clone_into(&mut self.device);
        }
        if self.device.is_empty() || self.device.len() > 4095 || self.device.contains('\0') {
            return Err(BadOption::value(
                "device",
                &self.device,
                "is nothing that type could be mounted from",
            ));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: &str, device: &str, options: &str) -> Result<Given, BadOption> {
        let words = Words {
            kind: Some(kind),
            device: Some(device),
            options: Some(options),
        };
        words.read()
    }

    #[test]
    fn what_compose_files_say_is_understood() {
        let nfs = read("nfs", ":/export/a", "addr=10.0.0.7,rw,nfsvers=4,soft,noatime").unwrap();
        assert!(nfs.is_network() && !nfs.is_bind());
        assert!(nfs.limits.no_suid && nfs.limits.no_dev && nfs.limits.no_atime && !nfs.limits.read_only);
        let options = [
            ("addr".to_owned(), Some("10.0.0.7".to_owned())),
            ("nfsvers".to_owned(), Some("4".to_owned())),
            ("soft".to_owned(), None),
        ];
        assert_eq!(nfs.options, options);
        let tmpfs = read("tmpfs", "", "size=100m,uid=1000").unwrap();
        assert_eq!(tmpfs.device, "tmpfs");
        let bind = read("", "/srv/data", "bind,ro").unwrap();
        assert!(bind.is_bind() && bind.limits.read_only && !bind.limits.no_suid);
        let trusted = read("ext4", "/dev/sdz1", "suid,dev").unwrap();
        assert!(!trusted.limits.no_suid && !trusted.limits.no_dev);
    }

    #[test]
    fn hostile_words_are_refused() {
        for (kind, device, options) in [
            ("none", "srv/data", "bind"),
            ("none", "/srv/../etc", "bind"),
            ("none", "/srv", "rbind"),
            ("none", "/srv", ""),
            ("", "/srv", "ro"),
            ("ext4", "/srv", "bind"),
            ("none", "/srv", "bind,size=1m"),
            ("ext4", "", ""),
            ("Ext4", "/dev/sda", ""),
            ("../ext4", "/dev/sda", ""),
            ("ext4", "/dev/sda\0", ""),
            ("ext4", "/dev/sda", "remount"),
            ("ext4", "/dev/sda", "source=/dev/sdb"),
            ("ext4", "/dev/sda", "=1"),
        ] {
            assert!(
                read(kind, device, options).is_err(),
                "{kind} {device} {options} was taken"
            );
        }
    }

    #[test]
    fn a_secret_is_refused_and_not_repeated() {
        let refused = read("cifs", "//host/share", "username=me,password=hunter2").unwrap_err();
        let told = refused.to_string();
        assert!(told.contains("password") && !told.contains("hunter2"), "{told}");
    }
}
