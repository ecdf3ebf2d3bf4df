//! Who takes over in a switchover: the wanted node or the fittest one, or why not.

use std::collections::BTreeMap;

use super::Record;
use super::candidate::{Unfit, fitness};
use super::core::Core;
use crate::resp::info::{NodeInfo, Role};
use crate::topology::NodeId;

/// The wanted node, or the fittest; refused with the first reason.
pub(super) fn choose_target(
    core: &Core,
    record: &Record,
    wanted: Option<&NodeId>,
    answers: &BTreeMap<NodeId, NodeInfo>,
) -> Result<(NodeId, NodeInfo), String> {
    let primary = answers
        .get(&record.primary)
        .ok_or_else(|| format!("{} does not answer", record.primary))?;
    let mut fit: Vec<(&NodeId, &NodeInfo)> = Vec::new();
    let mut reasons = Vec::new();
    for node in core.nodes.iter().map(|n| &n.id) {
        let asked_for = wanted == Some(node);
        if *node == record.primary || (wanted.is_some() && !asked_for) {
            continue;
        }
        match preflight(core, record, primary, answers.get(node), asked_for) {
            Ok(info) => fit.push((node, info)),
            Err(why) => reasons.push(format!("{node} {why}")),
        }
    }
    fit.sort_by(|(_, a), (_, b)| {
        let key = |i: &NodeInfo| (i.priority, std::cmp::Reverse(i.offset), i.run_id.clone());
        key(a).cmp(&key(b))
    });
    match fit.first() {
        Some((node, info)) => Ok(((*node).clone(), (*info).clone())),
        None if reasons.is_empty() => Err("there is no other node".to_owned()),
        None => Err(reasons.join(", ")),
    }
}

fn preflight<'a>(
    core: &Core,
    record: &Record,
    primary: &NodeInfo,
    target: Option<&'a NodeInfo>,
    asked_for: bool,
) -> Result<&'a NodeInfo, String> {
    let info = target.ok_or_else(|| Unfit::Unreachable.to_string())?;
    match fitness(info, record) {
        Ok(_) => {}
        // Explicitly named: the operator may.
        Err(Unfit::PriorityZero | Unfit::Hidden) if asked_for => {}
        // Nothing was written yet.
        Err(Unfit::NeverSynced) if primary.offset == 0 => {}
        Err(unfit) => return Err(unfit.to_string()),
    }
    if info.role != Role::Replica {
        return Err("is not a replica".to_owned());
    }
    if !info.link_up {
        return Err("has no link to the primary".to_owned());
    }
    let lag = primary.offset.saturating_sub(info.offset);
    if lag > core.policy.max_lag_bytes {
        return Err(format!("lags by {lag} bytes"));
    }
    let series = |i: &NodeInfo| (i.version.0, i.version.1);
    if info.kind == primary.kind && series(info) < series(primary) {
        return Err("runs an older version than the primary".to_owned());
    }
    Ok(info)
}
