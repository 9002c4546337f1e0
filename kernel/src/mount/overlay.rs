//! Overlay mounts: one option per layer where the kernel can, one page of text where it cannot.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{self as files, Mode, OFlags};
use rustix::mount::{self as sys, FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags};

use super::descriptor_path;
use crate::error::{Context, Error, Result};
use crate::fault;

/// An overlay to be mounted.
#[derive(Debug, Clone, Copy)]
pub struct Overlay<'a> {
    /// Lower folders, top first; at least two without an upper one. The kernel takes up to 500.
    pub lowers: &'a [PathBuf],
    /// Upper and work folder, on one file system; without them the mount is read-only.
    pub upper: Option<(&'a Path, &'a Path)>,
    /// SELinux label for every file.
    pub label: Option<&'a str>,
}

/// Settings that keep an upper folder readable without the mount: no renamed folders that point
/// elsewhere, no files whose content is elsewhere, no index that breaks on a copied store.
const PLAIN: [(&str, &str); 3] = [("index", "off"), ("redirect_dir", "off"), ("metacopy", "off")];

/// Whether this kernel takes one mount option per layer (Linux 6.8 and later).
pub fn has_layer_options() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        sys::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
            .and_then(|context| sys::fsconfig_set_string(&context, "lowerdir+", "/"))
            .is_ok()
    })
}

/// Mounts an overlay at `target`, a folder.
pub fn mount_overlay(overlay: &Overlay<'_>, target: &Path) -> Result<()> {
    if has_layer_options() {
        mount_by_context(overlay, target)
    } else {
        mount_classic(overlay, target)
    }
}

fn mount_by_context(overlay: &Overlay<'_>, target: &Path) -> Result<()> {
    let subject = target.to_string_lossy();
    fault::point("mount overlay", &subject)?;
    let context = sys::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).context("mount overlay", target)?;
    let mut attributes = MountAttrFlags::empty();
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, overlay.upper.is_none());
    let detached = configure(&context, overlay)
        .and_then(|()| sys::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes));
    let detached = detached.map_err(|errno| {
        let why = io::Error::from(errno);
        let source = match what_it_said(context) {
            Some(said) => io::Error::new(why.kind(), format!("{said} ({why})")),
            None => why,
        };
        Error::new("mount overlay", subject.clone(), source)
    })?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    sys::move_mount(&detached, "", files::CWD, target, flags).context("attach overlay", target)
}

fn configure(context: &OwnedFd, overlay: &Overlay<'_>) -> rustix::io::Result<()> {
    sys::fsconfig_set_string(context, "source", "overlay")?;
    for lower in overlay.lowers {
        sys::fsconfig_set_string(context, "lowerdir+", lower.as_path())?;
    }
    if let Some((upper, work)) = overlay.upper {
        sys::fsconfig_set_string(context, "upperdir", upper)?;
        sys::fsconfig_set_string(context, "workdir", work)?;
    }
    for (key, value) in PLAIN {
        sys::fsconfig_set_string(context, key, value)?;
    }
    if let Some(label) = overlay.label.filter(|label| !label.is_empty()) {
        sys::fsconfig_set_string(context, "context", label)?;
    }
    sys::fsconfig_create(context)
}

/// The kernel's own words about a mount that failed: the messages of the context, errors only.
pub(super) fn what_it_said(context: OwnedFd) -> Option<String> {
    let mut said = Vec::new();
    let mut log = File::from(context);
    let mut line = [0; 1024];
    while let Ok(length @ 1..) = log.read(&mut line) {
        let text = String::from_utf8_lossy(&line[..length]);
        if let Some(error) = text.trim_end().strip_prefix("e ") {
            said.push(error.to_owned());
        }
    }
    (!said.is_empty()).then(|| said.join("; "))
}

/// Overlays split the option text at `:` and `,`; a backslash takes their meaning away.
fn escaped(path: &OsStr) -> OsString {
    let mut text = Vec::with_capacity(path.len());
    for byte in path.as_bytes() {
        if b":,\\".contains(byte) {
            text.push(b'\\');
        }
        text.push(*byte);
    }
    OsString::from_vec(text)
}

fn classic_options(lowers: &[impl AsRef<Path>], overlay: &Overlay<'_>) -> OsString {
    let names: Vec<OsString> = lowers
        .iter()
        .map(|lower| escaped(lower.as_ref().as_os_str()))
        .collect();
    let mut text = OsString::from("lowerdir=");
    text.push(names.join(OsStr::new(":")));
    if let Some((upper, work)) = overlay.upper {
        text.push(",upperdir=");
        text.push(escaped(upper.as_os_str()));
        text.push(",workdir=");
        text.push(escaped(work.as_os_str()));
    }
    for (key, value) in PLAIN {
        text.push(format!(",{key}={value}"));
    }
    if let Some(label) = overlay.label.filter(|label| !label.is_empty()) {
        text.push(format!(",context=\"{label}\""));
    }
    text
}

/// The page that mount(2) copies, with its final NUL.
const PAGE: usize = 4096;

/// Mounts by mount(2), for kernels before 6.8. Where the names do not fit one page, each layer is named
/// by a descriptor, which makes room for about 200.
pub(super) fn mount_classic(overlay: &Overlay<'_>, target: &Path) -> Result<()> {
    fault::point("mount overlay", &target.to_string_lossy())?;
    let mut held = Vec::new();
    let mut options = classic_options(overlay.lowers, overlay);
    if options.len() >= PAGE {
        for lower in overlay.lowers {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            held.push(files::open(lower, flags, Mode::empty()).context("open layer", lower)?);
        }
        let names: Vec<String> = held.iter().map(descriptor_path).collect();
        options = classic_options(&names, overlay);
    }
    if options.len() >= PAGE {
        let why = format!(
            "{} layers do not fit the one page this kernel reads",
            overlay.lowers.len()
        );
        return Err(Error::other("mount overlay", target.to_string_lossy(), why));
    }
    let options = std::ffi::CString::new(options.into_vec())
        .map_err(|error| Error::new("mount overlay", target.to_string_lossy(), io::Error::from(error)))?;
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, overlay.upper.is_none());
    sys::mount("overlay", target, "overlay", flags, options.as_c_str()).context("mount overlay", target)
}
