//! The wrapper under which shared types cross into maps.
//!
//! aya reads and writes map entries of types that implement its trait `Pod`. svclb-common does not know
//! aya, so its types get the trait through one wrapper, bounded by [`Plain`]: no padding, valid for any
//! bytes.

use svclb_common::schema::Plain;

/// A shared type as an entry of a map.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Pod<T>(pub T);

// SAFETY: `Plain` is given only to types without padding (their sizes are checked when svclb-common is
// compiled) that are valid for any bytes (`FromBytes`); the wrapper is transparent.
unsafe impl<T: Plain> aya::Pod for Pod<T> {}
