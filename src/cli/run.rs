//! `pointsman run`

use super::service::{self, Failure, Signals};
use super::{ConfigArgs, FAILED, OK};
use crate::app::App;
use crate::config::Config;
use crate::telemetry;

pub(super) const HELP: &str = "\
Serves in the foreground; the log goes to standard error. Nodes may be down at the
start: pointsman waits for them and says so in the log, in `pointsman status` and at
/readyz.

SIGTERM or SIGINT: no new clients, requests on their way are answered ([proxy]
drain_timeout), exit code 0. A second signal: exit at once.

Environment: POINTSMAN_LOG replaces [log] level, for example POINTSMAN_LOG=debug.

Exit codes: 0 stopped by a signal, 1 could not start or failed, 2 wrong usage or
configuration.

Example:
  pointsman run --config /etc/pointsman.toml";

pub(super) fn run(args: &ConfigArgs) -> u8 {
    let settings = |config: &Config| (config.log.clone(), config.warnings.clone());
    service::run(&args.config, Config::load(&args.config), settings, start)
}

fn start(config: Config) -> Result<u8, Failure> {
    let metrics = telemetry::start_metrics()?;
    let app = App::build(config, metrics)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let code = runtime.block_on(serve(app));
    // Not for threads that outlive their drain: the process ends now.
    runtime.shutdown_background();
    code
}

async fn serve(app: App) -> Result<u8, Failure> {
    let mut signals = Signals::listen()?;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let serving = app.run(async {
        // Err: the sender is gone, which means the same.
        let _ = stopped.await;
    });
    let twice = async {
        let signal = signals.stop().await;
        tracing::info!(signal, "stopping; a second signal ends at once");
        // Err: it is ending already.
        let _ = stop.send(());
        signals.stop().await
    };
    tokio::select! {
        ended = serving => {
            ended?;
            tracing::info!("stopped");
            Ok(OK)
        }
        signal = twice => {
            tracing::warn!(signal, "stopped at once: requests on their way were not answered");
            Ok(FAILED)
        }
    }
}
