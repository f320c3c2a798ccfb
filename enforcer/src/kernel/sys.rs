//! The commands of `bpf(2)` that Aya keeps to itself, and the system calls on processes that the libraries lack.
//!
//! Each command's attributes are a struct of exactly the fields it needs; the kernel takes the rest for zero.
//! All `unsafe` of the kernel side of the daemon is here.

use std::{
    ffi::CString,
    io,
    marker::PhantomData,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

mod command {
    pub(super) const MAP_CREATE: libc::c_long = 0;
    pub(super) const MAP_LOOKUP_ELEM: libc::c_long = 1;
    pub(super) const MAP_UPDATE_ELEM: libc::c_long = 2;
    pub(super) const MAP_DELETE_ELEM: libc::c_long = 3;
    pub(super) const PROG_LOAD: libc::c_long = 5;
    pub(super) const OBJ_GET: libc::c_long = 7;
    pub(super) const PROG_GET_FD_BY_ID: libc::c_long = 13;
    pub(super) const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
    pub(super) const MAP_GET_FD_BY_ID: libc::c_long = 14;
    pub(super) const MAP_LOOKUP_BATCH: libc::c_long = 24;
    pub(super) const MAP_UPDATE_BATCH: libc::c_long = 26;
}

/// What the kernel says to a command that a map or a kernel does not have; not an errno of user space.
const ENOTSUPP: i32 = 524;

/// # Safety
///
/// `attributes` are those of the command, and each address in them points to as many bytes as the command
/// reads or writes there, for as long as the call takes.
unsafe fn bpf<A: IntoBytes + Immutable>(command: libc::c_long, attributes: &A) -> io::Result<i32> {
    // SAFETY: the attributes and their exact size; what they point to is the caller's contract.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// The same for a command that the kernel answers in the attributes.
///
/// # Safety
///
/// As for [`bpf`].
unsafe fn bpf_out<A: FromBytes + IntoBytes>(command: libc::c_long, attributes: &mut A) -> io::Result<i32> {
    // SAFETY: the attributes and their exact size, of which any bytes are a value; the rest is the caller's contract.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// # Safety
///
/// `number` is a descriptor that the kernel has just given to this process.
unsafe fn own(number: i32) -> OwnedFd {
    // SAFETY: the caller's contract.
    unsafe { OwnedFd::from_raw_fd(number) }
}

fn address<T: ?Sized>(of: *const T) -> u64 {
    of.cast::<u8>() as u64
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Element {
    map: u32,
    zero: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The first four bytes of the value at index 0 of an array whose values have some other size.
pub(super) fn first_word(map: BorrowedFd<'_>) -> io::Result<u32> {
    let info = map_info(map)?;
    if info.key_bytes != 4 || info.value_bytes < 4 || info.max_entries == 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "not an array of values with a number in front",
        ));
    }
    let mut value = vec![0_u8; info.value_bytes as usize];
    let key = 0_u32;
    let attributes = Element {
        map: map.as_raw_fd() as u32,
        zero: 0,
        key: address(&raw const key),
        value: address(value.as_mut_ptr()),
        flags: 0,
    };
    // SAFETY: the key has four bytes and `value` as many as the map's values.
    unsafe { bpf(command::MAP_LOOKUP_ELEM, &attributes) }?;
    Ok(value.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes)))
}

/// What an update demands of the element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    /// Nothing.
    Any = 0,
    /// That it is there.
    Exists = 2,
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Batch {
    cursor_in: u64,
    cursor_out: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Sets many elements by one system call, or one by one where the kernel has no batches for the map.
pub(super) fn update_all<K, V>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> io::Result<()>
where
    K: IntoBytes + Immutable,
    V: IntoBytes + Immutable,
{
    sizes::<K, V>(map)?;
    let mut done = keys.len().min(values.len()) as u32;
    if done == 0 {
        return Ok(());
    }
    let attributes = Batch {
        cursor_in: 0,
        cursor_out: 0,
        keys: address(keys),
        values: address(values),
        count: done,
        map: map.as_raw_fd() as u32,
        element_flags: 0,
        flags: 0,
    };
    // SAFETY: both slices hold at least `count` elements of the map's sizes. The kernel writes the number of
    // elements it took into the attributes, which nothing reads afterwards.
    match unsafe { bpf(command::MAP_UPDATE_BATCH, &attributes) } {
        Ok(_) => return Ok(()),
        Err(error) if matches!(error.raw_os_error(), Some(ENOTSUPP | libc::EOPNOTSUPP)) => done = 0,
        Err(error) => return Err(error),
    }
    for (key, value) in keys.iter().zip(values).skip(done as usize) {
        let attributes = Element {
            map: map.as_raw_fd() as u32,
            zero: 0,
            key: address(key),
            value: address(value),
            flags: 0,
        };
        // SAFETY: as above, for one element.
        unsafe { bpf(command::MAP_UPDATE_ELEM, &attributes) }?;
    }
    Ok(())
}

/// All elements of an array, by one system call.
pub(super) fn read_all<V>(array: BorrowedFd<'_>) -> io::Result<Vec<V>>
where
    V: FromBytes + FromZeros + Clone,
{
    sizes::<u32, V>(array)?;
    let entries = map_info(array)?.max_entries;
    let mut keys = vec![0_u32; entries as usize];
    let mut values = vec![V::new_zeroed(); entries as usize];
    let mut cursor = 0_u32;
    let attributes = Batch {
        cursor_in: 0,
        cursor_out: address(&raw mut cursor),
        keys: address(keys.as_mut_ptr()),
        values: address(values.as_mut_ptr()),
        count: entries,
        map: array.as_raw_fd() as u32,
        element_flags: 0,
        flags: 0,
    };
    // SAFETY: both vectors have room for `count` elements of the map's sizes, and any bytes are a `V`. The kernel writes
    // the number of elements it gave into the attributes, which nothing reads afterwards: an array has all its elements.
    match unsafe { bpf(command::MAP_LOOKUP_BATCH, &attributes) } {
        // Said at the end of a map, with all elements given.
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(values),
    }
}

/// A map whose keys and values are known to have the sizes of `K` and `V`.
///
/// Where the kernel takes a descriptor for a key, as in the storage of tasks, `K` is its number.
#[derive(Debug)]
pub(super) struct TypedMap<K, V> {
    map: OwnedFd,
    of: PhantomData<fn() -> (K, V)>,
}

impl<K, V> TypedMap<K, V> {
    /// Fails with `InvalidData` for a map of other sizes.
    pub(super) fn new(map: OwnedFd) -> io::Result<Self> {
        sizes::<K, V>(map.as_fd())?;
        Ok(Self { map, of: PhantomData })
    }

    fn element(&self, key: &K, value: u64, flags: u64) -> Element {
        Element { map: self.map.as_raw_fd() as u32, zero: 0, key: address(key), value, flags }
    }

    /// The value of a key; nothing where there is none.
    pub(super) fn lookup(&self, key: &K) -> io::Result<Option<V>>
    where
        K: IntoBytes + Immutable,
        V: FromBytes + FromZeros,
    {
        let mut value = V::new_zeroed();
        let attributes = self.element(key, address(&raw mut value), 0);
        // SAFETY: the map's keys and values have the sizes of `K` and `V`, and any bytes are a `V`.
        match unsafe { bpf(command::MAP_LOOKUP_ELEM, &attributes) } {
            Ok(_) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets an element.
    pub(super) fn update(&self, key: &K, value: &V, demand: Demand) -> io::Result<()>
    where
        K: IntoBytes + Immutable,
        V: IntoBytes + Immutable,
    {
        let attributes = self.element(key, address(value), demand as u64);
        // SAFETY: the map's keys and values have the sizes of `K` and `V`.
        unsafe { bpf(command::MAP_UPDATE_ELEM, &attributes) }.map(drop)
    }

    /// Removes an element; there may be none.
    pub(super) fn delete(&self, key: &K) -> io::Result<()>
    where
        K: IntoBytes + Immutable,
    {
        let attributes = self.element(key, 0, 0);
        // SAFETY: the map's keys have the size of `K`; a deletion has no value.
        match unsafe { bpf(command::MAP_DELETE_ELEM, &attributes) } {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            _ => Ok(()),
        }
    }

    /// All elements of a hash map, `chunk` of them with each system call. One that is there all the while is told of
    /// once.
    pub(super) fn entries(&self, chunk: usize) -> io::Result<Vec<(K, V)>>
    where
        K: FromBytes + FromZeros + Clone,
        V: FromBytes + FromZeros + Clone,
    {
        let mut all = Vec::new();
        let (mut keys, mut values) = (vec![K::new_zeroed(); chunk], vec![V::new_zeroed(); chunk]);
        let mut cursor: Option<u32> = None;
        loop {
            let (from, mut to) = (cursor.unwrap_or(0), 0_u32);
            let mut attributes = Batch {
                cursor_in: if cursor.is_some() { address(&raw const from) } else { 0 },
                cursor_out: address(&raw mut to),
                keys: address(keys.as_mut_ptr()),
                values: address(values.as_mut_ptr()),
                count: keys.len() as u32,
                map: self.map.as_raw_fd() as u32,
                element_flags: 0,
                flags: 0,
            };
            // SAFETY: both vectors have room for `count` elements of the map's sizes, and any bytes are a `K` or a `V`; the
            // cursor of a hash map is the number of a bucket, four bytes.
            let read = unsafe { bpf_out(command::MAP_LOOKUP_BATCH, &mut attributes) };
            let count = (attributes.count as usize).min(keys.len());
            let ended = match read {
                Ok(_) => false,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                // A bucket that the room is too small for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    let room = keys.len() * 2;
                    keys.resize(room, K::new_zeroed());
                    values.resize(room, V::new_zeroed());
                    continue;
                }
                Err(error) => return Err(error),
            };
            all.extend(keys.iter().take(count).cloned().zip(values.iter().take(count).cloned()));
            if ended {
                return Ok(all);
            }
            cursor = Some(to);
        }
    }
}

/// Opens a map by its id, which is what an array of maps says of its elements.
pub(super) fn map_by_id(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: no address is in the attributes; the descriptor is fresh.
    unsafe { Ok(own(bpf(command::MAP_GET_FD_BY_ID, &ById { id, next: 0, flags: 0 })?)) }
}

/// What the kernel says about a map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct MapInfo {
    pub(super) kind: u32,
    pub(super) id: u32,
    pub(super) key_bytes: u32,
    pub(super) value_bytes: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
}

/// What the kernel says about a link to a cgroup.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct CgroupLinkInfo {
    pub(super) kind: u32,
    pub(super) id: u32,
    pub(super) program: u32,
    zero: u32,
    /// 0 once the cgroup is gone.
    pub(super) cgroup: u64,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Info {
    object: u32,
    length: u32,
    info: u64,
}

fn info<T: FromBytes + FromZeros + IntoBytes>(object: BorrowedFd<'_>) -> io::Result<T> {
    let mut out = T::new_zeroed();
    let attributes = Info {
        object: object.as_raw_fd() as u32,
        length: size_of::<T>() as u32,
        info: address(&raw mut out),
    };
    // SAFETY: the kernel writes at most `length` bytes to `out`, and any bytes are a `T`.
    unsafe { bpf(command::OBJ_GET_INFO_BY_FD, &attributes) }?;
    Ok(out)
}

pub(super) fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    info(map)
}

pub(super) fn cgroup_link_info(link: BorrowedFd<'_>) -> io::Result<CgroupLinkInfo> {
    info(link)
}

fn sizes<K, V>(map: BorrowedFd<'_>) -> io::Result<()> {
    let info = map_info(map)?;
    if (info.key_bytes as usize, info.value_bytes as usize) == (size_of::<K>(), size_of::<V>()) {
        return Ok(());
    }
    let message = format!(
        "a map with keys of {} bytes and values of {}, expected {} and {}",
        info.key_bytes,
        info.value_bytes,
        size_of::<K>(),
        size_of::<V>()
    );
    Err(io::Error::new(io::ErrorKind::InvalidData, message))
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Get {
    path: u64,
    zero: u64,
}

/// Opens a pinned object.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a string with its terminator; the descriptor is fresh.
    unsafe { Ok(own(bpf(command::OBJ_GET, &Get { path: address(path.as_ptr()), zero: 0 })?)) }
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Create {
    kind: u32,
    key_bytes: u32,
    value_bytes: u32,
    max_entries: u32,
    flags: u32,
    inner: u32,
}

const ARRAY: u32 = 2;
const ARRAY_OF_MAPS: u32 = 12;

fn create(kind: u32, inner: u32) -> io::Result<OwnedFd> {
    let attributes = Create { kind, key_bytes: 4, value_bytes: 4, max_entries: 1, flags: 0, inner };
    // SAFETY: nothing in these attributes is an address; the descriptor is fresh.
    unsafe { Ok(own(bpf(command::MAP_CREATE, &attributes)?)) }
}

/// Waits until every program that is running now has ended.
///
/// An update of a map of maps from user space does that before it returns: `maybe_wait_bpf_programs` in
/// `kernel/bpf/syscall.c` calls `synchronize_rcu` for such maps, since 4.19, so that whoever has replaced an
/// inner map knows that nobody uses the old one. The map here is there only for this.
#[derive(Debug)]
pub(super) struct Grace {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl Grace {
    pub(super) fn new() -> io::Result<Self> {
        let inner = create(ARRAY, 0)?;
        Ok(Self { outer: create(ARRAY_OF_MAPS, inner.as_raw_fd() as u32)?, inner })
    }

    pub(super) fn wait(&self) -> io::Result<()> {
        update_all(self.outer.as_fd(), &[0_u32], &[self.inner.as_raw_fd() as u32])
    }
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Load {
    kind: u32,
    instructions: u32,
    code: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
    btf: u32,
    function_bytes: u32,
    functions: u64,
    function_count: u32,
    line_bytes: u32,
    lines: u64,
    line_count: u32,
    attach_id: u32,
}

/// The kinds of programs that are probed.
#[derive(Clone, Copy, Debug)]
pub(super) enum ProgramKind {
    /// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR` for `connect4`.
    CgroupConnect,
    /// `BPF_PROG_TYPE_LSM`, on the function with this id.
    Lsm(u32),
    /// `BPF_PROG_TYPE_TRACING` on the tracepoint whose typedef has this id.
    Tracepoint(u32),
    /// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR` that sends its task a signal.
    CgroupSignal,
}

/// Loads the smallest program of a kind and lets it go again.
pub(super) fn try_program(kind: ProgramKind) -> io::Result<()> {
    // r0 = 0 (what these kinds may return), exit.
    const RETURN_ZERO: &[u64] = &[0x0000_0000_0000_00b7, 0x0000_0000_0000_0095];
    const RETURN_ONE: &[u64] = &[0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];
    // r1 = 19, bpf_send_signal_thread, and the same; it is loaded only.
    const SIGNAL: &[u64] =
        &[0x0000_0013_0000_01b7, 0x0000_0075_0000_0085, 0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];
    const LICENCE: &std::ffi::CStr = c"GPL";
    let (kind, attach_type, attach_id, code) = match kind {
        ProgramKind::CgroupConnect => (18, 10, 0, RETURN_ONE),
        ProgramKind::Lsm(id) => (29, 27, id, RETURN_ZERO),
        ProgramKind::Tracepoint(id) => (26, 23, id, RETURN_ZERO),
        ProgramKind::CgroupSignal => (18, 10, 0, SIGNAL),
    };
    let attributes = Load {
        kind,
        instructions: code.len() as u32,
        code: address(code.as_ptr()),
        licence: address(LICENCE.as_ptr()),
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"enforcer_probe\0\0",
        interface: 0,
        attach_type,
        btf: 0,
        function_bytes: 0,
        functions: 0,
        function_count: 0,
        line_bytes: 0,
        lines: 0,
        line_count: 0,
        attach_id,
    };
    // SAFETY: as many instructions as it says and a string with its terminator; the descriptor is fresh.
    unsafe { own(bpf(command::PROG_LOAD, &attributes)?) };
    Ok(())
}

/// A descriptor for a process, which cannot come to mean another one.
pub(crate) fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: a system call without addresses; the descriptor is fresh, and close-on-exec by itself.
    unsafe {
        let number = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if number < 0 { Err(io::Error::last_os_error()) } else { Ok(own(number as i32)) }
    }
}

/// Sends a signal to a process.
pub(crate) fn signal(process: BorrowedFd<'_>, signal: nix::sys::signal::Signal) -> io::Result<()> {
    let nothing = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open while it is borrowed, and no address is passed.
    let result =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal as i32, nothing, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Who runs before all that is not of real time, with its priority (`SCHED_FIFO`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// The thread that holds.
    Keeper = 1,
    /// The one that tells that it gets on, also while it does.
    Heart = 2,
}

/// Has the calling thread run before all that is not of real time.
pub(crate) fn run_first(who: First) -> io::Result<()> {
    /// As the kernel has it; that of a C library may be longer.
    #[repr(C)]
    struct Parameters {
        priority: i32,
    }
    let parameters = Parameters { priority: who as i32 };
    // SAFETY: the parameters are live through the call. The C library's own function may be one that only fails.
    let result =
        unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_FIFO, &raw const parameters) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What the kernel says about a program, up to what is needed here.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct ProgramInfo {
    kind: u32,
    pub(super) id: u32,
    tag: [u8; 8],
    jited_bytes: u32,
    translated_bytes: u32,
    jited: u64,
    translated: u64,
    load_time: u64,
    user: u32,
    maps: u32,
    map_ids: u64,
    name: [u8; 16],
    interface: u32,
    gpl: u32,
    netns: [u64; 2],
    symbols: u32,
    functions: u32,
    symbol_addresses: u64,
    function_bytes: u64,
    btf: u32,
    function_info_bytes: u32,
    function_info: u64,
    function_infos: u32,
    lines: u32,
    line_info: u64,
    jited_line_info: u64,
    jited_lines: u32,
    line_bytes: u32,
    jited_line_bytes: u32,
    tags: u32,
    tag_addresses: u64,
    pub(super) run_time_ns: u64,
    pub(super) runs: u64,
    pub(super) recursion_misses: u64,
    pub(super) verified_instructions: u32,
    attach_btf: u32,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

pub(super) fn program_info(id: u32) -> io::Result<ProgramInfo> {
    // SAFETY: nothing in these attributes is an address; the descriptor is fresh.
    let program = unsafe { own(bpf(command::PROG_GET_FD_BY_ID, &ById { id, next: 0, flags: 0 })?) };
    info(program.as_fd())
}
