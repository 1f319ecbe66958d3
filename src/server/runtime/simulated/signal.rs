//! The wish that a process ends.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

/// One per process.
#[derive(Clone, Debug, Default)]
pub(super) struct Wish(Rc<(Cell<bool>, Notify)>);

impl Wish {
    pub(super) fn make(&self) {
        self.0.0.set(true);
        self.0.1.notify_one();
    }
}

/// As in the real world; until somebody catches them, signals wait.
pub struct Ends(Wish);

impl Ends {
    /// # Errors
    /// None here.
    pub fn catch() -> std::io::Result<Ends> {
        let host = super::here();
        Ok(Ends(super::with(|world| {
            host.map_or_else(Wish::default, |host| world.machines[host].ends.clone())
        })))
    }

    pub async fn next(&mut self) -> (i32, &'static str) {
        while !self.0.0.0.replace(false) {
            self.0.0.1.notified().await;
        }
        (15, "terminated")
    }
}
