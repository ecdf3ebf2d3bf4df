//! Fewer steps that still show a difference.

use std::fmt::Write as _;
use std::time::Duration;

use pointsman::clock;
use pointsman::topology::Timestamp;

use crate::comparison::{Comparison, Difference};
use crate::sequence::{self, Step};

/// How long to look for something shorter.
const TIME: Duration = Duration::from_secs(40);

/// What a person needs to see.
pub fn report(
    comparison: &mut Comparison,
    seed: u64,
    sequence: Vec<Step>,
    found: Difference,
) -> String {
    let mut text = format!(
        "DIFF_SEED={seed}, step {}: {}\n{}",
        found.step, sequence[found.step], found.what
    );
    let (steps, difference) = shorter(comparison, sequence, found);
    let _ = writeln!(text, "the same in {} steps:", steps.len());
    for step in &steps {
        let _ = writeln!(text, "  {step}");
    }
    text + &difference.what
}

fn shorter(
    comparison: &mut Comparison,
    mut steps: Vec<Step>,
    mut difference: Difference,
) -> (Vec<Step>, Difference) {
    let until = clock::now() + TIME;
    steps.truncate(difference.step + 1);
    let mut size = steps.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < steps.len() && clock::now() < until {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + size).min(steps.len()));
            if fewer.is_empty() {
                break;
            }
            sequence::permit(&mut fewer, comparison.control().traits());
            match comparison.run(&fewer) {
                Err(found) => {
                    fewer.truncate(found.step + 1);
                    (steps, difference) = (fewer, found);
                }
                Ok(()) => at += size,
            }
        }
        size /= 2;
    }
    for at in 0..steps.len() {
        fewer_requests(comparison, &mut steps, &mut difference, at, until);
    }
    (steps, difference)
}

fn fewer_requests(
    comparison: &mut Comparison,
    steps: &mut Vec<Step>,
    difference: &mut Difference,
    at: usize,
    until: Timestamp,
) {
    let mut request = 0;
    while let Some(requests) = steps.get(at).and_then(|step| step.act.requests()) {
        if requests.len() < 2 || request >= requests.len() || clock::now() > until {
            return;
        }
        let mut fewer = steps.clone();
        if let Some(requests) = fewer[at].act.requests_mut() {
            requests.remove(request);
        }
        sequence::permit(&mut fewer, comparison.control().traits());
        match comparison.run(&fewer) {
            Err(found) => {
                fewer.truncate(found.step + 1);
                (*steps, *difference) = (fewer, found);
            }
            Ok(()) => request += 1,
        }
    }
}
