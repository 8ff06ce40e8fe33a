//! A connection of the pool, and the end of a statement whose caller has left.

use std::{
    io,
    ops::{Deref, DerefMut},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bb8::{ManageConnection, PooledConnection};
use bb8_postgres::PostgresConnectionManager;
use futures_util::{FutureExt, future::join4};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    runtime::Handle,
    time::timeout,
};
use tokio_postgres::{
    CancelToken, Client, Config, Error, NoTls, Row, Transaction, config::Host, types::Type,
};

use super::{Parameter, TenantId};

/// Longest wait for the server to take a cancellation.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to the database.
pub(super) struct Session {
    client: Client,
    config: Arc<Config>,
    /// A statement of it was cancelled. The server may act on that a little later, and would then
    /// cancel a statement of whoever has the connection next: nobody gets it any more.
    spent: bool,
    /// [`MOVES`] when it was opened.
    moves: u64,
}

/// How often a server said that it takes no writes. Connections that were opened before are to servers
/// that may have been demoted.
static MOVES: AtomicU64 = AtomicU64::new(0);

/// Notes that a server takes no writes: everybody connects anew, where [`Config`] names several hosts to
/// the one that does.
pub(super) fn primary_has_moved() {
    MOVES.fetch_add(1, Ordering::Relaxed);
}

/// Bounds how long a server that has vanished is believed to be there. `connect` is for all hosts together,
/// so that the last of them has its turn.
pub(super) fn set_timeouts(config: &mut Config, connect: Duration) {
    let hosts = config.get_hosts().len().max(config.get_hostaddrs().len()).max(1);
    config.connect_timeout(connect / u32::try_from(hosts).unwrap_or(u32::MAX));
    config.keepalives_idle(SILENCE).keepalives_interval(SILENCE / 5).keepalives_retries(3);
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(SILENCE);
    }
}

/// How long a server may leave what was sent to it unacknowledged; a statement may take longer.
const SILENCE: Duration = Duration::from_secs(5);

impl Session {
    /// Whether a statement can be expected to reach the server that it is for.
    pub fn is_usable(&self) -> bool {
        !self.spent && !self.client.is_closed() && self.moves == MOVES.load(Ordering::Relaxed)
    }
}

/// Opens and judges the pool's connections.
pub(super) struct Sessions {
    manager: PostgresConnectionManager<NoTls>,
    config: Arc<Config>,
}

impl Sessions {
    pub fn new(config: Config) -> Self {
        Self { manager: PostgresConnectionManager::new(config.clone(), NoTls), config: Arc::new(config) }
    }
}

impl ManageConnection for Sessions {
    type Connection = Session;
    type Error = Error;

    async fn connect(&self) -> Result<Session, Error> {
        let (config, moves) = (Arc::clone(&self.config), MOVES.load(Ordering::Relaxed));
        Ok(Session { client: self.manager.connect().await?, config, spent: false, moves })
    }

    async fn is_valid(&self, session: &mut Session) -> Result<(), Error> {
        self.manager.is_valid(&mut session.client).await
    }

    fn has_broken(&self, session: &mut Session) -> bool {
        !session.is_usable()
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

/// Names the tenant whose rows a transaction sees. It ends with the transaction, so that it reaches
/// nobody who gets the connection next, nor the server's connection behind PgBouncer.
const SEE_TENANT: &str = "SELECT set_config('app.tenant', $1, true)";

/// A connection whose statements see the rows of one tenant.
pub(super) struct TenantSession<'a> {
    session: PooledConnection<'a, Sessions>,
    tenant: TenantId,
}

impl<'a> TenantSession<'a> {
    pub fn new(session: PooledConnection<'a, Sessions>, tenant: TenantId) -> Self {
        Self { session, tenant }
    }

    /// [`Client::query_typed`] in a transaction of its own.
    pub async fn query_typed(
        &self,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, Error> {
        self.alone(self.session.query_typed(statement, parameters)).await
    }

    /// [`Client::query_typed_one`] in a transaction of its own.
    pub async fn query_typed_one(&self, statement: &str, parameters: &[Parameter<'_>]) -> Result<Row, Error> {
        self.alone(self.session.query_typed_one(statement, parameters)).await
    }

    /// [`Client::query_typed_opt`] in a transaction of its own.
    pub async fn query_typed_opt(
        &self,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Option<Row>, Error> {
        self.alone(self.session.query_typed_opt(statement, parameters)).await
    }

    /// [`Client::execute_typed`] in a transaction of its own.
    pub async fn execute_typed(&self, statement: &str, parameters: &[Parameter<'_>]) -> Result<u64, Error> {
        self.alone(self.session.execute_typed(statement, parameters)).await
    }

    /// Begins a transaction.
    pub async fn transaction(&mut self) -> Result<Transaction<'_>, Error> {
        let transaction = self.session.transaction().await?;
        see_tenant(&transaction, self.tenant)?;
        Ok(transaction)
    }

    fn alone<T>(
        &self,
        statement: impl Future<Output = Result<T, Error>>,
    ) -> impl Future<Output = Result<T, Error>> {
        alone(&self.session, self.tenant, statement)
    }
}

/// Statements of a client in a transaction of their own, which sees the rows of a tenant. `statements` have to be
/// sent when they are first polled, as those of a `try_join` are.
///
/// All is sent at once, in this order, and so takes one round trip. What follows a statement that
/// failed does nothing, and COMMIT then takes back; it is sent whatever happens.
pub(super) async fn alone<T, E: From<Error>>(
    client: &Client,
    tenant: TenantId,
    statements: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let tenant = tenant.0.to_string();
    let (begun, seen, done, committed) = join4(
        client.batch_execute("BEGIN"),
        client.query_typed(SEE_TENANT, &[(&tenant, Type::TEXT)]),
        statements,
        client.batch_execute("COMMIT"),
    )
    .await;
    begun?;
    seen?;
    let done = done?;
    committed?;
    Ok(done)
}

/// Lets a transaction see the rows of a tenant.
///
/// It takes no round trip: the answer is not waited for. Should it be an error, the next statement fails too.
pub(super) fn see_tenant(transaction: &Transaction<'_>, tenant: TenantId) -> Result<(), Error> {
    let tenant = tenant.0.to_string();
    let sent = transaction.query_typed(SEE_TENANT, &[(&tenant, Type::TEXT)]).now_or_never();
    sent.transpose().map(drop)
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
        let cancel = cancel(self.session.cancel_token(), self.session.config.clone());
        let cancel = async move {
            match timeout(CANCEL_TIMEOUT, cancel).await {
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

/// Asks the server to cancel what the token's connection does, and waits until it has read that.
///
/// [`CancelToken::cancel_query`] closes the connection when it has written: PgBouncer then forgets the
/// request, and 1.18 may even end. Of several hosts each is asked: those that do not know the token ignore it.
async fn cancel(token: CancelToken, config: Arc<Config>) -> io::Result<()> {
    let (hosts, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let mut outcome = Ok(());
    for index in 0..hosts.len().max(addresses.len()) {
        let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
        let asked = match (addresses.get(index), hosts.get(index)) {
            (Some(address), _) => ask(&token, TcpStream::connect((*address, port))).await,
            (None, Some(Host::Tcp(name))) => ask(&token, TcpStream::connect((name.as_str(), port))).await,
            (None, Some(Host::Unix(folder))) => {
                ask(&token, UnixStream::connect(folder.join(format!(".s.PGSQL.{port}")))).await
            }
            (None, None) => Ok(()),
        };
        outcome = outcome.and(asked);
    }
    outcome
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    token: &CancelToken,
    connect: impl Future<Output = io::Result<S>>,
) -> io::Result<()> {
    let mut stream = connect.await?;
    token.cancel_query_raw(KeptOpen(&mut stream), NoTls).await.map_err(io::Error::other)?;
    // The server closes it when it has done what it was asked.
    stream.read_to_end(&mut Vec::new()).await.map(drop)
}

/// A stream that its writer cannot close.
struct KeptOpen<'a, S>(&'a mut S);

impl<S: AsyncRead + Unpin> AsyncRead for KeptOpen<'_, S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().0).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for KeptOpen<'_, S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.get_mut().0).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().0).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
