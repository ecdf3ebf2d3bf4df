//! The checker: from a history to what was lost, doubled, out of order or plainly wrong.
//!
//! Every rule is exact where the history allows it and says less, never more, where a request's
//! outcome was unknown: a request that may have run is never counted as lost or as doubled.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use super::history::{ClientHistory, ErrorClass, History, Kind, Last, Operation, Outcome};
use crate::topology::Timestamp;

/// How many examples of one thing are kept for the message of a failed test.
const EXAMPLES: usize = 5;

/// What the clients of one kind saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Operations that ended, in whatever way.
    pub operations: u64,
    /// Operations that were acknowledged.
    pub acknowledged: u64,
    /// Legal replies that say that nothing happened.
    pub nothing: u64,
    /// Failed operations by class.
    pub errors: BTreeMap<ErrorClass, u64>,
    /// Acknowledged writes that are gone.
    pub lost: u64,
    /// Writes that took effect more than once.
    pub doubled: u64,
    /// Effects of one client in another order than it asked for them.
    pub disordered: u64,
    /// Replies that can not belong to their request, and values that nobody wrote.
    pub wrong: u64,
    /// Writes that took effect although their error said that they did not run.
    pub ran_although_refused: u64,
    /// Transactions of which one half took effect.
    pub torn: u64,
    /// Published messages that a subscriber did not get; legal for Redis, counted.
    pub gaps: u64,
    /// The longest time between two completed operations of one client while one was on its way.
    pub longest_pause: Duration,
    /// When that pause began.
    pub pause_began: Timestamp,
    /// A few sentences about what went wrong.
    pub examples: Vec<String>,
}

/// What all clients saw, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// One tally for each kind that took part.
    pub kinds: BTreeMap<Kind, Tally>,
}

/// Judges a whole run.
pub fn judge(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    for client in &history.clients {
        let tally = verdict.kinds.entry(client.kind).or_default();
        tally.count(client);
        match (client.kind, &client.last) {
            (Kind::Counter | Kind::Script | Kind::Pipeline, last) => {
                let last = if let Last::Number(n) = last {
                    Some(*n)
                } else {
                    None
                };
                judge_counter(tally, client, last);
            }
            (Kind::Transaction, last) => judge_transaction(tally, client, last),
            (Kind::Setter, Last::Ring(ring)) => judge_ring(tally, client, ring),
            (Kind::Appender, Last::List(list)) => judge_list(tally, client, list),
            _ => {}
        }
    }
    for (pusher, popper) in pairs(history, Kind::Pusher, Kind::Popper) {
        let tally = verdict.kinds.entry(Kind::Popper).or_default();
        judge_queue(tally, pusher, popper);
    }
    for (publisher, subscriber) in pairs(history, Kind::Publisher, Kind::Subscriber) {
        let tally = verdict.kinds.entry(Kind::Subscriber).or_default();
        judge_channel(tally, publisher, subscriber);
    }
    judge_watchers(&mut verdict, history);
    verdict
}

impl Tally {
    fn count(&mut self, client: &ClientHistory) {
        let mut before = Timestamp::default();
        for operation in &client.operations {
            self.operations += 1;
            match &operation.outcome {
                Outcome::Done(_) => self.acknowledged += 1,
                Outcome::Nothing => self.nothing += 1,
                Outcome::Wrong(text) => {
                    self.wrong += 1;
                    self.example(format!("wrong reply to {}: {text}", client.kind.name()));
                }
                Outcome::Failed(class, text) => {
                    *self.errors.entry(*class).or_default() += 1;
                    self.example(format!("{}: {text}", client.kind.name()));
                }
            }
            let began = operation.started.max(before);
            let pause = operation.ended.since(began);
            before = operation.ended.max(before);
            if pause > self.longest_pause && !client.kind.waits_for_others() {
                self.longest_pause = pause;
                self.pause_began = began;
            }
        }
    }

    fn example(&mut self, text: String) {
        if self.examples.len() < EXAMPLES && !self.examples.contains(&text) {
            self.examples.push(text);
        }
    }

    /// Failed operations of one class.
    pub fn errors_of(&self, class: ErrorClass) -> u64 {
        self.errors.get(&class).copied().unwrap_or(0)
    }

    /// Failed operations of every class.
    pub fn all_errors(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Failed operations of every class but "outcome unknown".
    pub fn hard_errors(&self) -> u64 {
        self.all_errors() - self.errors_of(ErrorClass::Unknown)
    }

    /// What must never happen, whatever the fault: doubled, disordered, wrong, torn.
    pub fn broken(&self) -> u64 {
        self.doubled + self.disordered + self.wrong + self.ran_although_refused + self.torn
    }

    /// Adds another tally to this one.
    pub fn add(&mut self, other: &Tally) {
        self.operations += other.operations;
        self.acknowledged += other.acknowledged;
        self.nothing += other.nothing;
        for (class, count) in &other.errors {
            *self.errors.entry(*class).or_default() += count;
        }
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.disordered += other.disordered;
        self.wrong += other.wrong;
        self.ran_although_refused += other.ran_although_refused;
        self.torn += other.torn;
        self.gaps += other.gaps;
        if other.longest_pause > self.longest_pause {
            self.longest_pause = other.longest_pause;
            self.pause_began = other.pause_began;
        }
        for example in &other.examples {
            self.example(example.clone());
        }
    }
}

impl Verdict {
    /// All kinds together.
    pub fn total(&self) -> Tally {
        let mut total = Tally::default();
        for tally in self.kinds.values() {
            total.add(tally);
        }
        total
    }

    /// The tally of one kind, empty when it did not take part.
    pub fn of(&self, kind: Kind) -> Tally {
        self.kinds.get(&kind).cloned().unwrap_or_default()
    }

    /// Errors that the promise does not allow: any error of a kind whose requests may all be sent
    /// again, and for the other kinds any error but "outcome unknown".
    pub fn forbidden_errors(&self) -> u64 {
        let of = |(kind, tally): (&Kind, &Tally)| match kind.is_replayable() {
            true => tally.all_errors(),
            false => tally.hard_errors(),
        };
        self.kinds.iter().map(of).sum()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, tally) in &self.kinds {
            writeln!(
                f,
                "{:<20} {:>8} ok, longest pause {:?}, errors {:?}, lost {}, doubled {}, \
                 disordered {}, wrong {}, ran although refused {}, torn {}, gaps {}",
                kind.name(),
                tally.acknowledged,
                tally.longest_pause,
                tally.errors,
                tally.lost,
                tally.doubled,
                tally.disordered,
                tally.wrong,
                tally.ran_although_refused,
                tally.torn,
                tally.gaps,
            )?;
            for example in &tally.examples {
                writeln!(f, "    {example}")?;
            }
        }
        Ok(())
    }
}

/// Client `a` of a group with the client `b` of the same group.
fn pairs(
    history: &History,
    a: Kind,
    b: Kind,
) -> impl Iterator<Item = (&ClientHistory, &ClientHistory)> {
    let of = move |kind| history.clients.iter().filter(move |c| c.kind == kind);
    of(a).filter_map(move |first| {
        let second = of(b).find(|second| second.group == first.group)?;
        Some((first, second))
    })
}

/// Each acknowledged increment of an own key carries the new value: it must be one more than the
/// last one known, plus at most the increments in between whose outcome is unknown.
fn judge_counter(tally: &mut Tally, client: &ClientHistory, last: Option<u64>) {
    let (mut known, mut maybe) = (0u64, 0u64);
    let mut check = |lowest: u64, highest: u64, seen: u64, what: &str| {
        if seen < lowest {
            tally.lost += lowest - seen;
            tally.example(format!("{what} {seen}, at least {lowest} was due: lost"));
        } else if seen > highest {
            tally.doubled += seen - highest;
            tally.example(format!("{what} {seen}, at most {highest} was due: doubled"));
        }
    };
    for operation in &client.operations {
        match &operation.outcome {
            Outcome::Done(value) => {
                check(
                    known + 1,
                    known + 1 + maybe,
                    *value,
                    "an increment answered",
                );
                (known, maybe) = (*value, 0);
            }
            Outcome::Failed(class, _) if class.may_have_run() => maybe += 1,
            Outcome::Wrong(_) => maybe += 1,
            _ => {}
        }
    }
    if let Some(last) = last {
        check(known, known + maybe, last, "the counter ended at");
    }
}

fn judge_transaction(tally: &mut Tally, client: &ClientHistory, last: &Last) {
    let number = match last {
        Last::Pair(first, second) => {
            if first != second {
                tally.torn += first.abs_diff(*second);
                tally.example(format!("the two counters ended at {first} and {second}"));
            }
            Some(*first)
        }
        _ => None,
    };
    judge_counter(tally, client, number);
}

/// What became of each token that a client sent.
fn tokens(client: &ClientHistory) -> HashMap<u64, &Operation> {
    client.operations.iter().map(|o| (o.token, o)).collect()
}

fn is_acknowledged(operation: &Operation) -> bool {
    matches!(operation.outcome, Outcome::Done(_))
}

/// An effect was found; was its request allowed to have one?
fn judge_effect(tally: &mut Tally, sent: Option<&&Operation>, token: u64) {
    match sent.map(|operation| &operation.outcome) {
        None => {
            tally.wrong += 1;
            tally.example(format!("value {token} was never written"));
        }
        Some(Outcome::Failed(class, text)) if !class.may_have_run() => {
            tally.ran_although_refused += 1;
            tally.example(format!("{token} took effect although it got: {text}"));
        }
        Some(_) => {}
    }
}

/// The last value of each slot; every acknowledged write to the slot above it is lost. Writes that
/// a later one overwrote can not be judged any more: the ring must be longer than the writes that
/// one client makes between a fault and the end of the run.
fn judge_ring(tally: &mut Tally, client: &ClientHistory, ring: &[Option<u64>]) {
    let sent = tokens(client);
    for value in ring.iter().flatten() {
        judge_effect(tally, sent.get(value), *value);
    }
    let acknowledged = client.operations.iter().filter(|o| is_acknowledged(o));
    for operation in acknowledged {
        let slot = (operation.token % ring.len() as u64) as usize;
        if ring[slot].is_none_or(|value| value < operation.token) {
            tally.lost += 1;
            tally.example(format!(
                "SET {} is gone, {:?} is there",
                operation.token, ring[slot]
            ));
        }
    }
}

/// Duplicates and order in a sequence that should grow; returns the set of what is in it.
fn judge_growing(tally: &mut Tally, sequence: &[u64], what: &str) -> HashSet<u64> {
    let mut seen = HashSet::with_capacity(sequence.len());
    let mut highest = 0;
    for token in sequence {
        if !seen.insert(*token) {
            tally.doubled += 1;
            tally.example(format!("{what}: {token} came twice"));
        } else if *token < highest {
            tally.disordered += 1;
            tally.example(format!("{what}: {token} came after {highest}"));
        }
        highest = highest.max(*token);
    }
    seen
}

fn judge_list(tally: &mut Tally, client: &ClientHistory, list: &[u64]) {
    let sent = tokens(client);
    let found = judge_growing(tally, list, "list");
    for token in &found {
        judge_effect(tally, sent.get(token), *token);
    }
    for operation in client.operations.iter().filter(|o| is_acknowledged(o)) {
        if !found.contains(&operation.token) {
            tally.lost += 1;
            tally.example(format!("RPUSH {} is gone", operation.token));
        }
    }
}

/// Every element pushed comes out once: popped, or still in the queue at the end. A pop whose
/// outcome is unknown may have taken one element with it. An element that comes out again is a lost
/// write, too: the pop that a dead primary acknowledged and no replica had. (A push that ran twice
/// would look the same here, and is told apart by the appenders' lists.)
fn judge_queue(tally: &mut Tally, pusher: &ClientHistory, popper: &ClientHistory) {
    let sent = tokens(pusher);
    let mut out: Vec<u64> = popper
        .operations
        .iter()
        .filter_map(|operation| match operation.outcome {
            Outcome::Done(token) => Some(token),
            _ => None,
        })
        .collect();
    if let Last::List(left) = &popper.last {
        out.extend(left);
    }
    let mut once = Vec::with_capacity(out.len());
    let mut seen = HashSet::with_capacity(out.len());
    for token in out {
        match seen.insert(token) {
            true => once.push(token),
            false => {
                tally.lost += 1;
                tally.example(format!("queue: {token} came out again, its pop is lost"));
            }
        }
    }
    let found = judge_growing(tally, &once, "queue");
    for token in &found {
        judge_effect(tally, sent.get(token), *token);
    }
    let missing = pusher
        .operations
        .iter()
        .filter(|o| is_acknowledged(o) && !found.contains(&o.token));
    let missing: Vec<u64> = missing.map(|o| o.token).collect();
    let maybe_taken = popper.operations.iter().filter(
        |operation| matches!(&operation.outcome, Outcome::Failed(class, _) if class.may_have_run()),
    );
    let lost = missing.len().saturating_sub(maybe_taken.count());
    if lost > 0 {
        tally.lost += lost as u64;
        tally.example(format!(
            "queue: pushed, never popped: {:?}",
            &missing[..missing.len().min(5)]
        ));
    }
}

fn judge_channel(tally: &mut Tally, publisher: &ClientHistory, subscriber: &ClientHistory) {
    let sent = tokens(publisher);
    let received: Vec<u64> = subscriber
        .operations
        .iter()
        .filter_map(|operation| match operation.outcome {
            Outcome::Done(token) => Some(token),
            _ => None,
        })
        .collect();
    let found = judge_growing(tally, &received, "channel");
    for token in &found {
        judge_effect(tally, sent.get(token), *token);
    }
    let published = publisher.operations.iter().filter(|o| is_acknowledged(o));
    tally.gaps += published.filter(|o| !found.contains(&o.token)).count() as u64;
}

/// Watchers of one group share a counter: it must end at the number of their acknowledged
/// increments. Two that were acknowledged with the same value (a lost update) show as lost.
fn judge_watchers(verdict: &mut Verdict, history: &History) {
    let mut groups: BTreeMap<usize, (u64, u64, Option<u64>)> = BTreeMap::new();
    for client in history.clients.iter().filter(|c| c.kind == Kind::Watcher) {
        let (acknowledged, maybe, last) = groups.entry(client.group).or_default();
        for operation in &client.operations {
            match &operation.outcome {
                Outcome::Done(_) => *acknowledged += 1,
                Outcome::Wrong(_) => *maybe += 1,
                Outcome::Failed(class, _) if class.may_have_run() => *maybe += 1,
                _ => {}
            }
        }
        if let Last::Number(number) = client.last {
            *last = Some(number);
        }
    }
    for (acknowledged, maybe, last) in groups.into_values() {
        let tally = verdict.kinds.entry(Kind::Watcher).or_default();
        let Some(last) = last else { continue };
        if last < acknowledged {
            tally.lost += acknowledged - last;
            tally.example(format!(
                "WATCH: {acknowledged} acknowledged, counter at {last}"
            ));
        } else if last > acknowledged + maybe {
            tally.doubled += last - acknowledged - maybe;
            tally.example(format!(
                "WATCH: {acknowledged}+{maybe} sent, counter at {last}"
            ));
        }
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
