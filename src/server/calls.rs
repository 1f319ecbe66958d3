//! Calls on their way through the node: who waits for which answer, and for how long.

use std::collections::BTreeSet;

use bytes::Bytes;
use norn_node::{Error, Time, Token};

use crate::grpc::Answer;
use crate::metrics::Asked;
use crate::runtime::sync::oneshot;

/// Calls waiting for a reply. Beyond it they are refused: each costs memory, and none would be answered in time.
const CALLS_MAX: usize = 200_000;

/// Who waits for the answer to a call.
pub enum Caller {
    Task(oneshot::Sender<Result<Bytes, Error>>),
    Client(Answer),
}

struct Call {
    token: Token,
    caller: Caller,
    asked: Asked,
    deadline: Option<Time>,
}

/// A token's low bits are the place of its call, the others a number that never comes again.
const PLACE_BITS: u32 = 20;
const _: () = assert!(CALLS_MAX <= 1 << PLACE_BITS);

/// Calls on their way.
#[derive(Default)]
pub struct Calls {
    places: Vec<Option<Call>>,
    free: Vec<u32>,
    deadlines: BTreeSet<(Time, Token)>,
    tokens: u64,
}

impl Calls {
    /// Gives the caller back when as many as there may be are on their way.
    pub fn add(
        &mut self,
        caller: Caller,
        asked: Asked,
        deadline: Option<Time>,
    ) -> Result<Token, Caller> {
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.places.len() >= CALLS_MAX => return Err(caller),
            None => {
                self.places.push(None);
                self.places.len() as u32 - 1
            }
        };
        self.tokens += 1;
        let token = Token(self.tokens << PLACE_BITS | u64::from(place));
        self.places[place as usize] = Some(Call { token, caller, asked, deadline });
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, token));
        }
        Ok(token)
    }

    pub fn take(&mut self, token: Token) -> Option<(Caller, Asked)> {
        let place = (token.0 & ((1 << PLACE_BITS) - 1)) as u32;
        let call = self.places.get_mut(place as usize)?.take_if(|call| call.token == token)?;
        self.free.push(place);
        if let Some(deadline) = call.deadline {
            self.deadlines.remove(&(deadline, token));
        }
        Some((call.caller, call.asked))
    }

    /// A call whose client has waited long enough.
    pub fn expired(&mut self, now: Time) -> Option<(Token, Caller, Asked)> {
        let (deadline, token) = *self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        let (caller, asked) = self.take(token)?;
        Some((token, caller, asked))
    }

    /// When the first of the clients will have waited long enough.
    pub fn deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    pub fn into_callers(self) -> impl Iterator<Item = Caller> {
        self.places.into_iter().flatten().map(|call| call.caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Asked {
        Asked::new(norn_node::Method::Put, &[])
    }

    fn caller() -> Caller {
        Caller::Task(oneshot::channel().0)
    }

    #[test]
    fn a_token_is_answered_once_and_never_comes_again() {
        let mut calls = Calls::default();
        let first = calls.add(caller(), asked(), None).ok().unwrap();
        assert!(calls.take(first).is_some());
        assert!(calls.take(first).is_none());
        let second = calls.add(caller(), asked(), None).ok().unwrap();
        assert_ne!(first, second);
        assert!(calls.take(first).is_none(), "its place has another call now");
        assert!(calls.take(second).is_some());
    }

    #[test]
    fn the_first_deadline_is_the_first_to_expire() {
        let mut calls = Calls::default();
        let at = |ms| Some(Time::from_ms(ms));
        let late = calls.add(caller(), asked(), at(30)).ok().unwrap();
        let early = calls.add(caller(), asked(), at(10)).ok().unwrap();
        let answered = calls.add(caller(), asked(), at(5)).ok().unwrap();
        calls.add(caller(), asked(), None).ok().unwrap();
        assert!(calls.take(answered).is_some());
        assert_eq!(calls.deadline(), at(10));
        assert!(calls.expired(Time::from_ms(9)).is_none());
        let expired: Vec<Token> =
            std::iter::from_fn(|| calls.expired(Time::from_ms(30))).map(|(t, ..)| t).collect();
        assert_eq!(expired, [early, late]);
        assert_eq!(calls.deadline(), None);
        assert_eq!(calls.into_callers().count(), 1);
    }
}
