//! A client in one pod and a server in another, each a thread of its own.
//!
//! Client and server do nothing but system calls, one transaction after the other. The CPU time of the two threads holds
//! all that the kernel does for them, as no packet leaves the machine: what is sent is received on the sender's account.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use super::spot::{Sample, Workload};
use crate::{bench::cpu, net::Netns};

/// Length of a request and of an answer.
const LENGTH: usize = 64;
const REQUEST: [u8; LENGTH] = [0; LENGTH];
/// A request after which the server ends.
const LAST: [u8; LENGTH] = [1; LENGTH];
/// Bytes that bulk traffic writes at a time.
const CHUNK: usize = 128 << 10;
/// How long either side waits for the other before it gives up.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections that may wait for being accepted.
const BACKLOG: i32 = 128;

/// Who asks whom.
pub(super) struct Exchange<'a> {
    /// The client's namespace and address.
    pub(super) client: (&'a Netns, IpAddr),
    /// The server's namespace, and where it listens.
    pub(super) server: (&'a Netns, SocketAddr),
    /// What the client asks.
    pub(super) to: SocketAddr,
    /// The CPUs of client and server.
    pub(super) cpus: [usize; 2],
    /// How long.
    pub(super) time: Duration,
}

/// What a side has done, and the CPU time that it took.
struct Side {
    done: u64,
    cpu: Duration,
    wall: Duration,
    connected: Option<u32>,
}

impl Exchange<'_> {
    /// Lets them exchange.
    pub(super) fn run(&self, workload: Workload) -> Result<Sample> {
        match workload {
            Workload::Connect => self.tcp(answer_connections, ask_by_connections),
            Workload::Exchange => self.tcp(answer_one_connection, ask_by_one_connection),
            Workload::Bulk => self.tcp(receive, send),
            Workload::Datagram => self.udp(ask_by_one_socket),
            Workload::NewDatagram => self.udp(ask_by_sockets),
            Workload::Forward { .. } => bail!("what is forwarded has no client and no server"),
        }
    }

    fn tcp(
        &self,
        serve: impl FnOnce(&TcpListener, IpAddr) -> Result<u64> + Send,
        ask: impl FnOnce(SocketAddr, Instant) -> Result<(u64, Option<u32>)> + Send,
    ) -> Result<Sample> {
        let (netns, at) = self.server;
        let listener = netns.enter(|| -> std::io::Result<TcpListener> {
            let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.bind(&at.into())?;
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        });
        let listener = listener.with_context(|| format!("listen on {at}"))?;
        let client = self.client.1;
        self.both(move || serve(&listener, client), ask)
    }

    fn udp(&self, ask: impl FnOnce(SocketAddr, Instant) -> Result<(u64, Option<u32>)> + Send) -> Result<Sample> {
        let (netns, at) = self.server;
        let socket = netns.enter(|| UdpSocket::bind(at)).with_context(|| format!("bind {at}"))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let client = self.client.1;
        self.both(move || answer_datagrams(&socket, client), ask)
    }

    /// Runs both sides to their end.
    fn both(
        &self,
        serve: impl FnOnce() -> Result<u64> + Send,
        ask: impl FnOnce(SocketAddr, Instant) -> Result<(u64, Option<u32>)> + Send,
    ) -> Result<Sample> {
        let [client_cpu, server_cpu] = self.cpus;
        let (server, client) = thread::scope(|scope| {
            let server = scope.spawn(move || side(server_cpu, || Ok((serve()?, None))));
            let client = scope.spawn(move || {
                let (to, time) = (self.to, self.time);
                self.client.0.enter(|| side(client_cpu, || ask(to, Instant::now() + time)))
            });
            (server.join(), client.join())
        });
        let ended = |side: thread::Result<Result<Side>>, who| match side {
            Ok(side) => side.with_context(|| format!("the {who} of {}", self.to)),
            Err(_panic) => bail!("the {who} of {} panicked", self.to),
        };
        // The client's error says more: the server's is mostly that nobody came.
        let (client, server) = (ended(client, "client")?, ended(server, "server")?);
        ensure!(client.done > 0, "nothing was done at {} within {:?}", self.to, self.time);
        Ok(Sample {
            // Of bulk traffic what has arrived.
            done: client.done.min(server.done),
            cpu: nanoseconds(client.cpu + server.cpu),
            wall: nanoseconds(client.wall),
            connected: client.connected,
        })
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Does a side's work on a CPU and looks what it took.
fn side(cpu: usize, work: impl FnOnce() -> Result<(u64, Option<u32>)>) -> Result<Side> {
    cpu::stay_on(cpu)?;
    cpu::go_first()?;
    let (since, before) = (Instant::now(), cpu::time()?);
    let (done, connected) = work()?;
    Ok(Side { done, cpu: cpu::time()?.saturating_sub(before), wall: since.elapsed(), connected })
}

/// Checks that the server sees the client as itself; a masqueraded one would be measured as something else.
fn is_client(seen: SocketAddr, client: IpAddr) -> Result<()> {
    ensure!(seen.ip() == client, "the server sees {seen} in place of the client {client}");
    Ok(())
}

fn answer_connections(listener: &TcpListener, client: IpAddr) -> Result<u64> {
    let mut request = [0; LENGTH];
    let mut done = 0;
    loop {
        let (mut stream, from) = listener.accept().context("accept a connection")?;
        if done == 0 {
            is_client(from, client)?;
        }
        stream.read_exact(&mut request).context("read a request")?;
        if request == LAST {
            return Ok(done);
        }
        stream.write_all(&request).context("write an answer")?;
        done += 1;
    }
}

fn ask_by_connections(to: SocketAddr, until: Instant) -> Result<(u64, Option<u32>)> {
    let mut answer = [0; LENGTH];
    let mut took = Vec::with_capacity(1 << 16);
    loop {
        let began = Instant::now();
        if began >= until {
            break;
        }
        let mut stream = TcpStream::connect(to).context("connect")?;
        took.push(u32::try_from(began.elapsed().as_nanos()).unwrap_or(u32::MAX));
        stream.write_all(&REQUEST).context("write a request")?;
        stream.read_exact(&mut answer).context("read an answer")?;
        // The server closes first, so that no port of the client waits.
        ensure!(stream.read(&mut answer).context("wait for the end")? == 0, "more came than was asked for");
    }
    TcpStream::connect(to)?.write_all(&LAST).context("write the last request")?;
    let done = took.len() as u64;
    took.sort_unstable();
    Ok((done, took.get(took.len() / 2).copied()))
}

fn answer_one_connection(listener: &TcpListener, client: IpAddr) -> Result<u64> {
    let (mut stream, from) = listener.accept().context("accept a connection")?;
    is_client(from, client)?;
    stream.set_nodelay(true)?;
    let mut request = [0; LENGTH];
    let mut done = 0;
    loop {
        match stream.read_exact(&mut request) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(done),
            read => read.context("read a request")?,
        }
        stream.write_all(&request).context("write an answer")?;
        done += 1;
    }
}

fn ask_by_one_connection(to: SocketAddr, until: Instant) -> Result<(u64, Option<u32>)> {
    let mut stream = TcpStream::connect(to).context("connect")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = [0; LENGTH];
    let mut done = 0;
    while Instant::now() < until {
        stream.write_all(&REQUEST).context("write a request")?;
        stream.read_exact(&mut answer).context("read an answer")?;
        done += 1;
    }
    Ok((done, None))
}

fn receive(listener: &TcpListener, client: IpAddr) -> Result<u64> {
    let (mut stream, from) = listener.accept().context("accept a connection")?;
    is_client(from, client)?;
    let mut buffer = vec![0; 2 * CHUNK];
    let mut done = 0;
    loop {
        match stream.read(&mut buffer).context("read")? {
            0 => return Ok(done),
            bytes => done += bytes as u64,
        }
    }
}

fn send(to: SocketAddr, until: Instant) -> Result<(u64, Option<u32>)> {
    let mut stream = TcpStream::connect(to).context("connect")?;
    let buffer = vec![0; CHUNK];
    let mut done = 0;
    while Instant::now() < until {
        done += stream.write(&buffer).context("write")? as u64;
    }
    Ok((done, None))
}

fn answer_datagrams(socket: &UdpSocket, client: IpAddr) -> Result<u64> {
    let mut request = [0; LENGTH];
    let mut done = 0;
    loop {
        let (_length, from) = socket.recv_from(&mut request).context("receive a request")?;
        if done == 0 {
            is_client(from, client)?;
        }
        if request == LAST {
            return Ok(done);
        }
        socket.send_to(&request, from).context("send an answer")?;
        done += 1;
    }
}

fn datagram_socket(to: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("make a socket")?;
    socket.connect(to).context("connect a socket")?;
    Ok(socket)
}

fn ask_by_one_socket(to: SocketAddr, until: Instant) -> Result<(u64, Option<u32>)> {
    let socket = datagram_socket(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut answer = [0; LENGTH];
    let mut done = 0;
    while Instant::now() < until {
        socket.send(&REQUEST).context("send a request")?;
        socket.recv(&mut answer).context("receive an answer")?;
        done += 1;
    }
    socket.send(&LAST).context("send the last request")?;
    Ok((done, None))
}

fn ask_by_sockets(to: SocketAddr, until: Instant) -> Result<(u64, Option<u32>)> {
    let mut answer = [0; LENGTH];
    let mut done = 0;
    while Instant::now() < until {
        let socket = datagram_socket(to)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send(&REQUEST).context("send a request")?;
        socket.recv(&mut answer).context("receive an answer")?;
        done += 1;
    }
    datagram_socket(to)?.send(&LAST).context("send the last request")?;
    Ok((done, None))
}
