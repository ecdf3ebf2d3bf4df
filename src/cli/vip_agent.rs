//! `pointsman vip-agent`

use tokio::net::TcpListener;

use super::run::{Signals, fail, refuse};
use super::{BAD_USAGE, ConfigArgs, FAILED, OK};
use crate::config::VipConfig;
use crate::telemetry::{self, LogFormat};
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
    let config = match VipConfig::load(&args.config) {
        Ok(config) => config,
        Err(errors) => {
            refuse(&args.config, &errors);
            return BAD_USAGE;
        }
    };
    let format = config.log.format;
    let log = match telemetry::start_log(&config.log) {
        Ok(log) => log,
        Err(error) => {
            telemetry::start_plain_log(format);
            fail(format, error);
            return BAD_USAGE;
        }
    };
    telemetry::log_panics(&log);
    for warning in &config.warnings {
        tracing::warn!(%warning, "doubtful configuration");
    }
    match start(config) {
        Ok(()) => OK,
        Err(error) => {
            if format == LogFormat::Text {
                // What was logged stands before it.
                drop(log);
            }
            fail(format, error);
            FAILED
        }
    }
}

fn start(config: VipConfig) -> Result<(), Box<dyn std::error::Error>> {
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
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            %address,
            interface,
            "the vip agent runs"
        );
        let stop = async {
            let signal = signals.stop().await;
            tracing::info!(signal, "stopping");
        };
        agent.run(stop).await;
        tracing::info!("stopped");
        Ok(())
    })
}
