//! What runs inside pods: a server that answers HTTP, UDP and SCTP with its name and the client that it sees.
//!
//! An answer is one JSON line, see [`Answer`]. What is posted is sent back as it comes, with the answer in a header. The sockets are made inside the pod's namespace, bound to
//! each of the pod's addresses, so that an answer has the source that was asked.

mod sctp;

use std::{
    collections::BTreeSet,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result};
use http_body_util::{Either, Full};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, TcpSocket, UdpSocket},
    task::JoinSet,
};

use super::{kernel_sctp, netns::Netns, raw_sctp};

/// What a pod answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The pod that answers.
    pub pod: String,
    /// The client as the pod sees it.
    pub client: SocketAddr,
    /// The pod's own address and port in this exchange.
    pub local: SocketAddr,
    /// What was asked: the path of an HTTP request, the text of a datagram. So a late answer is known.
    #[serde(default)]
    pub asked: String,
}

impl Answer {
    fn line(&self) -> String {
        let mut line = serde_json::to_string(self).expect("an answer has no keys that JSON lacks");
        line.push('\n');
        line
    }
}

/// Connections that may wait for being accepted: a full queue would look like a loss in the network.
const BACKLOG: u32 = 4096;

/// The header that has the answer where the body is what was posted.
pub(super) const ANSWER: &str = "x-answer";

/// Room for every datagram that there can be, in bytes.
pub(super) const LARGEST_DATAGRAM: usize = 65_535;

/// Bytes of datagrams that may wait to be answered, in the kernel's way of counting: several of the largest ones.
const RECEIVED: usize = 4 << 20;

/// How much a pod has answered.
#[derive(Debug, Default)]
struct Served {
    http: AtomicU64,
    udp: AtomicU64,
    sctp: AtomicU64,
    /// SCTP packets with a wrong checksum.
    damaged: AtomicU64,
}

/// A running server. Dropping it closes its sockets and breaks the connections that are open.
#[derive(Debug)]
pub struct Answerer {
    netns: Netns,
    pod: String,
    addresses: Vec<IpAddr>,
    ports: Arc<Mutex<BTreeSet<u16>>>,
    served: Arc<Served>,
    tasks: JoinSet<()>,
}

impl Answerer {
    /// Answers as `pod` on every port of every address, TCP, UDP and SCTP, inside `netns`. Must be called within
    /// a tokio runtime.
    pub fn start(netns: &Netns, pod: &str, addresses: &[IpAddr], ports: &[u16]) -> Result<Self> {
        let mut answerer = Self {
            netns: netns.clone(),
            pod: pod.to_owned(),
            addresses: addresses.to_owned(),
            ports: Arc::default(),
            served: Arc::default(),
            tasks: JoinSet::new(),
        };
        for port in ports {
            answerer.listen(*port)?;
        }
        if !kernel_sctp::is_there() {
            answerer.answer_sctp_by_packets()?;
        }
        Ok(answerer)
    }

    /// Answers SCTP on all ports that there are by then.
    fn answer_sctp_by_packets(&mut self) -> Result<()> {
        for address in &self.addresses {
            let at = SocketAddr::new(*address, 0);
            let socket = self.netns.enter(|| raw_sctp::open(*address)).with_context(|| format!("SCTP of {address}"))?;
            let (ports, served) = (Arc::clone(&self.ports), Arc::clone(&self.served));
            self.tasks.spawn(sctp::raw::answer(socket, at, self.pod.clone(), ports, served));
        }
        Ok(())
    }

    /// Answers on one more port. A port that something else has is an error.
    pub fn listen(&mut self, port: u16) -> Result<()> {
        if !self.ports.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
            return Ok(());
        }
        for address in &self.addresses {
            let at = SocketAddr::new(*address, port);
            let (listener, socket) = self
                .netns
                .enter(|| -> std::io::Result<_> {
                    let listener = if at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
                    listener.set_reuseaddr(true)?;
                    listener.bind(at)?;
                    let socket = std::net::UdpSocket::bind(at)?;
                    setsockopt(&socket, RcvBufForce, &RECEIVED)?;
                    socket.set_nonblocking(true)?;
                    Ok((listener.listen(BACKLOG)?, UdpSocket::from_std(socket)?))
                })
                .with_context(|| format!("bind {at} in pod {}", self.pod))?;
            self.tasks.spawn(answer_http(listener, self.pod.clone(), Arc::clone(&self.served)));
            self.tasks.spawn(answer_udp(socket, at, self.pod.clone(), Arc::clone(&self.served)));
            if kernel_sctp::is_there() {
                let listener = self.netns.enter(|| kernel_sctp::Socket::listen(at));
                let listener = listener.with_context(|| format!("SCTP of {at} in pod {}", self.pod))?;
                self.tasks.spawn(sctp::kernel::answer(listener, self.pod.clone(), Arc::clone(&self.served)));
            }
        }
        Ok(())
    }

    /// The HTTP requests answered so far.
    pub fn http_requests(&self) -> u64 {
        self.served.http.load(Ordering::Relaxed)
    }

    /// The SCTP messages answered so far.
    pub fn sctp_messages(&self) -> u64 {
        self.served.sctp.load(Ordering::Relaxed)
    }

    /// The SCTP packets that came with a wrong checksum.
    ///
    /// # Panics
    /// When a kernel that has SCTP does not tell.
    pub fn damaged_sctp_packets(&self) -> u64 {
        if kernel_sctp::is_there() {
            self.netns.enter(kernel_sctp::damaged_packets).expect("the kernel counts wrong checksums")
        } else {
            self.served.damaged.load(Ordering::Relaxed)
        }
    }

    /// The datagrams answered so far.
    pub fn datagrams(&self) -> u64 {
        self.served.udp.load(Ordering::Relaxed)
    }
}

/// Accepts until dropped; the connections belong to this task and end with it.
async fn answer_http(listener: TcpListener, pod: String, served: Arc<Served>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // An error here is a connection that was gone before it was taken.
                let Ok((stream, client)) = accepted else { continue };
                let Ok(local) = stream.local_addr() else { continue };
                let (pod, served) = (pod.clone(), Arc::clone(&served));
                let service = service_fn(move |request: Request<Incoming>| {
                    served.http.fetch_add(1, Ordering::Relaxed);
                    let asked = request.uri().path().to_owned();
                    let line = Answer { pod: pod.clone(), client, local, asked }.line();
                    let response = if request.method() == Method::POST {
                        let mut response = Response::new(Either::Right(request.into_body()));
                        let answer = line.trim().parse().expect("JSON without line ends is good for a header");
                        response.headers_mut().insert(ANSWER, answer);
                        response
                    } else {
                        Response::new(Either::Left(Full::new(Bytes::from(line))))
                    };
                    async move { Ok::<_, Infallible>(response) }
                });
                connections.spawn(async move {
                    // The client sees what went wrong with its connection; there is nobody here to tell.
                    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
                });
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

/// Answers every datagram to its sender.
async fn answer_udp(socket: UdpSocket, local: SocketAddr, pod: String, served: Arc<Served>) {
    let mut buffer = vec![0; LARGEST_DATAGRAM];
    loop {
        // Errors are the ICMP messages about earlier answers.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        served.udp.fetch_add(1, Ordering::Relaxed);
        let asked = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        let answer = Answer { pod: pod.clone(), client, local, asked };
        drop(socket.send_to(answer.line().as_bytes(), client).await);
    }
}
