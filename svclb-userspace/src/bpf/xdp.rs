//! XDP: the program that meets frames on the devices that lead out of the node, before there is a packet.
//!
//! It only makes faster what `tc` does as well, so whatever stands in its way is said and no more. Its links are pinned
//! and so outlive the agent; the next one puts its own program into them, or removes them if it is to have none.
//!
//! A device gets it if `ingress` is its program at `tc`: it is at the bottom of its stack and has Ethernet headers. A bond
//! or VLAN device is left to `tc`, and its members have no hooks at all.

mod mode;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use tracing::{debug, info, warn};

pub use self::mode::Mode;
use super::load::Object;
use super::pin::PinFolder;
use super::sys;
use crate::host::netdev::{Netdev, XdpFeatures};
use crate::host::{Device, Hooks, Role, devices::Ingress, link::Kind};

/// The program for frames, and the devices that have it.
pub struct XdpHooks {
    mode: Mode,
    program: OwnedFd,
    pins: PinFolder,
    /// None if the kernel does not tell what drivers can do (before Linux 6.3).
    netdev: Option<Netdev>,
    /// Devices that were looked at, be it in vain.
    seen: BTreeSet<u32>,
}

impl XdpHooks {
    /// Loads the program, unless nobody is to have it. For the calling thread's network namespace; `folder` is the agent's
    /// in a BPF file system.
    pub fn load(mode: Mode, folder: &Path, object: &mut Object) -> Option<Self> {
        if mode == Mode::Off {
            return None;
        }
        let program = match object.load_xdp_program() {
            Ok(program) => program,
            Err(error) => {
                warn!(%error, "no XDP: all packets take the way through tc");
                return None;
            }
        };
        let netdev = Netdev::open().unwrap_or_else(|error| {
            warn!(%error, "cannot ask what drivers can do with XDP");
            None
        });
        Some(Self { mode, program, pins: PinFolder::existing(folder), netdev, seen: BTreeSet::new() })
    }

    /// Whether programs of other devices may send frames out of a device.
    pub fn may_send(&self, index: u32, hooks: &Hooks) -> bool {
        is_for(hooks) && self.features(index).is_some_and(|can| can.sends)
    }

    /// Attaches the program to a device, or removes it where it should not be. Nothing happens to a device that was
    /// looked at before.
    pub fn put(&mut self, device: &Device, hooks: &Hooks) {
        if !is_for(hooks) {
            self.remove(device);
        } else if self.seen.insert(device.index) {
            match (self.attach(device), self.mode) {
                (Ok(()), _) => info!(device = device.name, "XDP program attached to the driver"),
                (Err(reason), Mode::Native) => warn!(device = device.name, reason, "no XDP: packets go by tc alone"),
                (Err(reason), _) => info!(device = device.name, reason, "no XDP: packets go by tc alone"),
            }
        }
    }

    fn remove(&mut self, device: &Device) {
        self.seen.remove(&device.index);
        match self.pins.remove_xdp_link(device.index) {
            Ok(true) => info!(device = device.name, "XDP program removed"),
            Ok(false) => {}
            Err(error) => warn!(device = device.name, %error, "cannot remove the XDP program"),
        }
    }

    /// The device is gone.
    pub fn forget(&mut self, index: u32) {
        self.seen.remove(&index);
    }

    /// Attaches the program, or says why it cannot be.
    fn attach(&self, device: &Device) -> Result<(), String> {
        let pin = self.pins.xdp_link(device.index);
        self.check_driver(device)?;
        if pin.exists() {
            match sys::update_pinned_link(&pin, &self.program) {
                Ok(()) => return Ok(()),
                // Its device is gone, and another has the number now.
                Err(error) => debug!(%error, device = device.name, "pinned XDP link is of no use"),
            }
            self.pins.remove_xdp_link(device.index).map_err(|error| format!("remove the link of before: {error}"))?;
        }
        sys::pin_xdp_link(&self.program, device.index, &pin).map_err(|error| described(&error))
    }

    /// Whether the driver runs programs and also sends their frames. A veth does that only while its other end, about
    /// which nothing is told, has an XDP program as well.
    fn check_driver(&self, device: &Device) -> Result<(), String> {
        let features = self.features(device.index);
        match (device.kind == Kind::Veth, self.mode) {
            (true, Mode::Native) if features.is_some_and(|can| !can.sends) => {
                Err("the other end of this pair takes no frames: it needs an XDP program".to_owned())
            }
            (true, Mode::Auto | Mode::Off) => {
                Err("nothing tells whether the other end of a pair takes frames; --xdp native says that it does"
                    .to_owned())
            }
            _ if features.is_some_and(|can| !can.runs) => Err("the driver does not run XDP programs".to_owned()),
            _ => Ok(()),
        }
    }

    fn features(&self, index: u32) -> Option<XdpFeatures> {
        self.netdev.as_ref()?.xdp_features(index).ok()
    }
}

/// Whether a device with these hooks gets the program.
fn is_for(hooks: &Hooks) -> bool {
    hooks.role == Role::Node && hooks.ingress == Ingress::Ethernet
}

fn described(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EBUSY | Errno::EEXIST) => "another XDP program is there, and stays".to_owned(),
        Some(Errno::EOPNOTSUPP) => "the driver does not run XDP programs".to_owned(),
        _ => format!("the driver refused the program: {error}"),
    }
}
