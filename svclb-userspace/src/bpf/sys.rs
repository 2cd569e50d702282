//! Calls of `bpf(2)` that aya lacks, and one of `getsockopt(2)`.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use svclb_common::schema::Plain;

/// `BPF_OBJ_GET`.
const OBJECT_GET: i32 = 7;
/// `BPF_LINK_UPDATE`.
const LINK_UPDATE: i32 = 29;
/// `BPF_MAP_LOOKUP_BATCH`.
const LOOKUP_BATCH: i32 = 24;
/// `BPF_MAP_UPDATE_BATCH`.
const UPDATE_BATCH: i32 = 26;
/// `BPF_F_LOCK`: take the value's spin lock while copying.
pub const LOCK: u64 = 4;

/// The `batch` member of the kernel's `union bpf_attr`.
#[expect(clippy::struct_field_names, reason = "the kernel's names")]
#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

fn batch(command: i32, attributes: &mut Batch) -> io::Result<()> {
    // SAFETY: the pointers in the attributes are to buffers that the callers below hold for the time of the
    // call, of `count` elements each.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<Batch>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Reads all values of an array map, each with its lock held if `locked`. Cost: 0.5 s for a million
/// buckets.
pub fn read_array<T: Plain>(map: impl AsFd, entries: u32, locked: bool) -> io::Result<Vec<T>> {
    const CHUNK: u32 = 4096;
    let mut all = Vec::with_capacity(entries as usize);
    let mut keys = vec![0u32; CHUNK as usize];
    let mut values: Vec<T> = vec![T::new_zeroed(); CHUNK as usize];
    let mut cursor = 0u32;
    while (all.len() as u32) < entries {
        let started = !all.is_empty();
        let mut next = 0u32;
        let mut attributes = Batch {
            in_batch: if started { (&raw const cursor) as u64 } else { 0 },
            out_batch: (&raw mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: CHUNK,
            map_fd: map.as_fd().as_raw_fd().cast_unsigned(),
            elem_flags: if locked { LOCK } else { 0 },
            flags: 0,
        };
        let ended = match batch(LOOKUP_BATCH, &mut attributes) {
            Ok(()) => false,
            // The end of the map; what was read counts.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        all.extend_from_slice(&values[..attributes.count as usize]);
        cursor = next;
        if ended {
            break;
        }
    }
    Ok(all)
}

/// Writes many entries at once: a fifth of the time of single calls. On an error the entries before the failing
/// one are written; their number is returned with the error.
///
/// # Panics
/// If there are not as many values as keys.
pub fn update_batch<K: Plain, V: Plain>(map: impl AsFd, keys: &[K], values: &[V]) -> Result<(), (usize, io::Error)> {
    assert_eq!(keys.len(), values.len(), "as many values as keys");
    if keys.is_empty() {
        return Ok(());
    }
    let mut attributes = Batch {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len() as u32,
        map_fd: map.as_fd().as_raw_fd().cast_unsigned(),
        ..Batch::default()
    };
    batch(UPDATE_BATCH, &mut attributes).map_err(|error| {
        // A call that fails before its first entry leaves the number as it was.
        let done = attributes.count as usize;
        (if done == keys.len() { 0 } else { done }, error)
    })
}

/// The `obj_get` member of the kernel's `union bpf_attr`.
#[repr(C)]
struct ObjectGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The `link_update` member.
#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Puts a program into a pinned link, in place of the one that is there. Who comes by meets the old one or the new.
pub fn update_pinned_link(pin: &Path, program: impl AsFd) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut get = ObjectGet { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the pointers are to a string and a struct that live until the call returns, and the size is the struct's.
    let got = unsafe { libc::syscall(libc::SYS_bpf, OBJECT_GET, &raw mut get, size_of::<ObjectGet>()) };
    let descriptor = i32::try_from(got).ok().filter(|descriptor| *descriptor >= 0);
    let descriptor = descriptor.ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just given it to us alone.
    let link = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let mut update = LinkUpdate {
        link_fd: link.as_raw_fd().cast_unsigned(),
        new_prog_fd: program.as_fd().as_raw_fd().cast_unsigned(),
        flags: 0,
        old_prog_fd: 0,
    };
    // SAFETY: the pointer is to a struct that lives until the call returns, and the size is the struct's.
    let updated = unsafe { libc::syscall(libc::SYS_bpf, LINK_UPDATE, &raw mut update, size_of::<LinkUpdate>()) };
    if updated < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The kernel's number of the calling thread's network namespace, which no other ever has, and which is never 0.
pub fn namespace_cookie() -> io::Result<u64> {
    /// `SO_NETNS_COOKIE`.
    const NAMESPACE_COOKIE: i32 = 71;
    let socket = UnixDatagram::unbound()?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the pointers are to a value and its length, which live until the call returns.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            NAMESPACE_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}
