//! The OCI bundle of a container: what the runtime is told.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kernel::fsutil::Folder;
use oci_spec::runtime::{
    Capability, Linux, LinuxCapabilitiesBuilder, LinuxDeviceCgroupBuilder, LinuxNamespace,
    LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResourcesBuilder, Mount, MountBuilder, Process,
    RootBuilder, Spec, User, UserBuilder, get_default_mounts,
};

use crate::state::container::Recipe;

/// What a container may do without being root of the host; the list users of Docker know.
const CAPABILITIES: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// The search path where neither image nor user sets one.
pub(crate) const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Largest `/etc/passwd` or `/etc/group` that is read.
const ACCOUNTS_BYTES: u64 = 4 << 20;

/// A host path shown in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bind {
    pub(crate) source: PathBuf,
    pub(crate) target: String,
    pub(crate) read_only: bool,
}

/// Everything the bundle is made of.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) id: &'a str,
    pub(crate) recipe: &'a Recipe,
    /// Variables of links, added to those of the recipe.
    pub(crate) more_env: Vec<String>,
    pub(crate) rootfs: &'a Path,
    pub(crate) netns: &'a Path,
    pub(crate) binds: Vec<Bind>,
}

/// Makes the runtime's configuration.
pub(crate) fn spec(parts: &Parts<'_>) -> Result<Spec> {
    let mut spec = Spec::default();
    let root = RootBuilder::default()
        .path(parts.rootfs)
        .readonly(false)
        .build()?;
    let mut mounts = get_default_mounts();
    // Control groups stay the host's business: their mount differs too much between hosts.
    mounts.retain(|mount| mount.typ().as_deref() != Some("cgroup"));
    let mut binds = parts.binds.clone();
    // What lies deeper is mounted later, or it would be hidden.
    binds.sort_by_key(|bind| bind.target.matches('/').count());
    for bind in &binds {
        mounts.push(mount(bind)?);
    }
    spec.set_hostname(Some(parts.recipe.hostname.clone()))
        .set_root(Some(root))
        .set_mounts(Some(mounts))
        .set_process(Some(process(parts)?))
        .set_linux(Some(linux(parts)?));
    Ok(spec)
}

fn mount(bind: &Bind) -> Result<Mount> {
    let access = if bind.read_only { "ro" } else { "rw" };
    let options: Vec<String> = ["rbind", "rprivate", access].map(str::to_owned).into();
    Ok(MountBuilder::default()
        .destination(&bind.target)
        .typ("bind")
        .source(&bind.source)
        .options(options)
        .build()?)
}

fn process(parts: &Parts<'_>) -> Result<Process> {
    let recipe = parts.recipe;
    let own: HashSet<Capability> = CAPABILITIES.into();
    let user = user(&recipe.user, &Accounts::read(parts.rootfs)?)?;
    // Another user keeps nothing at exec; root gets what it may have.
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(own.clone())
        .permitted(own.clone())
        .effective(own)
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()?;
    let mut env = recipe.env.clone();
    env.push(format!("HOSTNAME={}", recipe.hostname));
    env.extend(parts.more_env.iter().cloned());
    if !env.iter().any(|row| row.starts_with("HOME=")) {
        let home = if user.uid() == 0 { "/root" } else { "/" };
        env.push(format!("HOME={home}"));
    }
    let mut process = Process::default();
    process
        .set_args(Some(recipe.args.clone()))
        .set_env(Some(env))
        .set_cwd(PathBuf::from(&recipe.cwd))
        .set_user(user)
        .set_capabilities(Some(capabilities))
        .set_rlimits(None)
        .set_no_new_privileges(Some(false));
    Ok(process)
}

fn linux(parts: &Parts<'_>) -> Result<Linux> {
    let plain = |kind| LinuxNamespaceBuilder::default().typ(kind).build();
    let mut namespaces: Vec<LinuxNamespace> = [
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Mount,
    ]
    .into_iter()
    .map(plain)
    .collect::<Result<_, _>>()?;
    namespaces.push(
        LinuxNamespaceBuilder::default()
            .typ(LinuxNamespaceType::Network)
            .path(parts.netns)
            .build()?,
    );
    let nothing = LinuxDeviceCgroupBuilder::default()
        .allow(false)
        .access("rwm")
        .build()?;
    let resources = LinuxResourcesBuilder::default().devices(vec![nothing]).build()?;
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces))
        .set_resources(Some(resources))
        // Flat: runtimes remove the last folder only.
        .set_cgroups_path(Some(format!("/longshore-engine-{}", parts.id).into()));
    Ok(linux)
}

// === users ===

/// The accounts of an image.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    /// Reads them below a root, whose links cannot lead out of it.
    pub(crate) fn read(rootfs: &Path) -> Result<Self> {
        let root = Folder::open(rootfs).context("open the container's root")?;
        let etc = root.descend_in_root(Path::new("etc/.")).ok();
        let read = |name: &str| {
            let mut text = String::new();
            let file = etc.as_ref()?.read_file(OsStr::new(name)).ok()?;
            file.take(ACCOUNTS_BYTES).read_to_string(&mut text).ok()?;
            Some(text)
        };
        Ok(Self {
            passwd: read("passwd").unwrap_or_default(),
            group: read("group").unwrap_or_default(),
        })
    }
}

fn row<'a>(table: &'a str, at: usize, value: &str) -> Option<Vec<&'a str>> {
    table
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.len() > 3 && fields[at] == value)
}

/// `name|uid[:group|gid]`, looked up where it is a name.
pub(crate) fn user(typed: &str, accounts: &Accounts) -> Result<User> {
    let (name, group) = typed.split_once(':').unwrap_or((typed, ""));
    let name = if name.is_empty() { "0" } else { name };
    let entry = row(&accounts.passwd, 0, name).or_else(|| row(&accounts.passwd, 2, name));
    let uid = match (name.parse::<u32>(), &entry) {
        (Ok(uid), _) => uid,
        (Err(_), Some(entry)) => entry[2].parse().context("the image's /etc/passwd is damaged")?,
        (Err(_), None) => bail!(
            "unable to find user {}: no such entry in /etc/passwd",
            plugin_api::id::quoted(name)
        ),
    };
    let gid = match (group, &entry) {
        ("", Some(entry)) => entry[3].parse().unwrap_or(0),
        ("", None) => 0,
        (group, _) => match (group.parse::<u32>(), row(&accounts.group, 0, group)) {
            (Ok(gid), _) => gid,
            (Err(_), Some(entry)) => entry[2].parse().context("the image's /etc/group is damaged")?,
            (Err(_), None) => bail!(
                "unable to find group {}: no such entry in /etc/group",
                plugin_api::id::quoted(group)
            ),
        },
    };
    let login = entry.map_or("", |entry| entry[0]);
    let member = |fields: &Vec<&str>| fields.len() > 3 && fields[3].split(',').any(|one| one == login);
    let groups = accounts
        .group
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>());
    let more: Vec<u32> = groups
        .filter(|fields| !login.is_empty() && member(fields))
        .filter_map(|fields| fields[2].parse().ok())
        .collect();
    Ok(UserBuilder::default()
        .uid(uid)
        .gid(gid)
        .additional_gids(more)
        .build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/:/bin/sh\nbroken\n".into(),
            group: "root:x:0:\nwww:x:34:\nlog:x:4:root,web\n".into(),
        }
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        let ids = |typed| user(typed, &accounts()).map(|user| (user.uid(), user.gid()));
        assert_eq!(ids("").unwrap(), (0, 0));
        assert_eq!(ids("web").unwrap(), (33, 34));
        assert_eq!(ids("33").unwrap(), (33, 34));
        assert_eq!(ids("web:log").unwrap(), (33, 4));
        assert_eq!(ids("1000:2000").unwrap(), (1000, 2000));
        assert!(ids("nobody").is_err() && ids("web:nobody").is_err());
        let web = user("web", &accounts()).unwrap();
        assert_eq!(web.additional_gids().as_deref(), Some([4].as_slice()));
    }

    #[test]
    fn the_runtime_is_told_of_the_sandbox_and_of_binds_outer_first() {
        let rootfs = tempfile::tempdir().unwrap();
        let bind = |target: &str| Bind {
            source: "/srv".into(),
            target: target.into(),
            read_only: target == "/a/b",
        };
        let recipe = Recipe {
            args: vec!["/bin/sh".into()],
            cwd: "/".into(),
            ..Recipe::default()
        };
        let spec = spec(&Parts {
            id: "abc",
            recipe: &recipe,
            more_env: vec!["X=1".into()],
            rootfs: rootfs.path(),
            netns: Path::new("/run/n"),
            binds: vec![bind("/a/b"), bind("/a")],
        })
        .unwrap();
        let mounts = spec.mounts().as_ref().unwrap();
        let place = |target: &str| {
            mounts
                .iter()
                .position(|mount| mount.destination() == Path::new(target))
        };
        assert!(place("/a") < place("/a/b"));
        let inner = &mounts[place("/a/b").unwrap()];
        assert!(inner.options().as_ref().unwrap().contains(&"ro".to_owned()));
        assert!(
            mounts
                .iter()
                .all(|mount| mount.typ().as_deref() != Some("cgroup"))
        );
        let linux = spec.linux().as_ref().unwrap();
        let network = linux.namespaces().as_ref().unwrap().iter();
        let network = network
            .clone()
            .find(|one| one.typ() == LinuxNamespaceType::Network)
            .unwrap();
        assert_eq!(network.path().as_deref(), Some(Path::new("/run/n")));
        let env = spec.process().as_ref().unwrap().env().as_ref().unwrap();
        assert!(env.contains(&"X=1".to_owned()) && env.contains(&"HOME=/root".to_owned()));
    }
}
