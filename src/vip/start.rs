//! Starts the agent: what it may and can do, what an earlier one left, and who asks for it.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustix::thread::{CapabilitySet, capabilities};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use super::agent::{Agent, NOT_ASKED, State, end_connections};
use super::duty::Duty;
use super::kernel::{Found, Kernel};
use super::local::Local;
use super::monitor::Monitor;
use super::settings::VipSettings;
use super::status::{PointsmanState, VipState, VipStatus};
use super::wire::{self, Wire};
use crate::clock;
use crate::metrics::VipMetrics;

/// Why the agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The process may not do what the agent has to do.
    #[error(
        "the vip agent needs CAP_NET_ADMIN and CAP_NET_RAW\n    \
         hint: run it as root, or with AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW (systemd)"
    )]
    NotAllowed,
    /// The interface is not there, or not fit.
    #[error("{0}")]
    Interface(io::Error),
    /// The kernel can not be asked.
    #[error("can not ask the kernel for addresses: {0}")]
    Kernel(io::Error),
    /// Somebody configured the address for good.
    #[error(
        "{address} is configured on this host by somebody else, {place}\n    \
         hint: remove it there; it must come and go with the agent"
    )]
    Occupied {
        /// The address.
        address: IpAddr,
        /// Where it is.
        place: &'static str,
    },
}

impl Agent {
    /// Checks that everything can be done, removes what an earlier agent left behind, and begins to
    /// ask. Must be called inside a runtime.
    ///
    /// # Errors
    /// What no waiting can mend.
    pub async fn build(settings: VipSettings) -> Result<Agent, AgentError> {
        let needed = CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW;
        if !capabilities(None).is_ok_and(|sets| sets.effective.contains(needed)) {
            return Err(AgentError::NotAllowed);
        }
        let (interface, _) = wire::interface(&settings.interface).map_err(AgentError::Interface)?;
        let wire =
            Wire::open(&settings.interface, settings.address).map_err(AgentError::Interface)?;
        let kernel = Kernel::open(interface.index, settings.address, settings.prefix)
            .map_err(AgentError::Kernel)?;
        tidy(&settings, &kernel).await?;

        let (sender, events) = mpsc::channel(64);
        let ask_node = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        for (index, address) in settings.pointsmen.iter().enumerate() {
            let monitor = Monitor {
                index,
                address: address.clone(),
                backend: settings.backend.clone(),
                wait: settings.wait(),
            };
            tasks.spawn(monitor.run(sender.clone()));
        }
        let local = Local {
            node: settings.node.clone(),
            auth: settings.auth.clone(),
            interval: settings.check_interval(),
            now: ask_node.clone(),
            limit: settings.lease,
        };
        tasks.spawn(local.run(sender));
        Ok(Agent {
            duty: Duty::new(settings.node.clone(), settings.lease),
            state: State::Free,
            conflict: None,
            kernel,
            wire: Some(wire),
            reopen: clock::now(),
            trouble: None,
            metrics: VipMetrics::new(&settings.address.to_string(), &settings.pointsmen),
            status: watch::Sender::new(first_status(&settings)),
            node_error: None,
            events,
            ask_node,
            settings,
            _tasks: tasks,
        })
    }
}

/// Removes what an agent that crashed has left, with the connections that use it.
async fn tidy(settings: &VipSettings, kernel: &Kernel) -> Result<(), AgentError> {
    let found = kernel.find().await.map_err(AgentError::Kernel)?;
    for Found { here, permanent } in found {
        let address = settings.address;
        let place = match (here, permanent) {
            (true, false) => {
                end_connections(settings, kernel).await;
                kernel.take_away().await.map_err(AgentError::Kernel)?;
                end_connections(settings, kernel).await;
                tracing::info!(%address, "removed the address that an earlier agent left");
                continue;
            }
            (true, true) => "for good",
            (false, _) => "on another interface or with another prefix",
        };
        return Err(AgentError::Occupied { address, place });
    }
    Ok(())
}

fn first_status(settings: &VipSettings) -> VipStatus {
    VipStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        vip: format!("{}/{}", settings.address, settings.prefix),
        interface: settings.interface.clone(),
        node: settings.node.clone(),
        backend: settings.backend.clone(),
        state: VipState::Free,
        reason: None,
        conflict: None,
        epoch: None,
        primary: None,
        pointsmen: settings
            .pointsmen
            .iter()
            .map(|address| PointsmanState {
                address: address.clone(),
                error: Some(NOT_ASKED.to_owned()),
            })
            .collect(),
    }
}
