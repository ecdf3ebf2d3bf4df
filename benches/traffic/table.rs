//! Medians and tables.

use super::load::{Load, Measured};
use super::system::Kind;

/// All measurements so far.
#[derive(Debug, Default)]
pub struct Results {
    all: Vec<(Load, Kind, Measured)>,
}

impl Results {
    pub fn add(&mut self, load: &Load, kind: Kind, measured: Measured) {
        self.all.push((load.clone(), kind, measured));
    }

    /// Of one load: a line for each system, compared with direct Redis where that was measured.
    /// The ratio is the median of the ratios of each round, which a slow moment of the machine
    /// changes less than the ratio of the medians.
    pub fn print_load(&self, load: &Load) {
        println!("\n{}", load.name());
        println!(
            "  {:<10} {:>9} {:>6} {:>8} {:>8} {:>8} {:>8}  {:>9} {:>9}",
            "", "req/s", "ratio", "p50 ms", "p99 ms", "p99.9", "max", "proxy CPU", "Redis CPU"
        );
        for kind in Kind::ALL {
            let of = |kind, value: fn(&Measured) -> f64| self.values(load, kind, value);
            let rates = of(kind, |measured| measured.latency.per_second);
            if rates.is_empty() {
                continue;
            }
            let direct = of(Kind::Direct, |measured| measured.latency.per_second);
            let ratios = rates.iter().zip(&direct).map(|(own, direct)| own / direct);
            let ratio = median(ratios.collect()).map_or("-".into(), |ratio| format!("{ratio:.2}"));
            let middle = |value| median(of(kind, value)).unwrap_or(f64::NAN);
            println!(
                "  {:<10} {:>9.0} {:>6} {:>8.3} {:>8.3} {:>8.3} {:>8.3}  {:>9.2} {:>9.2}",
                kind.to_string(),
                median(rates).unwrap_or(f64::NAN),
                ratio,
                middle(|measured| measured.latency.p50),
                middle(|measured| measured.latency.p99),
                middle(|measured| measured.latency.p999),
                middle(|measured| measured.latency.max),
                middle(|measured| measured.proxy_cpu),
                middle(|measured| measured.redis_cpu),
            );
        }
        println!("  CPU: seconds for a million requests");
    }

    fn values(&self, load: &Load, kind: Kind, value: fn(&Measured) -> f64) -> Vec<f64> {
        self.all
            .iter()
            .filter(|(of_load, of_kind, _)| of_load == load && *of_kind == kind)
            .map(|(_, _, measured)| value(measured))
            .collect()
    }
}

/// Bytes of memory of an idle connection.
pub fn print_idle(each: &[(Kind, f64)]) {
    println!("\nMemory of an idle connection, bytes");
    for (kind, bytes) in each {
        println!("  {:<10} {bytes:>9.0}", kind.to_string());
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get((values.len() - 1) / 2)?;
    Some((lower + upper) / 2.0)
}
