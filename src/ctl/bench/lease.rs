//! Leases: renewed on streams, or left to run out.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use norn_proto::etcdserverpb as pb;
use prost::Message as _;

use crate::calls::{self, GRANT, KEEP_ALIVE, PUT, RANGE};
use crate::histogram::Histogram;
use crate::options::Options;
use crate::process;
use crate::shared::Shared;
use crate::unary::{call, pipeline};
use crate::wire::Event;

/// Ids of our own choice spare us the replies; a lease that exists already will do as well.
const FIRST_ID: i64 = 0x6e6f_726e_0000_0000;
/// Of those that run out: nobody renews them.
const FIRST_EXPIRING: i64 = FIRST_ID + (1 << 32);
/// Between two looks at what a crowd of leases has left.
const EXPIRY_LOOK: Duration = Duration::from_millis(100);
const PUT_EVERY: Duration = Duration::from_millis(1);

/// A lease for every client.
pub async fn grant(shared: &Shared) -> io::Result<()> {
    let mut wire = shared.connect(0).await?;
    let mut message = Vec::new();
    for i in 0..shared.options.clients as i64 {
        let id = FIRST_ID + i;
        shared.leases.borrow_mut().push(id);
        calls::encode(&mut message, &pb::LeaseGrantRequest { ttl: 3600, id });
        let _ = call(&mut wire, GRANT, &message).await?;
    }
    Ok(())
}

/// One stream per client; each renews its lease as soon as the last renewal is answered.
pub async fn keep_alive(shared: Rc<Shared>, index: usize, clients: usize) -> io::Result<()> {
    let mut wire = shared.connect(index).await?;
    let leases = shared.leases.borrow().clone();
    let message = |client: usize| {
        let id = leases[(index * clients + client) % leases.len()];
        pb::LeaseKeepAliveRequest { id }.encode_to_vec()
    };
    let mut flights: Vec<(u32, Instant, Vec<u8>)> = (0..clients)
        .map(|i| {
            let message = message(i);
            (wire.open(KEEP_ALIVE, &message, false), Instant::now(), message)
        })
        .collect();
    let mut events = Vec::new();
    while !shared.stop.get() {
        wire.turn(&mut events).await?;
        let now = Instant::now();
        for event in events.drain(..) {
            match event {
                Event::Messages { stream, count, .. } if count > 0 => {
                    let Some(f) = flights.iter_mut().find(|f| f.0 == stream) else { continue };
                    shared.done(now.duration_since(f.1));
                    f.1 = now;
                    wire.send(stream, &f.2, false);
                }
                Event::End { outcome: Err(failure), .. } => shared.fail(failure),
                Event::Messages { .. } | Event::End { .. } => {}
            }
        }
    }
    Ok(())
}

pub struct Expiry {
    /// From the moment the first lease was due to the last key's end.
    pub took: Duration,
    pub server_cpu: Duration,
    /// Of puts meanwhile, one every millisecond.
    pub puts: Histogram,
}

/// `count` leases with a key each, which all run out together.
pub async fn expire(options: &Options, count: u64) -> Result<Expiry, String> {
    let shared = Shared::new(options);
    let text = |e: io::Error| e.to_string();
    let mut wire = shared.connect(0).await.map_err(text)?;
    let ids = || (0..count).map(|i| FIRST_EXPIRING + i as i64);
    let grants = ids().map(|id| {
        let grant = pb::LeaseGrantRequest { ttl: options.ttl, id };
        (GRANT, grant.encode_to_vec())
    });
    let due = Instant::now() + Duration::from_secs(options.ttl.max(0) as u64);
    pipeline(&mut wire, grants).await?;
    let puts = ids().map(|id| {
        let (key, value) =
            (format!("leased-{id}").into_bytes().into(), shared.value.clone().into());
        let put = pb::PutRequest { key, value, lease: id, ..Default::default() };
        (PUT, put.encode_to_vec())
    });
    pipeline(&mut wire, puts).await?;
    if Instant::now() > due {
        return Err(format!("{count} leases take longer to grant than their {} s", options.ttl));
    }
    tokio::time::sleep_until(due.into()).await;

    let cpu = process::cpu_sum(&options.pids);
    let left = pb::RangeRequest {
        key: "leased-".into(),
        range_end: "leased.".into(),
        count_only: true,
        ..Default::default()
    };
    let left = left.encode_to_vec();
    let mut message = Vec::new();
    calls::put(&mut message, b"written meanwhile", &shared.value);
    let (mut latencies, mut looked) = (Histogram::default(), due);
    wire.keeps_messages = true;
    loop {
        let start = Instant::now();
        call(&mut wire, PUT, &message).await.map_err(text)?.map_err(|failure| failure.0)?;
        latencies.record(start.elapsed());
        if looked.elapsed() > EXPIRY_LOOK {
            looked = Instant::now();
            let answer = call(&mut wire, RANGE, &left).await.map_err(text)?;
            let answer = pb::RangeResponse::decode(&*answer.map_err(|failure| failure.0)?);
            if answer.map_err(|e| e.to_string())?.count == 0 {
                break;
            }
        }
        tokio::time::sleep(PUT_EVERY).await;
    }
    let server_cpu = process::cpu_sum(&options.pids) - cpu;
    Ok(Expiry { took: due.elapsed(), server_cpu, puts: latencies })
}
