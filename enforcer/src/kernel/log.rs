//! Lines for debugging that the kernel programs write, as lines of the daemon's own log.

use super::Kernel;
use aya_log::EbpfLogger;
use std::sync::Arc;
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::JoinHandle,
};

/// Passes the lines on until it is aborted.
pub(crate) fn start(kernel: &Arc<Kernel>) -> JoinHandle<()> {
    let kernel = Arc::clone(kernel);
    tokio::spawn(async move {
        if let Err(error) = pass_on(&kernel).await {
            tracing::error!(error, "the lines of the kernel programs cannot be read");
        }
    })
}

async fn pass_on(kernel: &Kernel) -> Result<(), String> {
    // Only those that write lines hold the ring.
    let (programs, _) = kernel.programs();
    let logger =
        programs.iter().find_map(|program| EbpfLogger::init_from_id_with_logger(program.id, Tracing).ok());
    let logger = logger.ok_or("no program writes any")?;
    // SAFETY: the descriptor that is registered is that of the ring, which the logger holds for as long as it lives.
    let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    let mut logger = logger.map_err(|error| error.to_string())?;
    loop {
        let mut ready = logger.readable_mut().await.map_err(|error| error.to_string())?;
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
}

/// Lines as events of `tracing`, under one name and at the level that is shown unless told otherwise: that they are
/// written at all was asked for when the programs were loaded.
struct Tracing;

impl log::Log for Tracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let (program, line) = (record.target(), record.args());
        tracing::info!(target: "enforcer::kernel::programs", program, "{line}");
    }

    fn flush(&self) {}
}
