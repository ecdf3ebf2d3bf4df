//! `pointsman run`

use std::path::Path;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{BAD_USAGE, ConfigArgs, FAILED, OK, complain};
use crate::app::App;
use crate::config::{Config, ConfigErrors};
use crate::telemetry::{self, LogFormat};

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
    let config = match Config::load(&args.config) {
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
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        config = %args.config.display(),
        "starting"
    );
    for warning in &config.warnings {
        tracing::warn!(%warning, "doubtful configuration");
    }
    match start(config) {
        Ok(code) => code,
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

/// Says why it does not start, as the log would: a program that reads JSON finds nothing else.
pub(super) fn fail(format: LogFormat, error: impl std::fmt::Display) {
    match format {
        LogFormat::Text => complain(error),
        LogFormat::Json => tracing::error!(%error, "can not start"),
    }
}

/// As [`fail`], when even the format has to be guessed from a file that is wrong.
pub(super) fn refuse(file: &Path, errors: &ConfigErrors) {
    let format = Config::log_format(file);
    if format == LogFormat::Text {
        return complain(errors);
    }
    telemetry::start_plain_log(format);
    for error in &errors.0 {
        let (line, column) = error.position.unzip();
        tracing::error!(
            file = %error.file.display(),
            line,
            column,
            error = error.message,
            hint = error.hint,
            "the configuration is wrong"
        );
    }
}

fn start(config: Config) -> Result<u8, Box<dyn std::error::Error>> {
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

async fn serve(app: App) -> Result<u8, Box<dyn std::error::Error>> {
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

pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    pub(super) fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal that asks to stop, and returns its name.
    pub(super) async fn stop(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                // By default it would end the process, where other daemons read their file anew.
                _ = self.hang_up.recv() => {
                    tracing::warn!("SIGHUP does nothing: restart to read the configuration again");
                }
            }
        }
    }
}
