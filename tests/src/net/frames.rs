//! Devices that take the frames which XDP at the other end of their pair sends.

use anyhow::{Context, Result};
use aya::programs::XdpMode;
use svclb_common::config::Sizes;
use svclb_userspace::bpf::load::{Object, Options};

use super::netns::Netns;

/// A program that lets every frame pass, on some devices: a veth hands frames of XDP only to an end that has one.
#[derive(Debug)]
pub(super) struct FrameTaker(Object);

impl FrameTaker {
    pub(super) fn new() -> Result<Self> {
        // Without CONFIG svclb's own program touches nothing.
        let options = Options { bpffs: None, sizes: Sizes::for_memory(0), test_mode: false, programs: &[] };
        let mut object = Object::load(&options)?;
        object.load_xdp_program()?;
        Ok(Self(object))
    }

    /// Lets a device take frames.
    pub(super) fn take_frames_of(&mut self, netns: &Netns, device: &str) -> Result<()> {
        let program = self.0.xdp_program()?;
        let attached = netns.enter(|| program.attach(device, XdpMode::Driver));
        attached.with_context(|| format!("attach a program to the driver of {device}")).map(drop)
    }
}
