//! Hooks by clsact, the older way: a queueing discipline of that name, and filters in it.
//!
//! A filter outlives the agent by itself. Ours are found again by a fixed priority, handle and the first
//! letters of their name. They are replaced in place, so that no packet passes between the old program
//! and the new one. Filters of others are never touched, nor is a clsact that holds any.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use nix::{
    errno::Errno,
    sys::{
        socket::{setsockopt, sockopt},
        time::TimeVal,
    },
};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NlasIterator,
};
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};
use rtnetlink::sys::{Socket, protocols::NETLINK_ROUTE};

use super::pin::Direction;

/// Handle of our filters.
const HANDLE: u32 = 0x5c1b;

/// What the names of our filters begin with.
const NAME: &str = "svclb:";

/// `ETH_P_ALL`: filters see packets of all protocols.
const ALL_PROTOCOLS: u16 = 3;

/// The longest datagram: the kernel fills answers to dumps up to 32 KiB.
const DATAGRAM: usize = 64 << 10;

/// How long the kernel may take for an answer.
const PATIENCE_SECONDS: i64 = 10;

/// Why clsact can not be used on a device.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClsactError {
    /// The place of clsact is taken by the qdisc `ingress`, which has no egress side.
    #[error("a qdisc `ingress` is in the place of clsact")]
    IngressQdisc,
    /// A filter that is not ours has our handle at our priority.
    #[error("a filter of another program has handle {HANDLE:#x} at priority {}", priority(*.0))]
    Taken(Direction),
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] io::Error),
}

/// A program to hang in: its name and descriptor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filter<'a> {
    pub(super) name: &'a str,
    pub(super) program: BorrowedFd<'a>,
}

/// A socket for qdiscs and filters of one network namespace.
pub(super) struct Clsact {
    socket: Socket,
}

impl Clsact {
    /// For the network namespace of the calling thread.
    pub(super) fn new() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_ROUTE)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE_SECONDS, 0))?;
        Ok(Self { socket })
    }

    /// Hangs both filters in, or replaces those of before. Some 0.2 ms.
    pub(super) fn put(&self, index: u32, ingress: Filter, egress: Filter) -> Result<(), ClsactError> {
        let is_new = self.need_qdisc(index)?;
        let filters = [(Direction::Ingress, ingress), (Direction::Egress, egress)];
        if !is_new {
            for (direction, _) in filters {
                if self.owner(index, direction)? == Some(Owner::Other) {
                    return Err(ClsactError::Taken(direction));
                }
            }
        }
        for (direction, filter) in filters {
            let message = new_filter(index, direction, filter);
            self.change(RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE)?;
        }
        Ok(())
    }

    /// Takes our filters out; `false` if there were none.
    pub(super) fn remove(&self, index: u32) -> io::Result<bool> {
        let mut found = false;
        for direction in Direction::BOTH {
            if self.owner(index, direction)? == Some(Owner::Us) {
                self.change(RouteNetlinkMessage::DelTrafficFilter(filter_at(index, direction)), 0)?;
                found = true;
            }
        }
        Ok(found)
    }

    /// Takes clsact away if nothing is in it. The kernel stops the device for that: for some milliseconds it
    /// drops whatever it is to send.
    pub(super) fn remove_qdisc_if_empty(&self, index: u32) -> io::Result<()> {
        if !self.is_empty(index)? {
            return Ok(());
        }
        match self.change(RouteNetlinkMessage::DelQueueDiscipline(new_qdisc(index)), 0) {
            // There is none, or the qdisc `ingress` is in its place.
            Err(error)
                if [Errno::ENOENT, Errno::EINVAL].map(|errno| Some(errno as i32)).contains(&error.raw_os_error()) =>
            {
                Ok(())
            }
            done => done,
        }
    }

    /// The same for a device that has just come up, three times as fast: all requests go in one message, so
    /// that they wait only once for the lock of the network configuration, which whoever makes devices holds
    /// most of the time.
    pub(super) fn put_new(&self, index: u32, ingress: Filter, egress: Filter) -> Result<(), ClsactError> {
        let filters = [(Direction::Ingress, ingress), (Direction::Egress, egress)];
        let mut requests = vec![(RouteNetlinkMessage::NewQueueDiscipline(new_qdisc(index)), NLM_F_CREATE | NLM_F_EXCL)];
        requests.extend(filters.map(|(direction, filter)| {
            (RouteNetlinkMessage::NewTrafficFilter(new_filter(index, direction, filter)), NLM_F_CREATE | NLM_F_EXCL)
        }));
        let count = requests.len();
        self.send(requests)?;
        let outcomes: Vec<io::Result<()>> = (0..count).map(|_| self.receive(&mut Vec::new())).collect();
        if outcomes.iter().all(Result::is_ok) {
            return Ok(());
        }
        // Not so new after all: somebody was faster.
        if outcomes.iter().skip(1).any(Result::is_ok) {
            self.remove(index)?;
        }
        self.put(index, ingress, egress)
    }

    fn need_qdisc(&self, index: u32) -> Result<bool, ClsactError> {
        match self.change(RouteNetlinkMessage::NewQueueDiscipline(new_qdisc(index)), NLM_F_CREATE | NLM_F_EXCL) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(Errno::EEXIST as i32) => {
                // A change that changes nothing succeeds only if the qdisc is of the kind that is named.
                match self.change(RouteNetlinkMessage::NewQueueDiscipline(new_qdisc(index)), 0) {
                    Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => Err(ClsactError::IngressQdisc),
                    other => Ok(other.map(|()| false)?),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whose filter has our handle at our priority.
    fn owner(&self, index: u32, direction: Direction) -> io::Result<Option<Owner>> {
        match self.ask(RouteNetlinkMessage::GetTrafficFilter(filter_at(index, direction)), 0) {
            Ok(answers) => Ok(answers.first().map(|filter| owner(filter))),
            // No qdisc, no filter at this priority or none with this handle.
            Err(error)
                if [Errno::ENOENT, Errno::EINVAL].map(|errno| Some(errno as i32)).contains(&error.raw_os_error()) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn is_empty(&self, index: u32) -> io::Result<bool> {
        for direction in Direction::BOTH {
            let mut message = TcMessage::with_index(index.cast_signed());
            message.header.parent = parent(direction);
            if !self.ask(RouteNetlinkMessage::GetTrafficFilter(message), NLM_F_DUMP)?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn change(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.ask(message, flags).map(drop)
    }

    /// Sends a request and collects what the kernel answers.
    fn ask(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<Vec<u8>>> {
        let mut answers = Vec::new();
        self.send(vec![(message, flags)])?;
        self.receive(&mut answers)?;
        Ok(answers)
    }

    /// Sends requests in one go.
    fn send(&self, requests: Vec<(RouteNetlinkMessage, u16)>) -> io::Result<()> {
        let mut buffer = Vec::new();
        for (message, flags) in requests {
            let mut message = NetlinkMessage::from(message);
            // The end of a dump is told without being asked for. (Bits of NLM_F_DUMP mean others in changes.)
            message.header.flags = NLM_F_REQUEST | flags | if flags == NLM_F_DUMP { 0 } else { NLM_F_ACK };
            message.finalize();
            let start = buffer.len();
            buffer.resize((start + message.buffer_len()).next_multiple_of(4), 0);
            message.serialize(&mut buffer[start..]);
        }
        self.socket.send(&buffer, 0).map(drop)
    }

    /// Collects what answers one request: objects, then an acknowledgement or the end of a dump.
    fn receive(&self, answers: &mut Vec<Vec<u8>>) -> io::Result<()> {
        const ERROR: u16 = 2;
        const DONE: u16 = 3;
        let mut datagram = Vec::with_capacity(DATAGRAM);
        loop {
            datagram.clear();
            self.socket.recv(&mut datagram, 0)?;
            let mut rest = datagram.as_slice();
            while let Ok(part) = NetlinkBuffer::new_checked(rest) {
                match part.message_type() {
                    ERROR => {
                        let code = part.payload().first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                        return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                    }
                    DONE => return Ok(()),
                    _ => answers.push(part.payload().to_vec()),
                }
                rest = rest.get((part.length() as usize).next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Us,
    Other,
}

fn owner(filter: &[u8]) -> Owner {
    const OPTIONS: u16 = 2;
    const PROGRAM_NAME: u16 = 7;
    let ours = attribute(filter, OPTIONS).and_then(|options| {
        NlasIterator::new(options)
            .flatten()
            .find(|nla| nla.kind() == PROGRAM_NAME)
            .map(|nla| nla.value().starts_with(NAME.as_bytes()))
    });
    if ours == Some(true) { Owner::Us } else { Owner::Other }
}

/// An attribute of a message about a qdisc or filter.
fn attribute(payload: &[u8], kind: u16) -> Option<&[u8]> {
    const HEADER: usize = 20;
    const ATTRIBUTE_HEADER: usize = 4;
    let mut rest = payload.get(HEADER..)?;
    while let Some(Ok(found)) = NlasIterator::new(rest).next() {
        let length = usize::from(found.length());
        if found.kind() == kind {
            return rest.get(ATTRIBUTE_HEADER..length);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn qdisc_at(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = TcHandle::CLSACT;
    message.header.handle = TcHandle { major: u16::MAX, minor: 0 };
    message
}

fn new_qdisc(index: u32) -> TcMessage {
    let mut message = qdisc_at(index);
    message.attributes.push(TcAttribute::Kind("clsact".into()));
    message
}

fn new_filter(index: u32, direction: Direction, filter: Filter) -> TcMessage {
    let mut message = filter_at(index, direction);
    message.attributes.push(TcAttribute::Options(vec![
        TcOption::Bpf(TcFilterBpfOption::ProgFd(filter.program.as_raw_fd().cast_unsigned())),
        TcOption::Bpf(TcFilterBpfOption::ProgName(format!("{NAME}{}", filter.name))),
        TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
    ]));
    message
}

fn filter_at(index: u32, direction: Direction) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = parent(direction);
    message.header.handle = HANDLE.into();
    message.header.info = u32::from(priority(direction)) << 16 | u32::from(ALL_PROTOCOLS.to_be());
    message.attributes.push(TcAttribute::Kind("bpf".into()));
    message
}

fn parent(direction: Direction) -> TcHandle {
    let minor = match direction {
        Direction::Ingress => TcHandle::MIN_INGRESS,
        Direction::Egress => TcHandle::MIN_EGRESS,
    };
    TcHandle { major: u16::MAX, minor }
}

/// First at ingress and last at egress, so that the programs of others see what the node's stack sees.
const fn priority(direction: Direction) -> u16 {
    match direction {
        Direction::Ingress => 1,
        Direction::Egress => 0xfffe,
    }
}
