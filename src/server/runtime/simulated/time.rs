//! Time as the current machine's clock shows it.

use std::future::Future;
use std::ops::{Add, Sub};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use madsim::time::TimeHandle;

use super::{Clock, Host, here, now, with};

fn clock(host: Option<Host>) -> Clock {
    host.map_or_else(Clock::default, |host| with(|world| world.machines[host].clock))
}

/// The wall clock.
pub fn unix() -> Duration {
    clock(here()).wall_at(now())
}

/// A moment of the machine's monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(Duration);

impl Instant {
    pub fn now() -> Instant {
        Instant(clock(here()).at(now()))
    }

    pub fn elapsed(&self) -> Duration {
        Instant::now() - *self
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, by: Duration) -> Instant {
        Instant(self.0.saturating_add(by))
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, from: Instant) -> Duration {
        self.0.saturating_sub(from.0)
    }
}

/// A timer on true time that is not set anew while it is set. (madsim's own leaves one more entry behind with every
/// poll, and every entry keeps its task's memory until its time has come: a call's deadline kept 30 kB for seconds.)
#[derive(Debug, Default)]
pub(super) struct Alarm(Option<(Duration, Arc<Slot>)>);

/// Who is woken; nobody any more when the alarm is gone.
#[derive(Debug)]
struct Slot(Mutex<Option<Waker>>);

impl Slot {
    fn put(&self, waker: Option<Waker>) -> Option<Waker> {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), waker)
    }
}

impl Wake for Slot {
    fn wake(self: Arc<Slot>) {
        if let Some(waker) = self.put(None) {
            waker.wake();
        }
    }
}

impl Alarm {
    /// Wakes the task at `when`, or before.
    pub(super) fn set(&mut self, cx: &Context<'_>, when: Duration) {
        if let Some((_, slot)) = self.0.as_ref().filter(|(at, _)| *at <= when && *at > now()) {
            slot.put(Some(cx.waker().clone()));
            return;
        }
        self.end();
        let slot = Arc::new(Slot(Mutex::new(Some(cx.waker().clone()))));
        let time = TimeHandle::current();
        let left = when.saturating_sub(now());
        let mut sleep = time.sleep(left);
        // (It is the entry in the queue of timers that counts.)
        let _ =
            Pin::new(&mut sleep).poll(&mut Context::from_waker(&Waker::from(Arc::clone(&slot))));
        let at = now() + left.max(Duration::from_millis(1));
        self.0 = Some((at, slot));
    }

    fn end(&mut self) {
        if let Some((_, slot)) = self.0.take() {
            slot.put(None);
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.end();
    }
}

/// Until the machine's clock shows a moment.
#[derive(Debug)]
pub struct Sleep {
    host: Option<Host>,
    deadline: Instant,
    alarm: Alarm,
}

pub fn sleep(duration: Duration) -> Sleep {
    Sleep { host: here(), deadline: Instant::now() + duration, alarm: Alarm::default() }
}

impl Sleep {
    pub fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        self.deadline = deadline;
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let (clock, deadline) = (clock(self.host), self.deadline.0);
        if clock.at(now()) >= deadline {
            return Poll::Ready(());
        }
        self.alarm.set(cx, clock.when(deadline));
        Poll::Pending
    }
}

/// It took too long.
#[derive(Debug, PartialEq, Eq)]
pub struct Elapsed;

impl std::fmt::Display for Elapsed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("deadline has elapsed")
    }
}

impl std::error::Error for Elapsed {}

/// # Errors
/// When the future takes longer than that.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    let sleep = sleep(duration);
    ::tokio::select! {
        biased;
        output = future => Ok(output),
        () = sleep => Err(Elapsed),
    }
}

/// For hyper.
#[derive(Clone, Copy, Debug, Default)]
pub struct HyperTimer;

impl HyperTimer {
    pub fn new() -> HyperTimer {
        HyperTimer
    }
}

impl hyper::rt::Timer for HyperTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(HyperSleep(sleep(duration)))
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        // (hyper counts in the time that the standard library shows, which here is the true one.)
        self.sleep(deadline.saturating_duration_since(std::time::Instant::now()))
    }
}

struct HyperSleep(Sleep);

impl hyper::rt::Sleep for HyperSleep {}

impl Future for HyperSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(())
    }
}
