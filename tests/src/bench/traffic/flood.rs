//! Forwarding at full speed: a CPU that makes datagrams for a node port, forwards them through the node, and takes them in
//! behind it.
//!
//! The frames come from the reference object's program `flood`, out of the kernel's test-run, by the router's end of the
//! node's `eth0`; they end at the same place in its program `sink`. So the CPU time of the thread that floods is that of
//! the node, and what making and taking a packet costs is the same for all.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, PerCpuArray},
    programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode},
};
use etherparse::PacketBuilder;
use serde_json::Value;

use super::spot::Sample;
use crate::{bench::cpu, net::Netns};

/// The port of the flood's backend, at which the program `sink` knows its frames.
pub(super) const DISCARD: u16 = 9;
/// Words of the headers in the kernel's plan, see the type `Flood` in the reference object.
const HEAD: usize = 11;
const PLAN: usize = HEAD + 4;
/// Bytes of a datagram: with them a frame has 60 bytes, and its checksum makes 64 of them.
const PAYLOAD: usize = 18;
/// Frames that the kernel makes at a time, and in one call, after which it waits a while.
const BATCH: u32 = 64;
const CALL: u32 = 1 << 15;
/// Where UDP's checksum is in a frame.
const CHECKSUM: usize = 40;

/// The way of a flood.
pub(super) struct Way {
    router: Netns,
    frame: Vec<u8>,
    device: u32,
}

impl Way {
    /// From the router's device `port` to `eth0` of a node, from `source` to one of its node ports.
    pub(super) fn new(router: &Netns, port: &str, node: &Netns, source: Ipv4Addr, to: SocketAddrV4) -> Result<Self> {
        // Frames reach a device that has no XDP program only by NAPI, which veth has with GRO, as other devices do.
        let gro = node.command("ethtool").args(["-K", "eth0", "gro", "on"]).output().context("run ethtool")?;
        ensure!(gro.status.success(), "ethtool -K eth0 gro on: {}", String::from_utf8_lossy(&gro.stderr).trim());
        let (_, hardware) = device(node, "eth0")?;
        let (device, own_hardware) = device(router, port)?;
        let builder = PacketBuilder::ethernet2(own_hardware, hardware)
            .ipv4(source.octets(), to.ip().octets(), 64)
            // Port 0 is replaced by the kernel's program.
            .udp(0, to.port());
        let mut frame = Vec::new();
        builder.write(&mut frame, &[0; PAYLOAD]).context("make a frame")?;
        Ok(Self { router: router.clone(), frame, device })
    }
}

/// Index and hardware address of a device.
fn device(netns: &Netns, name: &str) -> Result<(u32, [u8; 6])> {
    let output = netns.command("ip").args(["-json", "link", "show", "dev", name]).output().context("run ip")?;
    let shown: Value =
        serde_json::from_slice(&output.stdout).with_context(|| format!("read what ip says of {name}"))?;
    let index = shown.pointer("/0/ifindex").and_then(Value::as_u64).and_then(|index| u32::try_from(index).ok());
    let address = shown.pointer("/0/address").and_then(Value::as_str).unwrap_or_default();
    let bytes: Vec<u8> = address.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    let bytes = bytes.try_into().ok().with_context(|| format!("{name} has the hardware address {address:?}"))?;
    Ok((index.with_context(|| format!("{name} has no index"))?, bytes))
}

/// The programs in the kernel.
pub(super) struct Flood {
    ebpf: Ebpf,
    plan: Array<MapData, [u32; PLAN]>,
    sunk: PerCpuArray<MapData, u64>,
}

impl Flood {
    /// Loads them from the reference object.
    pub(super) fn load(object: &[u8]) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(object).context("load the reference object")?;
        for name in ["flood", "sink"] {
            program(&mut ebpf, name)?.load().with_context(|| format!("load the reference program {name}"))?;
        }
        let plan = Array::try_from(ebpf.take_map("FLOOD").context("the reference object has no FLOOD")?)?;
        let sunk = PerCpuArray::try_from(ebpf.take_map("SUNK").context("the reference object has no SUNK")?)?;
        Ok(Self { ebpf, plan, sunk })
    }

    /// Hangs the sink into a device of the router, for as long as this lives.
    pub(super) fn hang_sink(&mut self, way: &Way) -> Result<()> {
        let sink = program(&mut self.ebpf, "sink")?;
        // In the usual way, which is the driver's, the kernel would take a copy of what is forwarded.
        let hung = way.router.enter(|| sink.attach_to_if_index(way.device, XdpMode::Driver));
        hung.map(drop).with_context(|| format!("hang the sink into the router's device {}", way.device))
    }

    /// Floods for some time on one CPU, after each flow has had a packet.
    pub(super) fn run(&mut self, way: &Way, flows: u32, cpu: usize, time: Duration) -> Result<Sample> {
        self.set_plan(way, flows)?;
        std::thread::scope(|scope| {
            let flooding = scope.spawn(|| {
                cpu::stay_on(cpu)?;
                cpu::go_first()?;
                way.router.enter(|| {
                    self.send(way, flows.max(CALL))?;
                    let (since, before, sunk) = (Instant::now(), cpu::time()?, self.sunk()?);
                    while since.elapsed() < time {
                        self.send(way, CALL)?;
                    }
                    let took = cpu::time()?.saturating_sub(before);
                    let done = self.sunk()? - sunk;
                    ensure!(done > 0, "nothing of the flood came through the node");
                    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
                    Ok(Sample { done, cpu: nanoseconds(took), wall: nanoseconds(since.elapsed()), connected: None })
                })
            });
            flooding.join().map_err(|_panic| anyhow::anyhow!("the thread that floods panicked"))?
        })
    }

    fn set_plan(&mut self, way: &Way, flows: u32) -> Result<()> {
        let mut plan = [0; PLAN];
        for (word, bytes) in plan.iter_mut().take(HEAD).zip(way.frame.as_chunks().0) {
            *word = u32::from_ne_bytes(*bytes);
        }
        let checksum = way.frame.get(CHECKSUM..CHECKSUM + 2).and_then(|bytes| bytes.try_into().ok());
        let checksum = u16::from_ne_bytes(checksum.context("a frame has a checksum")?);
        if let Some(rest) = plan.get_mut(HEAD..) {
            rest.copy_from_slice(&[0, flows - 1, way.device, u32::from(!checksum)]);
        }
        self.plan.set(0, plan, 0).context("write the plan of the flood")
    }

    fn send(&mut self, way: &Way, frames: u32) -> Result<()> {
        let attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
        let run = TestRunOptions { data_in: Some(&way.frame), repeat: frames, attrs, ..TestRunOptions::new() };
        program(&mut self.ebpf, "flood")?.test_run(run).map(drop).context("flood a node")
    }

    fn sunk(&self) -> Result<u64> {
        Ok(self.sunk.get(&0, 0).context("read what came through")?.iter().sum())
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("the reference object has no program {name}"))?;
    Ok(program.try_into()?)
}
