//! `pointsman vip-agent`

use tokio::net::TcpListener;

use super::service::{self, Failure, Signals};
use super::{ConfigArgs, OK};
use crate::config::VipConfig;
use crate::telemetry;
use crate::vip::{self, Agent};

pub(super) const HELP: &str = "\
Runs on each Redis host. It gives the host the virtual address while the node here is the
published primary, announces that, and drops the address, with its connections, when it is
not. Needs CAP_NET_ADMIN and CAP_NET_RAW. docs/vip.md says what happens in which failure.

SIGTERM or SIGINT: the address is dropped, exit code 0.

Environment: POINTSMAN_LOG replaces [log] level.

Exit codes: 0 stopped by a signal, 1 could not start or failed, 2 wrong usage or
configuration.

Examples:
  pointsman vip-agent --config /etc/pointsman/vip.toml
  pointsman check --config /etc/pointsman/vip.toml
  pointsman status --admin 127.0.0.1:9122              ([admin] bind of that file)";

pub(super) fn vip_agent(args: &ConfigArgs) -> u8 {
    let settings = |config: &VipConfig| (config.log.clone(), config.warnings.clone());
    service::run(&args.config, VipConfig::load(&args.config), settings, start)
}

fn start(config: VipConfig) -> Result<u8, Failure> {
    let metrics = telemetry::start_metrics()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let mut serving = tokio::task::JoinSet::new();
        let listener = match &config.admin {
            Some(admin) => {
                let bind = admin.bind;
                let bound = TcpListener::bind(bind).await;
                Some(bound.map_err(|e| format!("can not listen on {bind}: {e}"))?)
            }
            None => None,
        };
        let (address, interface) = (config.vip.address, config.vip.interface.clone());
        let agent = Agent::build(config.vip).await?;
        if let (Some(listener), Some(admin)) = (listener, config.admin) {
            serving.spawn(vip::serve(
                listener,
                admin.allow_remote,
                agent.status(),
                metrics,
            ));
        }
        tracing::info!(%address, interface, "the vip agent runs");
        let stop = async {
            let signal = signals.stop().await;
            tracing::info!(signal, "stopping");
        };
        agent.run(stop).await;
        tracing::info!("stopped");
        Ok(OK)
    })
}
