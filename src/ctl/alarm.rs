//! alarm list and disarm.

use norn_proto::etcdserverpb as pb;
use pb::alarm_request::AlarmAction;

use crate::commands::Context;
use crate::connect::{Client, Failure, Repeat};
use crate::exit::{Outcome, bad_args};
use crate::print::Reply;

async fn call(client: &Client, request: pb::AlarmRequest) -> Result<pb::AlarmResponse, Failure> {
    client.call("/etcdserverpb.Maintenance/Alarm", &request, Repeat::Yes).await
}

pub async fn list(c: &Context) -> Outcome {
    if !c.line.args.is_empty() {
        return bad_args("alarm list command accepts no arguments");
    }
    let client = c.client().await?;
    let reply = call(&client, pb::AlarmRequest::default()).await?;
    c.printer.print(&Reply::Alarm(&reply))
}

pub async fn disarm(c: &Context) -> Outcome {
    if !c.line.args.is_empty() {
        return bad_args("alarm disarm command accepts no arguments");
    }
    let client = c.client().await?;
    let raised = call(&client, pb::AlarmRequest::default()).await?;
    let mut all = pb::AlarmResponse { header: raised.header, alarms: Vec::new() };
    for a in raised.alarms {
        let request = pb::AlarmRequest {
            action: AlarmAction::Deactivate as i32,
            member_id: a.member_id,
            alarm: a.alarm,
        };
        let reply = call(&client, request).await?;
        all.header = reply.header;
        all.alarms.extend(reply.alarms);
    }
    c.printer.print(&Reply::Alarm(&all))
}
