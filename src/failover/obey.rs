//! A sidecar: monitors decide, the record says who serves, and requests go there. No node is asked
//! anything, so that a hundred sidecars are no hundred probers; the data plane makes sure of whom it
//! talks to at every connect.

use std::time::Duration;

use super::core::{Core, Input, Trust};
use super::machine::{Next, Phase};
use super::report::Ending;
use super::{Action, Record, RecordPhase};
use crate::topology::{BytesLost, Fault, Gate, Outcome, Primary};

/// Between two readings of the record because clients' connections are in trouble.
const DOUBT: Duration = Duration::from_millis(50);

pub(super) fn step(core: &mut Core, input: &Input) -> Next {
    match input {
        Input::Switchover { request, .. } => refuse(core, *request),
        // The record may say more, should its change not have been told.
        Input::Hint { close: true, .. } if core.now - core.record_at >= DOUBT => {
            core.load_unless_asked();
        }
        _ => {}
    }
    match core.record.clone() {
        None => {
            let why = match &core.trust {
                Trust::Unread => "the record is being read".to_owned(),
                Trust::Known => "there is no record yet: no monitor wrote one".to_owned(),
                Trust::Unavailable(why) => format!("the authority can not be read: {why}"),
            };
            core.set_undecided(Some(why));
        }
        Some(record) => obey(core, &record),
    }
    Next::Stay(Phase::Obeying)
}

fn refuse(core: &mut Core, request: u64) {
    let monitor = match &core.record {
        Some(record) => format!(", for example {}", record.by),
        None => String::new(),
    };
    let why = format!(
        "this pointsman only carries requests (role = \"proxy\"): ask one that decides{monitor}"
    );
    core.refuse_switchover(request, why);
}

fn obey(core: &mut Core, record: &Record) {
    if let Some(why) = core.lapsed() {
        core.set_undecided(Some(why));
        return;
    }
    match &record.phase {
        RecordPhase::Serving => serve(core, record),
        RecordPhase::FailingOver => {
            core.recorder().fault.get_or_insert(Fault::Followed);
            core.note(format!("{} gave up {}", record.by, record.primary));
            core.publish(record.epoch, Gate::Closed, None, false);
        }
        RecordPhase::SwitchingOver { to } => {
            core.recorder().fault.get_or_insert(Fault::Switchover);
            core.note(format!("{} moves the primary to {to}", record.by));
            // What is on its way to the old one is answered.
            core.close_gate();
        }
    }
    let trouble = core.unread();
    core.set_undecided(trouble);
}

fn serve(core: &mut Core, record: &Record) {
    let primary = Primary {
        node: record.primary.clone(),
        run_id: record.run_id.clone(),
        repl_id: record.repl_id.clone(),
    };
    let before = core.published.primary.clone();
    let stays = before.as_ref() == Some(&primary);
    if stays && core.published.gate == Gate::Open {
        return;
    }
    // One that stays keeps its epoch, so that no connection to it is dropped.
    let epoch = if stays {
        core.published.epoch
    } else {
        record.epoch
    };
    let from = core.recorder.as_ref().and_then(|r| r.from.clone());
    let from = before.map(|p| p.node).or(from);
    let from = from.filter(|from| *from != primary.node);
    core.publish(epoch, Gate::Open, Some(primary.clone()), false);
    if !stays {
        core.push(Action::Announce {
            epoch,
            from: from.clone(),
            to: primary.node.clone(),
        });
    }
    match from {
        Some(from) => {
            let detail = format!("epoch {epoch}");
            core.emit("+switch-master", Some(&primary.node), detail, false);
            core.phase("open");
            let recorder = core.recorder();
            recorder.from = Some(from);
            recorder.fault.get_or_insert(Fault::Followed);
            core.finish_report(Ending {
                epoch,
                outcome: Outcome::Done,
                to: Some(primary.node),
                bytes_lost: BytesLost::Unknown,
            });
        }
        None => core.emit("+monitor", Some(&primary.node), "as the record says", false),
    }
    core.recovered();
}
