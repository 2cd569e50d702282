//! Loading the kernel object, and finding the maps of an agent that ran before.
//!
//! Every map of [`schema::MAPS`] is pinned under its name in the agent's bpffs folder. A map that is pinned
//! there already is used as it is, so a new agent goes on with the tables and flows of the one before. Its
//! type, key and value must be what this version expects, and CONFIG must bear this version's layout number:
//! else nothing is loaded, and the error says what to do. Sizes are those of the pinned maps.
//!
//! Programs are loaded when somebody wants them: each takes the kernel's verifier a part of a second, and few nodes
//! have devices of all kinds.

mod refusal;

use self::refusal::Refusal;
use super::pod::Pod;
use aya::maps::{Array, HashMap, Map, MapData, MapInfo, MapType};
use aya::programs::{CgroupSockAddr, Program, ProgramInfo, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::{io, panic, thread};
use svclb_common::config::{Config, Sizes};
use svclb_common::schema::{self, Entries, Kind, LAYOUT, MAPS, Plain};
use thiserror::Error;

/// The object as built, empty if it could not be.
#[repr(align(8))]
struct Aligned<T: ?Sized>(T);
static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/svclb.o")));

/// The kernel object that this binary holds, as an ELF file; `None` if it was built without one.
pub fn object() -> Option<&'static [u8]> {
    (!OBJECT.0.is_empty()).then_some(&OBJECT.0)
}

/// Names of the programs for devices in the object.
pub const PROGRAMS: &[&str] =
    &["ingress", "ingress_l3", "ingress_stacked", "ingress_stacked_l3", "ingress_port", "egress", "egress_l3"];

/// Name of the program for frames, at XDP.
pub const XDP_PROGRAM: &str = "xdp";

/// Names of the programs for sockets; where each is attached is in the object.
pub const SOCKET_PROGRAMS: [&str; 8] =
    ["connect4", "connect6", "sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6", "getpeername4", "getpeername6"];

/// Why the object could not be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// This binary holds no object.
    #[error(
        "this svclb was built without its kernel object, as no compiler for BPF was there; \
         run `cargo xtask setup` and build it again"
    )]
    NoObject,
    /// The folder for pins cannot be made.
    #[error(
        "the pin folder {dir} cannot be made: {source}; is a bpf file system mounted there (mount -t bpf bpf /sys/fs/bpf)?"
    )]
    PinFolder {
        /// The folder.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A pinned map is of another version.
    #[error(
        "the pinned map {path} has {found}, this version of svclb needs {wanted}; \
         run `svclb cleanup --bpffs {dir}` (open connections through Services break) or go back to the version that made it"
    )]
    OtherLayout {
        /// The pin.
        path: PathBuf,
        /// Its folder.
        dir: PathBuf,
        /// What it is.
        found: String,
        /// What it should be.
        wanted: String,
    },
    /// A map cannot be opened or has another type than asked for.
    #[error("map {name}: {source}")]
    Map {
        /// Name of the map.
        name: String,
        /// Why.
        source: aya::maps::MapError,
    },
    /// The object has no such map or program.
    #[error("the kernel object has no {name}; it is of another version than this binary")]
    Absent {
        /// What was looked for.
        name: String,
    },
    /// The kernel refused the object.
    #[error("the kernel did not take the object: {0}")]
    Object(#[from] aya::EbpfError),
    /// The kernel refused a program.
    #[error("the kernel did not take the program {name}: {refusal}")]
    Program {
        /// Name of the program.
        name: String,
        /// Why, and what to do.
        refusal: Refusal,
    },
}

/// How the object is loaded.
#[derive(Debug)]
pub struct Options<'a> {
    /// Folder for pins; `None` pins nothing, for tests.
    pub bpffs: Option<&'a Path>,
    /// Sizes of maps that are not pinned yet.
    pub sizes: Sizes,
    /// Clock and random numbers come from the map TEST_ENV.
    pub test_mode: bool,
    /// Programs to load at once, of [`PROGRAMS`]; others by [`Object::load_programs`].
    pub programs: &'a [&'static str],
}

/// The loaded object. It keeps its maps open, because programs that are loaded later name them by the numbers of
/// these descriptors; who takes a map gets a descriptor of his own.
#[derive(Debug)]
pub struct Object {
    ebpf: Ebpf,
    sizes: Sizes,
}

impl Object {
    /// Loads maps and programs; adopts maps that are pinned in the folder.
    pub fn load(options: &Options<'_>) -> Result<Self, LoadError> {
        let bytes = object().ok_or(LoadError::NoObject)?;
        let mut sizes = options.sizes;
        if let Some(dir) = options.bpffs {
            std::fs::create_dir_all(dir).map_err(|source| LoadError::PinFolder { dir: dir.to_owned(), source })?;
            for info in MAPS {
                if let Some(entries) = check_pin(dir, info)?
                    && let Entries::Sized(field) = info.entries
                {
                    sizes.set(field, entries);
                }
            }
        }
        let test_mode = u32::from(options.test_mode);
        let paths: Vec<PathBuf> = MAPS.iter().filter_map(|info| options.bpffs.map(|dir| dir.join(info.name))).collect();
        let mut loader = EbpfLoader::new();
        loader.override_global("TEST_MODE", &test_mode, true);
        for (at, info) in MAPS.iter().enumerate() {
            let entries = match info.entries {
                Entries::Fixed(entries) => entries,
                Entries::Sized(field) => sizes.get(field),
            };
            loader.map_max_entries(info.name, entries);
            if let Some(path) = paths.get(at) {
                loader.map_pin_path(info.name, path.as_path());
            }
        }
        let ebpf = loader.load(bytes)?;
        let mut object = Self { ebpf, sizes };
        let mut refused = None;
        object.load_programs(options.programs, &mut |_, loaded| {
            if let Err(error) = loaded {
                refused.get_or_insert(error);
            }
        });
        refused.map_or(Ok(object), Err)
    }

    /// Loads programs, all at the same time, unless they are loaded already, and gives each to `done`.
    pub fn load_programs<'a>(
        &mut self,
        names: &[&'a str],
        done: &mut dyn FnMut(&'a str, Result<&mut SchedClassifier, LoadError>),
    ) {
        let mut wanted: Vec<&str> = names.to_vec();
        let loaded = thread::scope(|scope| {
            let mut at_work = Vec::new();
            for (own, program) in self.ebpf.programs_mut() {
                if let Some(at) = wanted.iter().position(|name| *name == own)
                    && let Program::SchedClassifier(program) = program
                {
                    let name = wanted.swap_remove(at);
                    at_work.push(scope.spawn(move || {
                        let loaded = if program.fd().is_ok() { Ok(()) } else { program.load() };
                        (name, loaded.map(|()| program))
                    }));
                }
            }
            let ended = at_work.into_iter().map(thread::ScopedJoinHandle::join);
            ended.map(|ended| ended.unwrap_or_else(|panic| panic::resume_unwind(panic))).collect::<Vec<_>>()
        });
        for name in wanted {
            done(name, Err(LoadError::Absent { name: name.to_owned() }));
        }
        for (name, loaded) in loaded {
            done(name, loaded.map_err(|error| LoadError::Program { name: name.to_owned(), refusal: error.into() }));
        }
    }

    /// Loads the programs for sockets, all at the same time.
    pub fn load_socket_programs(&mut self) -> Result<(), LoadError> {
        thread::scope(|scope| {
            let mut at_work = Vec::new();
            for (name, program) in self.ebpf.programs_mut() {
                if let Program::CgroupSockAddr(program) = program
                    && program.fd().is_err()
                {
                    let name = name.to_owned();
                    at_work.push(scope.spawn(move || {
                        program.load().map_err(|error| LoadError::Program { name, refusal: error.into() })
                    }));
                }
            }
            let ended: Vec<_> = at_work.into_iter().map(thread::ScopedJoinHandle::join).collect();
            ended.into_iter().try_for_each(|ended| ended.unwrap_or_else(|panic| panic::resume_unwind(panic)))
        })
    }

    /// A program for sockets by name.
    pub fn socket_program(&mut self, name: &str) -> Result<&mut CgroupSockAddr, LoadError> {
        match self.ebpf.program_mut(name) {
            Some(Program::CgroupSockAddr(program)) => Ok(program),
            _ => Err(LoadError::Absent { name: name.to_owned() }),
        }
    }

    /// Loads the program for frames.
    pub fn load_xdp_program(&mut self) -> Result<OwnedFd, LoadError> {
        let program = self.xdp_program()?;
        let loaded = if program.fd().is_ok() { Ok(()) } else { program.load() };
        let fd = loaded.and_then(|()| Ok(program.fd()?.as_fd().try_clone_to_owned()?));
        fd.map_err(|error| LoadError::Program { name: XDP_PROGRAM.to_owned(), refusal: error.into() })
    }

    /// The program for frames.
    pub fn xdp_program(&mut self) -> Result<&mut Xdp, LoadError> {
        match self.ebpf.program_mut(XDP_PROGRAM) {
            Some(Program::Xdp(program)) => Ok(program),
            _ => Err(LoadError::Absent { name: XDP_PROGRAM.to_owned() }),
        }
    }

    /// What the kernel says of a loaded program.
    pub fn program_info(&self, name: &str) -> Result<ProgramInfo, LoadError> {
        let program = self.ebpf.program(name).ok_or_else(|| LoadError::Absent { name: name.to_owned() })?;
        program.info().map_err(|error| LoadError::Program { name: name.to_owned(), refusal: error.into() })
    }

    /// Sizes of the maps as they are: of pinned maps theirs, else those asked for.
    pub const fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// A program by name.
    pub fn program(&mut self, name: &str) -> Result<&mut SchedClassifier, LoadError> {
        match self.ebpf.program_mut(name) {
            Some(Program::SchedClassifier(program)) => Ok(program),
            _ => Err(LoadError::Absent { name: name.to_owned() }),
        }
    }

    /// A map of the object, under its type.
    pub fn take_map<M>(&mut self, name: &str) -> Result<M, LoadError>
    where
        M: TryFrom<Map, Error = aya::maps::MapError>,
    {
        let failed = |source| LoadError::Map { name: name.to_owned(), source };
        let map = self.ebpf.map(name);
        let Some(
            Map::Array(data) | Map::PerCpuArray(data) | Map::HashMap(data) | Map::LruHashMap(data) | Map::LpmTrie(data),
        ) = map
        else {
            return Err(LoadError::Absent { name: name.to_owned() });
        };
        let descriptor = data.fd().as_fd().try_clone_to_owned();
        let descriptor = descriptor.map_err(|error| failed(aya::maps::MapError::IoError(error)))?;
        let map = MapData::from_fd(descriptor).and_then(Map::from_map_data).map_err(failed)?;
        M::try_from(map).map_err(failed)
    }

    /// An array map.
    pub fn take_array<T: Plain>(&mut self, name: &str) -> Result<Array<MapData, Pod<T>>, LoadError> {
        self.take_map(name)
    }

    /// A hash map.
    pub fn take_hash<K: Plain, V: Plain>(&mut self, name: &str) -> Result<HashMap<MapData, Pod<K>, Pod<V>>, LoadError> {
        self.take_map(name)
    }
}

/// Opens a pinned map without the object, for commands that only look.
pub fn open_pinned<M>(dir: &Path, name: &str) -> Result<M, LoadError>
where
    M: TryFrom<Map, Error = aya::maps::MapError>,
{
    let failed = |source| LoadError::Map { name: name.to_owned(), source };
    let data = MapData::from_pin(dir.join(name)).map_err(failed)?;
    let map = Map::from_map_data(data).map_err(failed)?;
    M::try_from(map).map_err(failed)
}

/// Checks a pin against the schema. Its number of entries if there is one.
fn check_pin(dir: &Path, info: &schema::MapInfo) -> Result<Option<u32>, LoadError> {
    let path = dir.join(info.name);
    if !path.exists() {
        return Ok(None);
    }
    let pinned = MapInfo::from_pin(&path).map_err(|source| LoadError::Map { name: info.name.to_owned(), source })?;
    let wanted_type = match info.kind {
        Kind::Array => MapType::Array,
        Kind::PerCpuArray => MapType::PerCpuArray,
        Kind::Hash | Kind::GrowingHash => MapType::Hash,
        Kind::LruHash => MapType::LruHash,
        Kind::LpmTrie => MapType::LpmTrie,
    };
    let found_type = pinned.map_type().map_err(|source| LoadError::Map { name: info.name.to_owned(), source })?;
    let (key, value) = (pinned.key_size() as usize, pinned.value_size() as usize);
    if found_type != wanted_type || key != info.key || value != info.value {
        return Err(LoadError::OtherLayout {
            path,
            dir: dir.to_owned(),
            found: format!("type {found_type:?}, {key} bytes of key and {value} of value"),
            wanted: format!("type {wanted_type:?}, {} and {}", info.key, info.value),
        });
    }
    if info.name == "CONFIG" {
        check_layout(dir, path)?;
    }
    Ok(Some(pinned.max_entries()))
}

/// Checks the layout number of a pinned CONFIG; 0 is one that nobody wrote yet.
fn check_layout(dir: &Path, path: PathBuf) -> Result<(), LoadError> {
    let config: Array<MapData, Pod<Config>> = open_pinned(dir, "CONFIG")?;
    let found = config.get(&0, 0).map_err(|source| LoadError::Map { name: String::from("CONFIG"), source })?.0.layout;
    if found == 0 || found == LAYOUT {
        return Ok(());
    }
    Err(LoadError::OtherLayout {
        path,
        dir: dir.to_owned(),
        found: format!("layout {found}"),
        wanted: format!("layout {LAYOUT}"),
    })
}
