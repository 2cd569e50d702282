//! The agent's HTTP servers.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tracing::{info, warn};

/// How soon an address that could not be bound is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Serves on an address for as long as the agent runs. While the address is taken it tries again: the
/// agent's work does not depend on it. `refused` is told of the first time.
pub(super) fn serve(
    name: &'static str,
    address: SocketAddr,
    router: axum::Router,
    refused: impl FnOnce(String) + Send + 'static,
) {
    tokio::spawn(async move {
        let mut refused = Some(refused);
        loop {
            let listener = match TcpListener::bind(address).await {
                Ok(listener) => listener,
                Err(error) => {
                    warn!(name, %address, %error, "cannot listen; trying again in {RETRY:?}");
                    if let Some(refused) = refused.take() {
                        refused(format!("cannot listen on {address}: {error}; trying again"));
                    }
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            info!(name, %address, "listening");
            if let Err(error) = axum::serve(listener, router.clone()).await {
                warn!(name, %address, %error, "the server ended; starting it again");
            }
        }
    });
}
