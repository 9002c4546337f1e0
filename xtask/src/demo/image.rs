//! A small image of two layers, in the form that `docker save` writes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::run;

/// The reference of the image that we make.
const REFERENCE: &str = "voyage:1";
/// What the image's web server answers.
pub(super) const PAGE: &str = "ahoy from the second layer\n";

/// An archive and the name of the image in it.
pub(super) struct Archive {
    pub(super) file: PathBuf,
    pub(super) reference: String,
}

/// The archive `given`, with the name that it gives its image.
pub(super) fn given(given: &Path) -> Result<Archive> {
    let manifest = run::read(run::program("tar").arg("-xOf").arg(given).arg("manifest.json"))
        .with_context(|| format!("read the manifest of {}", given.display()))?;
    let manifest: Value = serde_json::from_str(&manifest).context("read manifest.json")?;
    let reference = manifest[0]["RepoTags"][0]
        .as_str()
        .context("the archive gives its image no name")?;
    Ok(Archive {
        file: given.to_owned(),
        reference: reference.to_owned(),
    })
}

/// Makes the archive below `folder` from the machine's static busybox.
pub(super) fn make(folder: &Path) -> Result<Archive> {
    let (base, page, all) = (folder.join("base"), folder.join("page"), folder.join("all"));
    for path in [
        base.join("bin"),
        base.join("etc"),
        base.join("tmp"),
        page.join("www"),
        all.clone(),
    ] {
        std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
    }
    std::fs::copy(
        run::which("busybox").context("find busybox")?,
        base.join("bin/busybox"),
    )
    .context("copy busybox")?;
    for name in ["sh", "cat", "cp", "sleep", "touch", "wget", "httpd", "ping"] {
        std::os::unix::fs::symlink("busybox", base.join("bin").join(name)).context("link busybox")?;
    }
    std::fs::write(base.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").context("write passwd")?;
    std::fs::write(page.join("www/index.html"), PAGE).context("write the page")?;
    let layers = [layer(&base, &all, "1")?, layer(&page, &all, "2")?];
    let file = folder.join("voyage.tar");
    describe(&all, &layers)?;
    tar(&all, &file)?;
    Ok(Archive {
        file,
        reference: REFERENCE.to_owned(),
    })
}

/// Packs a folder as layer `name`, and answers its digest.
fn layer(from: &Path, all: &Path, name: &str) -> Result<String> {
    let file = all.join(format!("{name}.tar"));
    tar(from, &file)?;
    digest(&file)
}

fn tar(from: &Path, file: &Path) -> Result<()> {
    let owner = ["--owner=0", "--group=0", "--sort=name", "-cf"];
    run::read(
        run::program("tar")
            .args(owner)
            .arg(file)
            .arg("-C")
            .arg(from)
            .arg(".")
            .arg("--transform=s,^\\./,,"),
    )
    .map(drop)
}

fn digest(file: &Path) -> Result<String> {
    let line = run::read(run::program("sha256sum").arg(file))?;
    Ok(line
        .split_whitespace()
        .next()
        .context("sha256sum answers nothing")?
        .to_owned())
}

fn describe(all: &Path, layers: &[String; 2]) -> Result<()> {
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": layers.each_ref().map(|digest| format!("sha256:{digest}"))},
        "history": [
            {"created": "2026-01-01T00:00:00Z", "created_by": "busybox"},
            {"created": "2026-01-01T00:00:00Z", "created_by": "a page"},
        ],
    });
    let name = "config.json";
    std::fs::write(all.join(name), config.to_string()).context("write the configuration")?;
    let manifest = json!([{"Config": name, "RepoTags": [REFERENCE], "Layers": ["1.tar", "2.tar"]}]);
    std::fs::write(all.join("manifest.json"), manifest.to_string()).context("write the manifest")
}
