//! Parts of `netns_devices.rs`.

mod hooker;
mod hooks;
pub(crate) mod told;
