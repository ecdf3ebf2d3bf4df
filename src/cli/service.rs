//! A program that runs in the foreground until a signal: `pointsman run`, `pointsman vip-agent`.

use std::path::Path;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{BAD_USAGE, FAILED, complain};
use crate::config::{Config, ConfigError, ConfigErrors};
use crate::telemetry::{self, LogFormat, LogSettings};

/// Why it did not start, or ended by itself.
pub(super) type Failure = Box<dyn std::error::Error>;

/// Starts the log, then the program; the exit code says how it ended.
pub(super) fn run<C>(
    file: &Path,
    loaded: Result<C, ConfigErrors>,
    settings: impl FnOnce(&C) -> (LogSettings, Vec<ConfigError>),
    start: impl FnOnce(C) -> Result<u8, Failure>,
) -> u8 {
    let config = match loaded {
        Ok(config) => config,
        Err(errors) => {
            refuse(file, &errors);
            return BAD_USAGE;
        }
    };
    let (settings, warnings) = settings(&config);
    let format = settings.format;
    let log = match telemetry::start_log(&settings) {
        Ok(log) => log,
        Err(error) => {
            telemetry::start_plain_log(format);
            fail(format, error);
            return BAD_USAGE;
        }
    };
    telemetry::log_panics(&log);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %file.display(), "starting");
    for warning in &warnings {
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
fn fail(format: LogFormat, error: impl std::fmt::Display) {
    match format {
        LogFormat::Text => complain(error),
        LogFormat::Json => tracing::error!(%error, "can not start"),
    }
}

/// As [`fail`], when even the format has to be guessed from a file that is wrong.
fn refuse(file: &Path, errors: &ConfigErrors) {
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

/// The signals that end it.
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
