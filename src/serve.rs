//! From assembled drivers to the last answered request.

use std::time::Duration;

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use crate::assemble::assemble;
use crate::config::Config;

/// How long requests under way may take after SIGTERM; systemd's own default is 90 s.
const GRACE: Duration = Duration::from_secs(60);

/// Serves until SIGTERM or SIGINT, then drains.
pub(crate) fn serve(config: &Config) -> anyhow::Result<()> {
    let begun = std::time::Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(256)
        .enable_all()
        .build()
        .context("start the runtime")?;
    // First of all: a signal that comes while a driver repairs its state is heard, and heeded after it.
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        let listen = |kind| signal(kind).context("listen for signals");
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?)
    };
    let sockets = assemble(config)?;
    let names: Vec<_> = sockets
        .iter()
        .map(|(bound, _)| bound.path().display().to_string())
        .collect();
    let served = runtime.block_on(async {
        tracing::info!(
            sockets = names.join(" "),
            ms = begun.elapsed().as_millis(),
            "serving"
        );
        tell(NotifyState::Ready);
        let shutdown = async {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            tracing::info!("draining");
            tell(NotifyState::Stopping);
        };
        plugin_api::server::serve(sockets, shutdown, GRACE).await
    });
    // A verb that is past its deadline may still block; it is repaired at the next start.
    runtime.shutdown_timeout(Duration::from_millis(100));
    served.context("serve")
}

/// The service manager may not be there.
fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "tell the service manager");
    }
}
