//! `pointsman switchover`

use clap::Args;

use super::client::{self, ClientError};
use super::failovers::render;
use super::{AdminArgs, FAILED, OK, complain, print, print_json};
use crate::admin::SwitchoverRequest;
use crate::clock;
use crate::topology::{FailoverReport, NodeId};

pub(super) const HELP: &str = "\
Checks first that the target is fit (up, in sync, can log in both ways), then holds
requests, lets the target reach the primary's offset, promotes it and makes the old
primary its replica. Clients see a pause of some 20 ms, no error and no lost write. When
anything is wrong before the promotion, nothing changes and the reason is printed. Works
with the authority `embedded`.

Exit codes: 0 moved, 1 not moved.

Examples:
  pointsman switchover main                       to the best replica
  pointsman switchover main --to 10.0.0.2:6379";

#[derive(Args)]
pub(super) struct SwitchoverArgs {
    /// The NAME of its [backend.NAME]
    backend: String,
    /// The node that shall take over, as the configuration names it; left out: the best replica
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) fn switchover(args: &SwitchoverArgs) -> u8 {
    let request = SwitchoverRequest {
        backend: args.backend.clone(),
        to: args.to.as_deref().map(NodeId::new),
    };
    let answer: Result<FailoverReport, ClientError> =
        client::post(&args.admin.admin, "/api/switchover", &request);
    match answer {
        Ok(report) if args.admin.json => print_json(&report),
        Ok(report) => {
            print(&render(&report, clock::unix_time()));
            OK
        }
        Err(ClientError::Refused { answer }) if args.admin.json => {
            print_json(&answer);
            FAILED
        }
        Err(ClientError::Refused { answer }) => {
            complain(format!("no switchover: {}", answer.error));
            if let Some(report) = &answer.report {
                print(&render(report, clock::unix_time()));
            }
            FAILED
        }
        Err(error) => {
            complain(error);
            FAILED
        }
    }
}
