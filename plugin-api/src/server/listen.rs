//! Sockets in the file system: mode 0600, a stale one replaced only if nobody answers.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Why a socket could not be served.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody serves it already.
    #[error("serve {0}: another process answers there; stop it first, or choose another name")]
    Answered(PathBuf),
    /// Something that is no socket has the name.
    #[error("serve {0}: the name is taken by something that is no socket; remove it first")]
    NoSocket(PathBuf),
    /// The system refused.
    #[error("{operation} {path}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

fn system(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BindError {
    move |source| BindError::System {
        operation,
        path: path.to_owned(),
        source,
    }
}

/// A listening socket with its name.
#[derive(Debug)]
pub struct Bound {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the name we made; none when systemd made it.
    made: Option<(u64, u64)>,
}

impl Bound {
    /// The listening socket.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Its name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this process made the socket, and so owns its queue of waiting connections.
    pub fn is_ours(&self) -> bool {
        self.made.is_some()
    }

    /// Takes the name away if it is still ours, so that no engine waits 15 s on a dead socket.
    pub fn retire(&self) {
        let Ok(now) = fs::symlink_metadata(&self.path) else {
            return;
        };
        if self.made == Some((now.dev(), now.ino())) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Takes over a socket that the service manager made; it stays when we end.
pub fn adopt(listener: UnixListener, path: PathBuf) -> Bound {
    Bound {
        listener,
        path,
        made: None,
    }
}

/// Makes the socket `path`, mode 0600, and its folder (0755) if that is missing.
///
/// The socket appears complete, by rename: an engine never meets one that nobody serves or that others
/// may open.
pub fn bind(path: &Path) -> Result<Bound, BindError> {
    make_way(path)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(system("create the folder of", path))?;
    // Engines scan the folder for sockets, and look for D.sock in each folder D: this is neither.
    let hidden = folder.join(format!(".longshore-{}-{}", std::process::id(), unique()));
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&hidden)
        .map_err(system("create", &hidden))?;
    let bound = bind_hidden(&hidden.join("s"), path);
    let _ = fs::remove_dir_all(&hidden);
    bound
}

fn unique() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

fn bind_hidden(hidden: &Path, path: &Path) -> Result<Bound, BindError> {
    let listener = UnixListener::bind(hidden).map_err(system("bind", hidden))?;
    fs::set_permissions(hidden, fs::Permissions::from_mode(0o600))
        .map_err(system("set the mode of", hidden))?;
    let made = fs::symlink_metadata(hidden).map_err(system("look at", hidden))?;
    fs::rename(hidden, path).map_err(system("rename into place", path))?;
    Ok(Bound {
        listener,
        path: path.to_owned(),
        made: Some((made.dev(), made.ino())),
    })
}

/// Checks that the name is free, or held by a socket that nobody serves.
fn make_way(path: &Path) -> Result<(), BindError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system("look at", path)(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NoSocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(BindError::Answered(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(system("connect to", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/x.sock");
        let first = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(bind(&path), Err(BindError::Answered(_))));
        drop(first); // Nobody listens now, but the name is still there.
        let second = bind(&path).unwrap();
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        second.retire();
        assert!(!path.exists());
    }

    #[test]
    fn a_file_in_the_way_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path), Err(BindError::NoSocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_name_taken_over_by_another_is_not_retired() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let first = bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = bind(&path).unwrap();
        first.retire();
        assert!(path.exists());
    }
}
