//! What pointsman has to show, as figures of one run: ratios to direct Redis, to the floor and to other
//! proxies, each taken within a round.

use super::load::Measured;
use super::system::Kind;

/// What every system did with one scenario in one round.
#[derive(Clone, Debug, Default)]
pub struct Round(Vec<(Kind, Measured)>);

/// One figure and its bound.
pub struct Goal {
    /// The scenarios it is about: all whose names begin so.
    pub scenarios: &'static str,
    pub what: &'static str,
    pub bound: Bound,
    /// `None` where a system that it compares with was not measured.
    pub figure: fn(&Round) -> Option<f64>,
}

#[derive(Clone, Copy, Debug)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    pub fn holds(self, value: f64) -> bool {
        match self {
            Bound::AtLeast(least) => value >= least,
            Bound::AtMost(most) => value <= most,
        }
    }
}

impl Round {
    pub fn add(&mut self, kind: Kind, measured: Measured) {
        self.0.push((kind, measured));
    }

    pub fn of(&self, kind: Kind) -> Option<&Measured> {
        let found = self.0.iter().find(|(of, _)| *of == kind);
        found.map(|(_, measured)| measured)
    }

    fn own(&self) -> Option<&Measured> {
        self.of(Kind::Pointsman)
    }

    /// Our requests per second against those of another.
    fn rate(&self, other: Kind) -> Option<f64> {
        Some(self.own()?.latency.per_second / self.of(other)?.latency.per_second)
    }

    /// Our CPU time for a request against that of another proxy.
    fn cpu(&self, other: Kind) -> Option<f64> {
        Some(self.own()?.proxy_cpu / self.of(other)?.proxy_cpu)
    }

    /// The fastest of the other proxies.
    fn peer(&self) -> Option<f64> {
        Kind::PEERS
            .into_iter()
            .filter_map(|peer| self.rate(peer))
            .reduce(f64::min)
    }

    /// What a proxy adds to a latency of direct Redis, milliseconds.
    fn added(&self, kind: Kind, latency: fn(&Measured) -> f64) -> Option<f64> {
        Some(latency(self.of(kind)?) - latency(self.of(Kind::Direct)?))
    }
}

const fn goal(
    scenarios: &'static str,
    what: &'static str,
    bound: Bound,
    figure: fn(&Round) -> Option<f64>,
) -> Goal {
    Goal {
        scenarios,
        what,
        bound,
        figure,
    }
}

use Bound::{AtLeast, AtMost};

pub const ALL: &[Goal] = &[
    goal("p1-", "requests/s : direct", AtLeast(1.0), |r| {
        r.rate(Kind::Direct)
    }),
    goal("p1-", "requests/s : best peer", AtLeast(1.0), Round::peer),
    goal("p1-", "proxy CPU : floor", AtMost(1.1), |r| {
        r.cpu(Kind::Floor)
    }),
    goal("p1-", "proxy CPU : HAProxy", AtMost(0.6), |r| {
        r.cpu(Kind::Haproxy)
    }),
    // 2.1 us where direct Redis needs 6.2.
    goal("p1-", "Redis CPU : direct", AtMost(0.34), |r| {
        Some(r.own()?.redis_cpu / r.of(Kind::Direct)?.redis_cpu)
    }),
    goal("core-", "requests/s : direct", AtLeast(1.0), |r| {
        r.rate(Kind::Direct)
    }),
    goal("core-", "proxy and Redis CPU : direct", AtMost(1.1), |r| {
        let own = r.own()?;
        Some((own.proxy_cpu + own.redis_cpu) / r.of(Kind::Direct)?.redis_cpu)
    }),
    goal("p16-", "requests/s : direct", AtLeast(0.85), |r| {
        r.rate(Kind::Direct)
    }),
    goal("p16-", "requests/s : best peer", AtLeast(1.0), Round::peer),
    goal("p16-", "proxy CPU : floor", AtMost(1.3), |r| {
        r.cpu(Kind::Floor)
    }),
    goal("p64-", "requests/s : direct", AtLeast(0.85), |r| {
        r.rate(Kind::Direct)
    }),
    goal("p64-", "requests/s : best peer", AtLeast(1.0), Round::peer),
    goal("p64-", "proxy CPU : floor", AtMost(1.3), |r| {
        r.cpu(Kind::Floor)
    }),
    goal("mixed", "requests/s : direct", AtLeast(1.0), |r| {
        r.rate(Kind::Direct)
    }),
    goal("mixed", "requests/s : best peer", AtLeast(1.0), Round::peer),
    goal("mixed", "proxy CPU : HAProxy", AtMost(0.6), |r| {
        r.cpu(Kind::Haproxy)
    }),
    goal("many-", "requests/s : direct", AtLeast(1.5), |r| {
        r.rate(Kind::Direct)
    }),
    goal("many-", "p99.9 : direct", AtMost(1.0), |r| {
        Some(r.own()?.latency.p999 / r.of(Kind::Direct)?.latency.p999)
    }),
    goal("one-", "median added : HAProxy's", AtMost(1.0), |r| {
        let p50 = |m: &Measured| m.latency.p50;
        Some(r.added(Kind::Pointsman, p50)? / r.added(Kind::Haproxy, p50)?)
    }),
    goal("rate-", "p99 added, ms", AtMost(0.2), |r| {
        r.added(Kind::Pointsman, |m| m.latency.p99)
    }),
    goal("16k-", "requests/s : HAProxy", AtLeast(1.0), |r| {
        r.rate(Kind::Haproxy)
    }),
    goal("1m-", "proxy CPU : HAProxy", AtMost(1.1), |r| {
        r.cpu(Kind::Haproxy)
    }),
];
