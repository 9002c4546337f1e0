//! TCP ports on loopback addresses: relayed, since packets with a loopback address cannot be routed
//! to a container unless `route_localnet` opens the host's own loopback services to its neighbours.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Connections relayed at once by one port; more are closed.
const MOST: usize = 256;
/// A container that does not answer within this time is not there.
const PATIENCE: Duration = Duration::from_secs(10);

/// A relay; dropping it closes the port and lets connections run out.
#[derive(Debug)]
pub(super) struct Proxy {
    /// Where it listens.
    pub(super) at: SocketAddr,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens on `at` (port 0 is any) and relays to `to`, in the calling thread's namespace.
    pub(super) fn start(at: SocketAddr, to: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(at)?;
        let at = listener.local_addr()?;
        let is_over = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new().name("relay".to_owned());
        let over = Arc::clone(&is_over);
        let thread = Some(thread.spawn(move || accept(&listener, to, &over))?);
        Ok(Self { at, is_over, thread })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // Wakes the accept; a thread that cannot be woken is not waited for.
        if TcpStream::connect_timeout(&self.at, Duration::from_secs(1)).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, to: SocketAddr, is_over: &AtomicBool) {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let client = listener.accept();
        if is_over.load(Ordering::SeqCst) {
            return;
        }
        let Ok((client, _)) = client else {
            // Out of descriptors, most likely: give others time to close some.
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        if open.load(Ordering::SeqCst) >= MOST {
            continue;
        }
        open.fetch_add(1, Ordering::SeqCst);
        let counted = Arc::clone(&open);
        let work = move || {
            // An end that breaks is an end: the other side sees it closed.
            let _ = relay(&client, to);
            counted.fetch_sub(1, Ordering::SeqCst);
        };
        if std::thread::Builder::new()
            .name("relay".to_owned())
            .spawn(work)
            .is_err()
        {
            open.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn relay(client: &TcpStream, to: SocketAddr) -> std::io::Result<()> {
    let server = TcpStream::connect_timeout(&to, PATIENCE)?;
    std::thread::scope(|scope| {
        scope.spawn(|| copy(client, &server));
        copy(&server, client);
    });
    Ok(())
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
