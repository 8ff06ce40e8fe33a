//! A connection of the pool, and the end of a statement whose caller has left.

use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

use bb8::{ManageConnection, PooledConnection};
use bb8_postgres::PostgresConnectionManager;
use tokio::{runtime::Handle, time::timeout};
use tokio_postgres::{Client, Error, NoTls};

/// Longest wait for the server to take a cancellation.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to the database.
pub(super) struct Session {
    client: Client,
    /// A statement of it was cancelled. The server may act on that a little later, and would then
    /// cancel a statement of whoever has the connection next: nobody gets it any more.
    spent: bool,
}

/// Opens and judges the pool's connections.
pub(super) struct Sessions(pub PostgresConnectionManager<NoTls>);

impl ManageConnection for Sessions {
    type Connection = Session;
    type Error = Error;

    async fn connect(&self) -> Result<Session, Error> {
        Ok(Session { client: self.0.connect().await?, spent: false })
    }

    async fn is_valid(&self, session: &mut Session) -> Result<(), Error> {
        self.0.is_valid(&mut session.client).await
    }

    fn has_broken(&self, session: &mut Session) -> bool {
        session.spent || session.client.is_closed()
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

/// A connection whose statement is cancelled in the database when this is dropped before [`Cancellable::keep`],
/// which is when the caller no longer waits for it. Else the statement would run on, and whoever got the
/// connection next would wait for it.
pub(super) struct Cancellable<'a> {
    session: PooledConnection<'a, Sessions>,
    keep: bool,
}

impl<'a> Cancellable<'a> {
    pub fn new(session: PooledConnection<'a, Sessions>) -> Self {
        Self { session, keep: false }
    }

    /// Its statements have been waited for: it goes back to the pool as it is.
    pub fn keep(mut self) {
        self.keep = true;
    }
}

impl Deref for Cancellable<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.session
    }
}

impl DerefMut for Cancellable<'_> {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.session
    }
}

impl Drop for Cancellable<'_> {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        self.session.spent = true;
        // The driver keeps the connection until the statement has ended, so that PgBouncer knows
        // which server's it is.
        let token = self.session.cancel_token();
        let cancel = async move {
            match timeout(CANCEL_TIMEOUT, token.cancel_query(NoTls)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a statement could not be cancelled"),
                Err(_) => tracing::debug!("a statement could not be cancelled in time"),
            }
        };
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(cancel);
        }
    }
}
