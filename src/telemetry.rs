//! Start of logging and metrics. Called once by the program; tests make recorders of their own.

use std::io::{IsTerminal, stderr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::metrics::{ALL, Kind, describe, log_dropped};

/// Environment variable that replaces `log.level` of the configuration.
pub const LOG_VARIABLE: &str = "POINTSMAN_LOG";

/// Lines that wait to be written; what is more is dropped and counted.
const LOG_QUEUE: usize = 8192;

/// Testing aids of `control`: the process ends or stops itself with no time for another thread to write.
const ENDS_ABRUPTLY: [&str; 2] = ["POINTSMAN_CRASH_AT", "POINTSMAN_STOP_AT"];

/// `[log]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// How a line looks.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a list such as `info,pointsman::proxy=debug`.
    pub level: String,
}

/// See [`LogSettings::format`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One line for people; coloured when standard error is a terminal.
    Text,
    /// One JSON object a line for programs.
    Json,
}

impl Default for LogSettings {
    fn default() -> Self {
        LogSettings {
            format: LogFormat::Text,
            level: "info".to_owned(),
        }
    }
}

/// Why logging or metrics did not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The environment variable holds no valid filter.
    #[error("{LOG_VARIABLE} is not a log filter: {0}")]
    Variable(#[source] ParseError),
    /// `log.level` holds no valid filter.
    #[error("log.level is not a log filter: {0}")]
    Level(#[source] ParseError),
    /// Somebody else installed a logger or a recorder in this process.
    #[error("{0} was started twice in this process")]
    Twice(&'static str),
}

/// Reads a filter such as `info,pointsman::proxy=debug`. A bare word must be a level: taken as a
/// module's name, a typing error would silence everything else.
pub fn parse_level(level: &str) -> Result<EnvFilter, ParseError> {
    for part in level.split(',').map(str::trim) {
        if !part.contains(['=', '[']) {
            part.parse::<LevelFilter>()?;
        }
    }
    EnvFilter::builder().parse(level)
}

/// Writes what still waits when it is dropped; for at most about a second, if nobody reads.
#[derive(Debug)]
pub struct LogGuard(Arc<Mutex<Option<WorkerGuard>>>);

impl Drop for LogGuard {
    fn drop(&mut self) {
        end(&self.0);
    }
}

fn end(guard: &Mutex<Option<WorkerGuard>>) {
    drop(guard.lock().unwrap_or_else(PoisonError::into_inner).take());
}

/// Puts lines into the queue, and counts those that did not fit.
struct Queue {
    lines: NonBlocking,
    dropped: ErrorCounter,
    counted: AtomicUsize,
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = NonBlocking;

    fn make_writer(&'a self) -> NonBlocking {
        let dropped = self.dropped.dropped_lines();
        let counted = self.counted.swap(dropped, Ordering::Relaxed);
        if dropped > counted {
            log_dropped((dropped - counted) as u64);
        }
        self.lines.clone()
    }
}

/// Sends the log to standard error: standard output belongs to what a command answers. A thread of its
/// own writes it, so that nobody who serves or decides waits for a disk or a full pipe.
pub fn start_log(settings: &LogSettings) -> Result<LogGuard, TelemetryError> {
    let filter = match std::env::var(LOG_VARIABLE) {
        Ok(level) if !level.is_empty() => parse_level(&level).map_err(TelemetryError::Variable)?,
        _ => parse_level(&settings.level).map_err(TelemetryError::Level)?,
    };
    let abrupt = |variable: &&str| std::env::var_os(variable).is_some();
    if cfg!(debug_assertions) && ENDS_ABRUPTLY.iter().any(abrupt) {
        install(settings.format, filter, BoxMakeWriter::new(stderr))?;
        return Ok(LogGuard(Arc::default()));
    }
    let (lines, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LOG_QUEUE)
        .thread_name("log")
        .finish(stderr());
    let queue = Queue {
        dropped: lines.error_counter(),
        lines,
        counted: AtomicUsize::new(0),
    };
    install(settings.format, filter, BoxMakeWriter::new(queue))?;
    Ok(LogGuard(Arc::new(Mutex::new(Some(guard)))))
}

/// For the message why the program does not start: the level that is asked for may be what is wrong.
pub fn start_plain_log(format: LogFormat) {
    // Err: a log was started, and takes the message.
    let _ = install(format, EnvFilter::new("info"), BoxMakeWriter::new(stderr));
}

fn install(
    format: LogFormat,
    filter: EnvFilter,
    writer: BoxMakeWriter,
) -> Result<(), TelemetryError> {
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(stderr().is_terminal());
    match format {
        LogFormat::Text => log.with_target(false).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    }
    .map_err(|_| TelemetryError::Twice("the log"))
}

/// A panic becomes a line of the log like everything else: a promise was broken. Where it ends the
/// process, that line is the last one.
pub fn log_panics(log: &LogGuard) {
    let log = log.0.clone();
    std::panic::set_hook(Box::new(move |panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let message = text
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("not a text");
        let at = panic.location().map(tracing::field::display);
        let thread = std::thread::current();
        tracing::error!(message, at, thread = thread.name(), "a bug: panicked");
        if cfg!(panic = "abort") {
            end(&log);
        }
    }));
}

/// A builder that knows the buckets of every histogram.
fn recorder() -> Result<PrometheusBuilder, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for metric in ALL {
        if let Kind::Histogram(buckets) = metric.kind {
            builder =
                builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets)?;
        }
    }
    Ok(builder)
}

/// Installs the recorder behind `/metrics` for the whole process.
///
/// Whoever renders it must also call `run_upkeep` now and then (the admin server does), or
/// histograms keep every observation until the next rendering.
pub fn start_metrics() -> Result<PrometheusHandle, TelemetryError> {
    let handle = recorder()
        .and_then(|builder| builder.install_recorder())
        .map_err(|_| TelemetryError::Twice("the metrics recorder"))?;
    describe();
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{
        ClusterMetrics, ControlMetrics, DnsMetrics, LookupMetrics, PublicationMetrics,
        PublisherKind, RequestOutcome, SentinelMetrics, VipMetrics, WorkerMetrics,
        workers_batch_scheduled,
    };

    #[test]
    fn every_metric_is_rendered_with_its_help_and_buckets() {
        let recorder = recorder().expect("buckets are valid").build_recorder();
        let handle = recorder.handle();
        let text = metrics::with_local_recorder(&recorder, || {
            describe();
            let worker = WorkerMetrics::new("main");
            worker.requests(RequestOutcome::Unknown, 3);
            worker.hold_ended(std::time::Duration::from_millis(20));
            SentinelMetrics::register().clients(1);
            workers_batch_scheduled().increment(1);
            let mut control = ControlMetrics::new("main");
            let node = crate::topology::NodeId::new("127.0.0.1:6379");
            control.node_up(&node, true);
            control.replica_lag(&node, 7);
            let vip = VipMetrics::new("10.0.0.100", &["127.0.0.1:9121".into()]);
            vip.pointsman_up(0, true);
            DnsMetrics::new();
            ClusterMetrics::new("main");
            LookupMetrics::new("main");
            PublicationMetrics::new("main", PublisherKind::Kv);
            control.sentinel_up(&node, true);
            handle.render()
        });
        for metric in ALL {
            assert!(
                text.contains(&format!("# TYPE {} {}", metric.name, metric.kind.as_str())),
                "{} is not rendered:\n{text}",
                metric.name
            );
            assert!(text.contains(&format!("# HELP {} ", metric.name)));
        }
        assert!(
            text.contains(r#"pointsman_requests_total{backend="main",outcome="unknown"} 3"#),
            "{text}"
        );
        assert!(
            text.contains(r#"pointsman_hold_duration_seconds_bucket{backend="main",le="0.025"} 1"#),
            "{text}"
        );
    }

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        for metric in ALL {
            assert!(metric.name.starts_with("pointsman_"), "{}", metric.name);
            assert_eq!(
                metric.name.ends_with("_total"),
                metric.kind == Kind::Counter,
                "{}",
                metric.name
            );
            assert!(metric.labels.is_sorted(), "{}", metric.name);
        }
    }
}
