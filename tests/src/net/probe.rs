//! Clients: HTTP, UDP and SCTP requests from inside a namespace, with deadlines, and what came of them.

mod sctp;

pub use self::sctp::Association;

use std::{
    error::Error,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use nix::errno::Errno;
use serde::Serialize;
use tokio::{
    net::{TcpSocket, UdpSocket},
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    answerer::{ANSWER, Answer, LARGEST_DATAGRAM},
    netns::Netns,
};

/// How a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// A TCP reset answered the SYN, or an ICMP "port unreachable" came back.
    Refused,
    /// No answer before the deadline.
    TimedOut,
    /// A TCP reset on an open connection.
    Reset,
    /// Another ICMP error came back, or there is no route.
    Unreachable,
    /// A packet filter of the client's own host, or a hook at its socket, forbade it.
    Forbidden,
    /// The peer closed the connection without an answer.
    Closed,
    /// Something answered that is no answerer.
    NotAnAnswer,
    /// The client could not ask: no source port, no descriptor.
    Local,
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::TimedOut => "timed out",
            Self::Reset => "reset",
            Self::Unreachable => "unreachable",
            Self::Forbidden => "forbidden",
            Self::Closed => "closed",
            Self::NotAnAnswer => "not an answer",
            Self::Local => "could not ask",
        })
    }
}

/// A request that got no answer.
#[derive(Debug, Clone)]
pub struct Failure {
    /// How it failed.
    pub kind: FailureKind,
    /// What the system said.
    pub detail: String,
    /// The time from the request to the failure.
    pub after: Duration,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} after {:?}: {}", self.kind, self.after, self.detail)
    }
}

impl Error for Failure {}

/// An answer, and how long it took from the first packet on.
#[derive(Debug, Clone)]
pub struct Reply {
    /// What the pod said.
    pub answer: Answer,
    /// The time from the request to the answer; with a new connection, from the SYN.
    pub latency: Duration,
}

/// The outcome of one request.
pub type Outcome = Result<Reply, Failure>;

/// The source port of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourcePort {
    /// One that the system picks.
    Fresh,
    /// This one.
    Fixed(u16),
}

/// A client in a namespace. Every request has the same deadline.
#[derive(Debug, Clone)]
pub struct Client {
    netns: Netns,
    deadline: Duration,
    length: usize,
}

impl Client {
    /// A client inside `netns` that waits for an answer as long as `deadline`.
    pub fn new(netns: &Netns, deadline: Duration) -> Self {
        Self { netns: netns.clone(), deadline, length: 0 }
    }

    /// The same client with another deadline.
    #[must_use]
    pub fn patient(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// The same client with longer requests: datagrams of at least `length` bytes, and so many in the body of an HTTP
    /// request, which the answer repeats.
    #[must_use]
    pub fn asking_for(self, length: usize) -> Self {
        Self { length, ..self }
    }

    /// The status and the body that a server which is no answerer gives for `path`.
    pub async fn get(&self, to: SocketAddr, path: &str) -> Result<(u16, String), Failure> {
        let start = Instant::now();
        let within = async {
            let mut connection = self.open(to).await?;
            let response = connection.request(path, Bytes::new(), true).await?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await?.to_bytes();
            Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        match timeout(self.deadline, within).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(failure(start, to, &error)),
            Err(_elapsed) => Err(timed_out(start, to)),
        }
    }

    /// One HTTP request over a connection of its own.
    pub async fn http(&self, to: SocketAddr) -> Outcome {
        let start = Instant::now();
        let within = async {
            let mut connection = self.open(to).await?;
            connection.exchange(true).await
        };
        finish(start, to, timeout(self.deadline, within).await)
    }

    /// Opens a connection that stays.
    pub async fn connect(&self, to: SocketAddr) -> Result<Connection, Failure> {
        let start = Instant::now();
        match timeout(self.deadline, self.open(to)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(failure(start, to, &error)),
            Err(_elapsed) => Err(timed_out(start, to)),
        }
    }

    async fn open(&self, to: SocketAddr) -> Result<Connection, AskError> {
        let socket = self
            .netns
            .enter(|| if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() })
            .map_err(AskError::Local)?;
        let stream = socket.connect(to).await?;
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // The error of the connection reaches the one who waits for its answer.
            drop(connection.await);
        });
        let body = (0..self.length).map(|at| (at % 251) as u8).collect();
        Ok(Connection { to, local, deadline: self.deadline, body, sender, _driver: driver })
    }

    /// Opens a socket for datagrams to one address. The system then tells of refusals.
    pub async fn datagrams(&self, to: SocketAddr, from: SourcePort) -> Result<Datagrams, Failure> {
        let start = Instant::now();
        self.bind(to, from).await.map_err(|error| failure(start, to, &error))
    }

    async fn bind(&self, to: SocketAddr, from: SourcePort) -> Result<Datagrams, AskError> {
        let port = match from {
            SourcePort::Fresh => 0,
            SourcePort::Fixed(port) => port,
        };
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let bound = self.netns.enter(|| {
            let socket = std::net::UdpSocket::bind(SocketAddr::new(any, port))?;
            socket.set_nonblocking(true)?;
            UdpSocket::from_std(socket)
        });
        let socket = bound.map_err(AskError::Local)?;
        socket.connect(to).await?;
        Ok(Datagrams { to, deadline: self.deadline, length: self.length, socket })
    }

    /// One datagram from a fresh port, and its answer.
    pub async fn udp(&self, to: SocketAddr) -> Outcome {
        self.datagrams(to, SourcePort::Fresh).await?.ask().await
    }
}

/// An open HTTP connection.
#[derive(Debug)]
pub struct Connection {
    to: SocketAddr,
    local: SocketAddr,
    deadline: Duration,
    body: Bytes,
    sender: http1::SendRequest<Full<Bytes>>,
    _driver: JoinSet<()>,
}

impl Connection {
    /// The client's own end.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// One request over it; the connection stays open.
    pub async fn ask(&mut self) -> Outcome {
        let (start, to) = (Instant::now(), self.to);
        let within = timeout(self.deadline, self.exchange(false)).await;
        finish(start, to, within)
    }

    async fn exchange(&mut self, last: bool) -> Result<Answer, AskError> {
        let sent = self.body.clone();
        let response = self.request("/", sent.clone(), last).await?;
        let in_header = response.headers().get(ANSWER).cloned();
        let body = response.into_body().collect().await?.to_bytes();
        let Some(answer) = in_header else { return read_answer(&body) };
        if body != sent {
            return Err(AskError::NotAnAnswer(format!("{} other bytes than the {} sent", body.len(), sent.len())));
        }
        read_answer(answer.as_bytes())
    }

    /// Asks for a path, or posts a body there.
    async fn request(&mut self, path: &str, body: Bytes, last: bool) -> Result<Response<Incoming>, AskError> {
        self.sender.ready().await?;
        let method = if body.is_empty() { Method::GET } else { Method::POST };
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, self.to.to_string());
        if last {
            request = request.header(header::CONNECTION, "close");
        }
        let request = request.body(Full::new(body)).map_err(|e| AskError::NotAnAnswer(e.to_string()))?;
        Ok(self.sender.send_request(request).await?)
    }
}

/// Numbers the datagrams of this process, so that a late answer is not taken for the next one.
static DATAGRAM: AtomicU64 = AtomicU64::new(0);

/// A socket for datagrams to one address, with one source port.
#[derive(Debug)]
pub struct Datagrams {
    to: SocketAddr,
    deadline: Duration,
    length: usize,
    socket: UdpSocket,
}

impl Datagrams {
    /// The client's own end.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Sends one datagram and waits for the answer to it; answers to earlier ones are passed over.
    pub async fn ask(&mut self) -> Outcome {
        let (start, to) = (Instant::now(), self.to);
        let within = timeout(self.deadline, self.exchange()).await;
        finish(start, to, within)
    }

    async fn exchange(&mut self) -> Result<Answer, AskError> {
        // An error that is still pending belongs to an earlier datagram.
        drop(self.socket.take_error()?);
        let mut text = format!("datagram {}", DATAGRAM.fetch_add(1, Ordering::Relaxed));
        text.extend(std::iter::repeat_n('.', self.length.saturating_sub(text.len())));
        self.send(&text).await?;
        let mut buffer = vec![0; LARGEST_DATAGRAM];
        loop {
            let length = match self.socket.recv(&mut buffer).await {
                // The first one did not fit on its way; from now on the sender knows what does (RFC 8201).
                Err(error) if is_too_long(&error) => {
                    self.send(&text).await?;
                    continue;
                }
                received => received?,
            };
            let answer = read_answer(buffer.get(..length).unwrap_or_default())?;
            if answer.asked == text {
                return Ok(answer);
            }
        }
    }

    /// Sends a datagram; again, if one before it was too long for its way.
    async fn send(&self, text: &str) -> io::Result<usize> {
        match self.socket.send(text.as_bytes()).await {
            Err(error) if is_too_long(&error) => self.socket.send(text.as_bytes()).await,
            sent => sent,
        }
    }
}

fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EMSGSIZE as i32)
}

/// What can go wrong while asking.
#[derive(Debug)]
enum AskError {
    Local(io::Error),
    Io(io::Error),
    Http(hyper::Error),
    NotAnAnswer(String),
}

impl From<io::Error> for AskError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<hyper::Error> for AskError {
    fn from(error: hyper::Error) -> Self {
        Self::Http(error)
    }
}

impl AskError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Local(_) => FailureKind::Local,
            Self::NotAnAnswer(_) => FailureKind::NotAnAnswer,
            Self::Io(error) => kind_of(error),
            Self::Http(error) => match error.source().and_then(|e| e.downcast_ref::<io::Error>()) {
                Some(error) => kind_of(error),
                None if error.is_parse() => FailureKind::NotAnAnswer,
                None => FailureKind::Closed,
            },
        }
    }
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(error) | Self::Io(error) => error.fmt(f),
            Self::Http(error) => match error.source() {
                Some(source) => write!(f, "{error}: {source}"),
                None => error.fmt(f),
            },
            Self::NotAnAnswer(text) => f.write_str(text),
        }
    }
}

fn kind_of(error: &io::Error) -> FailureKind {
    use io::ErrorKind as K;
    #[expect(clippy::wildcard_enum_match_arm, reason = "the standard library may add kinds")]
    match error.kind() {
        K::ConnectionRefused => FailureKind::Refused,
        K::ConnectionReset | K::BrokenPipe | K::ConnectionAborted => FailureKind::Reset,
        K::TimedOut => FailureKind::TimedOut,
        K::HostUnreachable | K::NetworkUnreachable | K::NetworkDown => FailureKind::Unreachable,
        K::PermissionDenied => FailureKind::Forbidden,
        K::UnexpectedEof => FailureKind::Closed,
        _ => FailureKind::Local,
    }
}

fn read_answer(line: &[u8]) -> Result<Answer, AskError> {
    serde_json::from_slice(line)
        .map_err(|e| AskError::NotAnAnswer(format!("{e} in {:?}", String::from_utf8_lossy(line))))
}

fn failure(start: Instant, to: SocketAddr, error: &AskError) -> Failure {
    Failure { kind: error.kind(), detail: format!("{to}: {error}"), after: start.elapsed() }
}

fn timed_out(start: Instant, to: SocketAddr) -> Failure {
    Failure { kind: FailureKind::TimedOut, detail: format!("{to}: no answer"), after: start.elapsed() }
}

fn finish(
    start: Instant,
    to: SocketAddr,
    within: Result<Result<Answer, AskError>, tokio::time::error::Elapsed>,
) -> Outcome {
    match within {
        Ok(Ok(answer)) => Ok(Reply { answer, latency: start.elapsed() }),
        Ok(Err(error)) => Err(failure(start, to, &error)),
        Err(_elapsed) => Err(timed_out(start, to)),
    }
}
