//! Calls of `bpf(2)` that aya lacks, and one of `getsockopt(2)`.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use svclb_common::schema::Plain;

/// `BPF_OBJ_PIN`.
const OBJECT_PIN: i32 = 6;
/// `BPF_OBJ_GET`.
const OBJECT_GET: i32 = 7;
/// `BPF_LINK_CREATE`.
const LINK_CREATE: i32 = 28;
/// `BPF_LINK_UPDATE`.
const LINK_UPDATE: i32 = 29;
/// `BPF_LINK_DETACH`.
const LINK_DETACH: i32 = 34;
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
    // call, of `count` elements each (in a per-CPU map, for each CPU).
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

/// Reads all numbers of a per-CPU array map, each summed over the CPUs. Cost: one call, where one for each number
/// takes ten times as long.
pub fn read_sums(map: impl AsFd, entries: u32) -> io::Result<Vec<u64>> {
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
    let mut keys = vec![0u32; entries as usize];
    let mut values = vec![0u64; entries as usize * cpus];
    let mut next = 0u32;
    let mut attributes = Batch {
        out_batch: (&raw mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: entries,
        map_fd: map.as_fd().as_raw_fd().cast_unsigned(),
        ..Batch::default()
    };
    match batch(LOOKUP_BATCH, &mut attributes) {
        // It ends with the map.
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(values.chunks(cpus).map(|each| each.iter().sum()).collect()),
    }
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

/// The member of the kernel's `union bpf_attr` for pins.
#[repr(C)]
struct ObjectPin {
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
    let link = open_pinned_link(pin)?;
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

/// Opens a pinned link.
fn open_pinned_link(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut get = ObjectPin { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the pointers are to a string and a struct that live until the call returns, and the size is the struct's.
    owned(unsafe { libc::syscall(libc::SYS_bpf, OBJECT_GET, &raw mut get, size_of::<ObjectPin>()) })
}

/// Takes the program of a pinned link off, at once: without the pin alone the kernel does so when it finds the time.
pub fn detach_pinned_link(pin: &Path) -> io::Result<()> {
    let link = open_pinned_link(pin)?;
    let mut detach = [link.as_raw_fd().cast_unsigned(), 0];
    // SAFETY: the pointer is to an array that lives until the call returns, and the size is the array's.
    let detached = unsafe { libc::syscall(libc::SYS_bpf, LINK_DETACH, &raw mut detach, size_of_val(&detach)) };
    if detached < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A descriptor that a call has returned.
fn owned(returned: libc::c_long) -> io::Result<OwnedFd> {
    let descriptor = i32::try_from(returned).ok().filter(|descriptor| *descriptor >= 0);
    let descriptor = descriptor.ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just given it to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// The `link_create` member.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a program to the driver of a device by a link, and pins that. aya would take another way than a link, which
/// ends with the agent, without saying so.
pub fn pin_xdp_link(program: impl AsFd, device: u32, pin: &Path) -> io::Result<()> {
    /// `BPF_XDP`, and `XDP_FLAGS_DRV_MODE`.
    const XDP: u32 = 37;
    const DRIVER: u32 = 1 << 2;
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let prog_fd = program.as_fd().as_raw_fd().cast_unsigned();
    let mut create = LinkCreate { prog_fd, target_ifindex: device, attach_type: XDP, flags: DRIVER };
    // SAFETY: the pointer is to a struct that lives until the call returns, and the size is the struct's.
    let link = owned(unsafe { libc::syscall(libc::SYS_bpf, LINK_CREATE, &raw mut create, size_of::<LinkCreate>()) })?;
    let bpf_fd = link.as_raw_fd().cast_unsigned();
    let mut pin = ObjectPin { pathname: path.as_ptr() as u64, bpf_fd, file_flags: 0 };
    // SAFETY: the pointers are to a string and a struct that live until the call returns, and the size is the struct's.
    let pinned = unsafe { libc::syscall(libc::SYS_bpf, OBJECT_PIN, &raw mut pin, size_of::<ObjectPin>()) };
    if pinned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
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
