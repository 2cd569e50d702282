//! The programs of the kernel object, and which of them a device gets.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
};

use aya::programs::{ProgramError, SchedClassifier};

use super::{
    super::{
        pin::PinFolder,
        tcx::{Pair, cause},
    },
    AttacherError,
};
use crate::host::{
    Hooks,
    devices::{Egress, Ingress},
};

/// The tc programs of the kernel object that are attached to devices.
pub const PROGRAMS: [&str; 7] =
    ["ingress", "ingress_l3", "ingress_stacked", "ingress_stacked_l3", "ingress_port", "egress", "egress_l3"];

pub(super) const fn pair(hooks: &Hooks) -> Pair {
    Pair {
        ingress: match hooks.ingress {
            Ingress::Ethernet => "ingress",
            Ingress::BareIp => "ingress_l3",
            Ingress::Stacked => "ingress_stacked",
            Ingress::StackedBareIp => "ingress_stacked_l3",
            Ingress::BridgePort => "ingress_port",
        },
        egress: match hooks.egress {
            Egress::Ethernet => "egress",
            Egress::BareIp => "egress_l3",
        },
    }
}

/// A loaded kernel object.
pub trait ProgramSource {
    /// A loaded program of it.
    fn classifier(&mut self, name: &str) -> Option<&mut SchedClassifier>;
}

impl ProgramSource for aya::Ebpf {
    fn classifier(&mut self, name: &str) -> Option<&mut SchedClassifier> {
        self.program_mut(name)?.try_into().ok()
    }
}

/// Programs for devices: one descriptor to hang into clsact, one handle to make links of, each.
pub(in crate::bpf) struct Programs {
    pub(super) descriptors: BTreeMap<&'static str, OwnedFd>,
    pub(in crate::bpf) classifiers: BTreeMap<&'static str, SchedClassifier>,
}

impl Programs {
    /// Takes [`PROGRAMS`] from a loaded object.
    pub(super) fn take(object: &mut impl ProgramSource, pins: &PinFolder) -> Result<Self, AttacherError> {
        let mut programs = Self { descriptors: BTreeMap::new(), classifiers: BTreeMap::new() };
        for name in PROGRAMS {
            let program = object.classifier(name).ok_or(AttacherError::NoProgram(name))?;
            let fail = |error: ProgramError| AttacherError::Pin(name, cause(error));
            let classifier = pins.second_handle(name, program).map_err(fail)?;
            let descriptor = classifier.fd().map_err(fail)?.as_fd().try_clone_to_owned();
            programs.descriptors.insert(name, descriptor.map_err(|error| AttacherError::Pin(name, error))?);
            programs.classifiers.insert(name, classifier);
        }
        Ok(programs)
    }
}
