//! Who computes what at the moment.
//!
//! A flight computes the vectors of some keys. All who wait for one drive it
//! together, so that it survives any of them; when the last has left it is
//! dropped, and its queued work with it. No flight waits for another.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};

use super::{Found, Key};
use crate::models::ModelError;

/// What a flight brings.
pub type Landed = Result<Arc<HashMap<Key, Found>>, ModelError>;

type Flight = Shared<BoxFuture<'static, Landed>>;

/// The flights in the air, by the keys they compute.
#[derive(Default)]
pub struct Flights {
    board: Mutex<Board>,
}

#[derive(Default)]
struct Board {
    by_key: HashMap<Key, (u64, WeakShared<BoxFuture<'static, Landed>>)>,
    last_id: u64,
}

/// A flight's entries on the board; dropped with its future, it takes them off.
struct Registration {
    flights: Arc<Flights>,
    id: u64,
    keys: Vec<Key>,
}

impl Flights {
    /// The flights that compute `wanted`: those in the air, and one new one, made by `compute`,
    /// for the keys of which there is none.
    pub fn join(
        self: &Arc<Self>,
        wanted: HashMap<Key, String>,
        compute: impl FnOnce(HashMap<Key, String>) -> BoxFuture<'static, Landed>,
    ) -> Vec<Flight> {
        // Nothing that is dropped here may be the last of a flight: its end needs the same lock.
        let mut board = self.board();
        let mut joined: HashMap<u64, Flight> = HashMap::new();
        let mut mine = HashMap::new();
        for (key, text) in wanted {
            let flight = board.by_key.get(&key).and_then(|(id, flight)| Some((*id, flight.upgrade()?)));
            match flight {
                Some((id, flight)) => _ = joined.entry(id).or_insert(flight),
                None => _ = mine.insert(key, text),
            }
        }
        let mut flights: Vec<Flight> = joined.into_values().collect();
        if !mine.is_empty() {
            board.last_id += 1;
            let id = board.last_id;
            let keys: Vec<Key> = mine.keys().cloned().collect();
            let registration = Registration { flights: Arc::clone(self), id, keys: keys.clone() };
            let computing = compute(mine);
            let flight = async move {
                let _registration = registration;
                computing.await
            };
            let flight = flight.boxed().shared();
            if let Some(weak) = flight.downgrade() {
                board.by_key.extend(keys.into_iter().map(|key| (key, (id, weak.clone()))));
            }
            flights.push(flight);
        }
        flights
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut board = self.flights.board();
        for key in &self.keys {
            // A newer flight may have taken over a key of one that everyone had left.
            if board.by_key.get(key).is_some_and(|(id, _)| *id == self.id) {
                board.by_key.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_flight_stays_when_an_abandoned_one_ends() {
        let flights = Arc::new(Flights::default());
        let key = Key { owner: uuid::Uuid::nil(), space: "s".into(), role: "query", digest: [0; 32] };
        let wanted = || HashMap::from([(key.clone(), String::new())]);
        let join = || flights.join(wanted(), |_| std::future::pending().boxed());
        // A flight that everyone has left, whose end is late.
        let late = Registration { flights: Arc::clone(&flights), id: 1, keys: vec![key.clone()] };
        drop(join());
        let newer = join();
        drop(late);
        assert!(join()[0].ptr_eq(&newer[0]), "the newer flight was forgotten");
        drop(newer);
        assert!(flights.board().by_key.is_empty());
    }
}
