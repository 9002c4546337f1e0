//! Ctrl-C asks for the end; the end is then reached in good order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

/// Whether somebody asked us to stop.
#[derive(Clone, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

/// What a step answers after Ctrl-C.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

impl Interrupt {
    /// Listens for SIGINT and SIGTERM from now on, which no longer end the process.
    pub(crate) fn listen() -> Result<Self> {
        let asked = Self::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("make a runtime")?;
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            let interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
            (
                interrupt,
                signal(SignalKind::terminate()).context("listen for SIGTERM")?,
            )
        };
        let flag = Arc::clone(&asked.0);
        std::thread::spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                    flag.store(true, Ordering::SeqCst);
                }
            });
        });
        Ok(asked)
    }

    pub(crate) fn asked(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// An error once somebody asked us to stop.
    pub(crate) fn check(&self) -> Result<()> {
        if self.asked() {
            Err(Interrupted.into())
        } else {
            Ok(())
        }
    }
}
