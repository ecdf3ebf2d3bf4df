//! Commands that a node runs as one MULTI: which of them must succeed, and how it ended.

use redis_protocol::resp2::types::BytesFrame;

use super::codec::Command;

/// One command of a transaction.
pub(super) struct Step {
    command: Command,
    required: bool,
}

impl Step {
    /// Without it the transaction has failed.
    pub(super) fn required(command: Command) -> Self {
        Step {
            command,
            required: true,
        }
    }

    /// The transaction is worth having without it.
    pub(super) fn optional(command: Command) -> Self {
        Step {
            command,
            required: false,
        }
    }

    /// For logs.
    pub(super) fn name(&self) -> String {
        self.command.name()
    }
}

/// How a transaction ended.
#[derive(Debug, PartialEq)]
pub(super) enum Ended {
    /// Every required step was done; these others failed, each with its error.
    Done { failed: Vec<(String, String)> },
    /// Nothing, or nothing that matters, was done.
    Refused(String),
    /// Nothing was done, because these optional steps may not be queued.
    Without { refused: Vec<String>, why: String },
}

/// MULTI, the steps, EXEC.
pub(super) fn commands(steps: &[Step]) -> Vec<Command> {
    let mut commands = vec![Command::new(["MULTI"])];
    commands.extend(steps.iter().map(|step| step.command.clone()));
    commands.push(Command::new(["EXEC"]));
    commands
}

/// Reads the replies to [`commands`].
pub(super) fn ended(steps: &[Step], replies: &[BytesFrame]) -> Ended {
    let error = |reply: Option<&BytesFrame>| match reply {
        Some(BytesFrame::Error(why)) => Some(why.to_string()),
        Some(_) => None,
        None => Some("no reply".to_owned()),
    };
    if let Some(why) = error(replies.first()) {
        return Ended::Refused(why);
    }
    let queued = steps.iter().zip(replies.iter().skip(1));
    let refused: Vec<(&Step, String)> = queued
        .filter_map(|(step, reply)| Some((step, error(Some(reply))?)))
        .collect();
    if let Some((_, why)) = refused.iter().find(|(step, _)| step.required) {
        return Ended::Refused(why.clone());
    }
    if let Some((_, why)) = refused.first() {
        return Ended::Without {
            why: why.clone(),
            refused: refused.iter().map(|(step, _)| step.name()).collect(),
        };
    }
    let Some(BytesFrame::Array(results)) = replies.get(steps.len() + 1) else {
        let why = error(replies.get(steps.len() + 1));
        return Ended::Refused(why.unwrap_or_else(|| "EXEC did not run".to_owned()));
    };
    let mut failed = Vec::new();
    for (step, result) in steps.iter().zip(results) {
        match error(Some(result)) {
            Some(why) if step.required => return Ended::Refused(why),
            Some(why) => failed.push((step.name(), why)),
            None => {}
        }
    }
    Ended::Done { failed }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps() -> Vec<Step> {
        vec![
            Step::optional(Command::new(["CONFIG", "SET", "a", "b"])),
            Step::required(Command::new(["REPLICAOF", "NO", "ONE"])),
        ]
    }

    fn simple(text: &'static str) -> BytesFrame {
        BytesFrame::SimpleString(text.into())
    }

    fn failure(text: &'static str) -> BytesFrame {
        BytesFrame::Error(text.into())
    }

    #[test]
    fn a_failed_optional_step_is_told_and_does_not_matter() {
        let results = BytesFrame::Array(vec![failure("ERR disk"), simple("OK")]);
        let replies = [simple("OK"), simple("QUEUED"), simple("QUEUED"), results];
        assert_eq!(
            ended(&steps(), &replies),
            Ended::Done {
                failed: vec![("CONFIG SET".into(), "ERR disk".into())]
            }
        );
    }

    #[test]
    fn a_step_that_may_not_be_queued_is_left_out_if_it_is_optional() {
        let aborted = failure("EXECABORT Transaction discarded");
        let replies = [
            simple("OK"),
            failure("NOPERM no config"),
            simple("QUEUED"),
            aborted,
        ];
        assert!(matches!(
            ended(&steps(), &replies),
            Ended::Without { refused, .. } if refused == ["CONFIG SET"]
        ));
    }

    #[test]
    fn a_refused_required_step_refuses_all() {
        let aborted = failure("EXECABORT Transaction discarded");
        let replies = [simple("OK"), simple("QUEUED"), failure("LOADING"), aborted];
        assert_eq!(ended(&steps(), &replies), Ended::Refused("LOADING".into()));
        assert!(matches!(ended(&steps(), &[]), Ended::Refused(_)));
    }
}
