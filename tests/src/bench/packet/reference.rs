//! The reference object in the kernel: programs to compare with, and the traffic.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use aya::maps::{Array, HashMap, ProgramArray};
use aya::programs::{Program, SchedClassifier};
use aya::{Ebpf, EbpfLoader};
use svclb_userspace::model::Family;

use super::family::{Wire, end, service_key};
use crate::bench::population::Population;

/// Programs that svclb is compared with.
pub(super) const PROGRAMS: [&str; 5] = ["empty", "lookup", "new_flow", "asked_flow", "known_flow"];
const TRAFFIC: [&str; 2] = ["traffic4", "traffic6"];
/// Entries of the reference's table of flows: two for each flow.
const FLOW_ENTRIES: u32 = 1 << 22;
/// Entries of PEERS.
pub(super) const PEERS: u32 = 1 << 16;

/// What the traffic is made of, see the type of the same name in the kernel object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) next: u32,
    /// A power of two.
    pub(super) clients: u32,
    pub(super) stride: u32,
    pub(super) replies: bool,
    pub(super) subject: u32,
    pub(super) tcp_flags: u8,
}

/// The loaded object.
pub(super) struct Reference {
    ebpf: Ebpf,
    plan: Array<aya::maps::MapData, [u32; 6]>,
    subjects: ProgramArray<aya::maps::MapData>,
}

impl Reference {
    /// Loads it, with a table of flows for `family`.
    pub(super) fn load(object: &[u8], family: Family) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        let flows = match family {
            Family::V4 => "FLOWS4",
            Family::V6 => "FLOWS6",
        };
        loader.map_max_entries(flows, FLOW_ENTRIES);
        let mut ebpf = loader.load(object).context("load the reference object")?;
        for name in PROGRAMS.into_iter().chain(TRAFFIC) {
            classifier(&mut ebpf, name)?.load().with_context(|| format!("load the reference program {name}"))?;
        }
        let plan = Array::try_from(ebpf.take_map("PLAN").context("the reference object has no PLAN")?)?;
        let subjects =
            ProgramArray::try_from(ebpf.take_map("SUBJECTS").context("the reference object has no SUBJECTS")?)?;
        Ok(Self { ebpf, plan, subjects })
    }

    /// A program.
    pub(super) fn program(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        classifier(&mut self.ebpf, name)
    }

    /// The program that makes packets of a family.
    pub(super) fn traffic(&mut self, family: Family) -> Result<&mut SchedClassifier> {
        classifier(&mut self.ebpf, TRAFFIC[family.index()])
    }

    /// Gives a program that is to be measured its place.
    pub(super) fn set_subject(&mut self, place: u32, program: &SchedClassifier) -> Result<()> {
        self.subjects.set(place, program.fd()?, 0).context("enter a program to be measured")
    }

    /// Gives a program of this object its place.
    pub(super) fn set_own_subject(&mut self, place: u32, name: &str) -> Result<()> {
        let fd = classifier(&mut self.ebpf, name)?.fd()?.try_clone()?;
        self.subjects.set(place, &fd, 0).with_context(|| format!("enter the reference program {name}"))
    }

    /// Sets what the next packets are.
    pub(super) fn set_plan(&mut self, plan: Plan) -> Result<()> {
        let words = [
            plan.next,
            plan.clients - 1,
            plan.stride,
            u32::from(plan.replies),
            plan.subject,
            u32::from(plan.tcp_flags),
        ];
        self.plan.set(0, words, 0).context("write the plan of the traffic")
    }

    /// Sets the other ends of the clients; they are repeated until all places are filled.
    pub(super) fn set_peers<A: Wire>(&mut self, peers: &[SocketAddr]) -> Result<()> {
        let name = format!("PEERS{}", A::FAMILY.suffix());
        let mut map: Array<_, A::Words> = Array::try_from(self.ebpf.map_mut(&name).context("PEERS is missing")?)?;
        for (at, peer) in (0..PEERS).zip(peers.iter().cycle()) {
            map.set(at, end::<A>(*peer), 0).with_context(|| format!("write {name}"))?;
        }
        Ok(())
    }

    /// Enters all Services.
    pub(super) fn populate<A: Wire>(&mut self, population: &Population) -> Result<()> {
        let name = format!("BACKENDS{}", A::FAMILY.suffix());
        let mut backends: Array<_, A::Words> =
            Array::try_from(self.ebpf.map_mut(&name).context("BACKENDS is missing")?)?;
        for service in 0..population.services {
            for number in 0..population.endpoints {
                let value = end::<A>(population.endpoint(service, number, A::FAMILY));
                let at = service * population.endpoints + number;
                backends.set(at, value, 0).with_context(|| format!("write {name}"))?;
            }
        }
        let name = format!("SERVICES{}", A::FAMILY.suffix());
        let mut services: HashMap<_, A::Words, [u32; 2]> =
            HashMap::try_from(self.ebpf.map_mut(&name).context("SERVICES is missing")?)?;
        for service in 0..population.services {
            let key = service_key::<A>(population.frontend(service, A::FAMILY));
            let value = [service * population.endpoints, population.endpoints];
            services.insert(key, value, 0).with_context(|| format!("write {name}"))?;
        }
        Ok(())
    }
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    match ebpf.program_mut(name) {
        Some(Program::SchedClassifier(program)) => Ok(program),
        _ => bail!("the reference object has no program {name}; it is of another version than this command"),
    }
}
