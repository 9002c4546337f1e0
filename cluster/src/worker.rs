//! A thread that drives a store's asynchronous client, so that its methods can block anywhere.

use std::future::Future;
use std::io;
use std::sync::mpsc;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A runtime of one thread, which ends with the value.
#[derive(Debug)]
pub(crate) struct Worker {
    handle: Handle,
    /// Dropped with the worker, which the thread waits for.
    _end: oneshot::Sender<()>,
}

impl Worker {
    /// Starts the thread.
    pub(crate) fn start(name: &str) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || runtime.block_on(ended))?;
        Ok(Self { handle, _end: end })
    }

    /// What clients are made within, where they start tasks of their own.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits for `work` on the thread, at most `limit`; after that it is dropped where it stands.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (tell, told) = mpsc::sync_channel(1);
        self.handle.spawn(async move {
            // Nobody listens any more when the caller's thread is gone.
            let _ = tell.send(tokio::time::timeout(limit, work).await.ok());
        });
        told.recv().ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_takes_too_long_is_left() {
        let worker = Worker::start("test").unwrap();
        assert_eq!(worker.call(Duration::from_secs(5), async { 7 }), Some(7));
        let hangs = std::future::pending::<()>();
        assert_eq!(worker.call(Duration::from_millis(50), hangs), None);
        assert_eq!(worker.call(Duration::from_secs(5), async { 8 }), Some(8));
    }
}
