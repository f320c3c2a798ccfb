//! Steps with files and programs. Each prints `ok`, the name of the error, or what the step is about.
//!
//! A step is one argument: a verb and what it is done to, as in `read /etc/passwd`.

use std::fs;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, mknod};

use super::Came;
use crate::sys::{close, compat, open_at, path, try_open};

/// `OPEN_TREE_CLONE`, <linux/mount.h>.
const OPEN_TREE_CLONE: i32 = 1;

/// Does what a verb says; nothing for a verb of another family.
pub(super) fn act(verb: &str, arguments: &[&str]) -> Option<Came> {
    let object = arguments.join(" ");
    Some(match verb {
        "exec" => Ok(exec(&object)),
        "daemon" => Ok(daemon(&object)),
        "read-32" => return Some(open_32(compat::OPEN, &object, libc::O_RDONLY).map(|()| "ok".into())),
        "creat-32" => return Some(open_32(compat::CREAT, &object, 0o644).map(|()| "ok".into())),
        "exec-32" => Ok(exec_32(&object)),
        "inline" => Ok(by_uring(&object, libc::O_RDONLY, Opener::Caller)),
        "worker" => Ok(by_uring(&object, libc::O_RDONLY, Opener::Worker)),
        "polled" => Ok(by_uring(&object, libc::O_RDONLY, Opener::Poller)),
        "worker-create" => Ok(by_uring(&object, libc::O_WRONLY | libc::O_CREAT, Opener::Worker)),
        "worker-create-both" => Ok(by_uring(&object, libc::O_RDWR | libc::O_CREAT, Opener::Worker)),
        _ => return take(verb, &object).map(|taken| taken.map(|()| "ok".into())),
    })
}

fn take(verb: &str, object: &str) -> Option<Result<(), Errno>> {
    Some(match verb {
        "read" => try_open(object, libc::O_RDONLY),
        "write" => try_open(object, libc::O_WRONLY),
        "read-write" => try_open(object, libc::O_RDWR),
        "truncate" => try_open(object, libc::O_RDONLY | libc::O_TRUNC),
        "create" => try_open(object, libc::O_WRONLY | libc::O_CREAT),
        "create-new" => try_open(object, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL),
        "create-to-read" => try_open(object, libc::O_RDONLY | libc::O_CREAT),
        "create-both" => try_open(object, libc::O_RDWR | libc::O_CREAT),
        "create-new-both" => try_open(object, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL),
        "openat2-create" => openat2(object, libc::O_WRONLY | libc::O_CREAT),
        "openat2-create-both" => openat2(object, libc::O_RDWR | libc::O_CREAT),
        "open-create" => by_open(object, libc::O_WRONLY | libc::O_CREAT),
        "open-create-both" => by_open(object, libc::O_RDWR | libc::O_CREAT),
        "creat" => by_creat(object),
        "mknod" => mknod(object, SFlag::S_IFREG, Mode::from_bits_truncate(0o644), 0),
        "fifo" => mknod(object, SFlag::S_IFIFO, Mode::from_bits_truncate(0o644), 0),
        "chdir" => nix::unistd::chdir(object),
        "chroot" => nix::unistd::chroot(object),
        "descend" => descend(object),
        "again" => again(object, libc::O_RDONLY),
        "again-to-write" => again(object, libc::O_WRONLY),
        "beside" => beside(object),
        "detached" => detached(object),
        "unmounted" => unmounted(object),
        "memory" => memory(0),
        "huge-memory" => memory(libc::MFD_HUGETLB),
        "queue" => queue(object),
        "pipe" => pipe(),
        "container" => container(object),
        "wait" => wait(object),
        _ => return None,
    })
}

/// Opens by `openat2`, which the C library has no function for.
fn openat2(object: &str, flags: i32) -> Result<(), Errno> {
    let name = path(object);
    // SAFETY: all zero is a value of it.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    (how.flags, how.mode) = (flags as u64, 0o644);
    // SAFETY: the string and the struct live through the call.
    let fd = unsafe {
        libc::syscall(libc::SYS_openat2, libc::AT_FDCWD, name.as_ptr(), &raw const how, size_of_val(&how))
    };
    Errno::result(fd).map(|fd| close(fd as i32))
}

/// Opens by `open` itself, for which the C library calls `openat`.
fn by_open(object: &str, flags: i32) -> Result<(), Errno> {
    let name = path(object);
    // SAFETY: the string lives through the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_open, name.as_ptr(), flags, 0o644) })
        .map(|fd| close(fd as i32))
}

/// Opens by `creat` itself.
fn by_creat(object: &str) -> Result<(), Errno> {
    let name = path(object);
    // SAFETY: the string lives through the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_creat, name.as_ptr(), 0o644) }).map(|fd| close(fd as i32))
}

/// Opens what is open already, by its name in /proc.
fn again(object: &str, flags: i32) -> Result<(), Errno> {
    let fd = open_at(libc::AT_FDCWD, object, libc::O_PATH)?;
    let end = try_open(&format!("/proc/self/fd/{fd}"), flags);
    close(fd);
    end
}

/// `FOLDER NAME`: opens the name in the open folder.
fn beside(object: &str) -> Result<(), Errno> {
    let (folder, name) = object.split_once(' ').ok_or(Errno::EINVAL)?;
    let folder = open_at(libc::AT_FDCWD, folder, libc::O_PATH)?;
    let end = open_at(folder, name, libc::O_RDONLY).map(close);
    close(folder);
    end
}

/// `NAME COUNT`: enters so many folders of that name, one in another, and makes those that are missing.
fn descend(object: &str) -> Result<(), Errno> {
    let (name, count) = object.split_once(' ').ok_or(Errno::EINVAL)?;
    for _ in 0..count.parse().unwrap_or(0_u32) {
        // That it is there already is as good.
        let _ = nix::unistd::mkdir(name, Mode::S_IRWXU);
        nix::unistd::chdir(name)?;
    }
    Ok(())
}

/// `FOLDER NAME`: opens the name in a copy of the folder's mount that is mounted nowhere.
fn detached(object: &str) -> Result<(), Errno> {
    let (folder, name) = object.split_once(' ').ok_or(Errno::EINVAL)?;
    let folder = path(folder);
    // SAFETY: the string lives through the call.
    let tree =
        unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, folder.as_ptr(), OPEN_TREE_CLONE) };
    let tree = Errno::result(tree)? as i32;
    let end = open_at(tree, name, libc::O_RDONLY).map(close);
    close(tree);
    end
}

/// `FOLDER NAME`: opens the name in the mount at the folder, which is unmounted in between.
fn unmounted(object: &str) -> Result<(), Errno> {
    let (folder, name) = object.split_once(' ').ok_or(Errno::EINVAL)?;
    let held = open_at(libc::AT_FDCWD, folder, libc::O_PATH)?;
    umount2(folder, MntFlags::MNT_DETACH)?;
    let end = open_at(held, name, libc::O_RDONLY).map(close);
    close(held);
    end
}

/// Makes a message queue and opens it again.
fn queue(name: &str) -> Result<(), Errno> {
    let name = path(name);
    for flags in [libc::O_RDWR | libc::O_CREAT, libc::O_RDONLY] {
        // SAFETY: the string lives through the call, and no attributes are given.
        let queue =
            unsafe { libc::mq_open(name.as_ptr(), flags, 0o600, std::ptr::null_mut::<libc::mq_attr>()) };
        close(Errno::result(queue)?);
    }
    // SAFETY: as above.
    Errno::result(unsafe { libc::mq_unlink(name.as_ptr()) }).map(drop)
}

/// Memory that has a name in /proc only works as memory does.
fn memory(flags: u32) -> Result<(), Errno> {
    let name = path("scratch");
    // SAFETY: the string lives through the call; the descriptor is nobody else's.
    let made = unsafe { OwnedFd::from_raw_fd(Errno::result(libc::memfd_create(name.as_ptr(), flags))?) };
    let mut file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("/proc/self/fd/{}", made.as_raw_fd()))
        .map_err(errno)?;
    if flags & libc::MFD_HUGETLB != 0 {
        // It can be mapped only, and there may be no such page.
        return Ok(());
    }
    file.write_all(b"kept").map_err(errno)?;
    file.rewind().map_err(errno)?;
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(errno)?;
    if text == "kept" { Ok(()) } else { Err(Errno::EIO) }
}

/// A pipe opened by its name in /proc works as a pipe does.
fn pipe() -> Result<(), Errno> {
    let (from, to) = nix::unistd::pipe()?;
    let mut end = fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/self/fd/{}", to.as_raw_fd()))
        .map_err(errno)?;
    end.write_all(b"x").map_err(errno)?;
    let mut byte = [0];
    nix::unistd::read(&from, &mut byte)?;
    if byte == *b"x" { Ok(()) } else { Err(Errno::EIO) }
}

/// What the kernel said.
#[allow(clippy::needless_pass_by_value, reason = "handed to `map_err`, which passes it so")]
fn errno(error: std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}

/// Makes the overlay of `FOLDER/{lower,upper,work}` the root, as a container's runtime does.
fn container(folder: &str) -> Result<(), Errno> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let layers = format!("lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work");
    let root = format!("{folder}/root");
    mount(Some("overlay"), root.as_str(), Some("overlay"), MsFlags::empty(), Some(layers.as_str()))?;
    nix::unistd::chdir(root.as_str())?;
    nix::unistd::pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")
}

/// Waits for a file to appear, without opening it.
fn wait(file: &str) -> Result<(), Errno> {
    for _ in 0..1200 {
        if fs::exists(file).unwrap_or(false) {
            return Ok(());
        }
        sleep(Duration::from_millis(50));
    }
    Err(Errno::ETIMEDOUT)
}

/// Runs a program and tells its exit code, or why it does not start.
fn exec(line: &str) -> String {
    let mut words = line.split(' ');
    let program = words.next().unwrap_or_default();
    let ended = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match ended {
        Ok(status) => status.code().map_or_else(|| "signal".into(), |code| format!("exit {code}")),
        Err(error) => error
            .raw_os_error()
            .map_or_else(|| error.to_string(), |raw| format!("{:?}", Errno::from_raw(raw))),
    }
}

/// `CGROUP GO OUT PATH`: a process of its own session leaves the agent's cgroup, waits for the file `GO` to appear,
/// and writes into the file `OUT` how opening `PATH` ended.
fn daemon(object: &str) -> String {
    let words: Vec<&str> = object.split(' ').collect();
    let [cgroup, go, out, secret] = words[..] else { return "EINVAL".into() };
    let Ok(actor) = std::env::current_exe() else { return "ENOENT".into() };
    let script = format!(
        "echo $$ > {cgroup}/cgroup.procs || exit 1; exec {} 'wait {go}' 'read {secret}' > {out} 2>&1",
        actor.display()
    );
    let mut shell = Command::new("setsid");
    shell
        .args(["--fork", "bash", "-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    shell.process_group(0);
    match shell.status() {
        Ok(status) if status.success() => "ok".into(),
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    }
}

/// Whose thread opens what is put into a ring.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opener {
    /// The one that calls, in the call.
    Caller,
    /// One of the kernel's workers.
    Worker,
    /// The kernel's thread that polls the ring (`IORING_SETUP_SQPOLL`), or a worker of its.
    Poller,
}

/// Opens by io_uring, and tells how it ended.
fn by_uring(file: &str, flags: i32, opener: Opener) -> String {
    uring(file, flags, opener).unwrap_or_else(|error| format!("uring: {error}"))
}

/// [`by_uring`], what the completion says.
fn uring(file: &str, flags: i32, opener: Opener) -> std::io::Result<String> {
    let mut ring = match opener {
        Opener::Poller => IoUring::builder().setup_sqpoll(100).build(4)?,
        Opener::Caller | Opener::Worker => IoUring::new(4)?,
    };
    let name = path(file);
    let mut entry =
        opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), name.as_ptr()).flags(flags).mode(0o644).build();
    if opener == Opener::Worker {
        entry = entry.flags(squeue::Flags::ASYNC);
    }
    // SAFETY: the name lives until the completion is there.
    unsafe { ring.submission().push(&entry) }.map_err(std::io::Error::other)?;
    ring.submit_and_wait(1)?;
    let result = ring.completion().next().map_or(-libc::EIO, |entry| entry.result());
    if result < 0 {
        return Ok(format!("{:?}", Errno::from_raw(-result)));
    }
    close(result);
    Ok("ok".into())
}

/// Opens or makes a file by the interface of 32-bit programs, and closes it.
fn open_32(number: u32, object: &str, second: i32) -> Result<(), Errno> {
    compat::call(number, path(object).as_bytes_with_nul(), |name| [name, second.cast_unsigned(), 0])
        .map(|fd| close(fd.cast_signed()))
}

/// Runs a program in a child by the interface of 32-bit programs, with its path for an argument; how it ended.
fn exec_32(object: &str) -> String {
    // The pointers of the arguments stand before the path, below which the page of the call begins.
    const POINTERS: usize = 8;
    let mut data = vec![0; POINTERS];
    data.extend(path(object).as_bytes_with_nul());
    // SAFETY: the child makes system calls alone, and ends.
    match unsafe { nix::unistd::fork() } {
        Ok(nix::unistd::ForkResult::Child) => {
            let end = compat::call(compat::EXECVE, &data, |page| {
                let name = page + POINTERS as u32;
                // SAFETY: the page is there, with as many bytes.
                unsafe { (page as usize as *mut u32).write(name) };
                [name, page, 0]
            });
            // SAFETY: ends the child without what the parent's runtime would do.
            unsafe { libc::_exit(end.err().map_or(0, |errno| errno as i32)) }
        }
        Ok(nix::unistd::ForkResult::Parent { child }) => match nix::sys::wait::waitpid(child, None) {
            Ok(nix::sys::wait::WaitStatus::Exited(_, 0)) => "ok".into(),
            Ok(nix::sys::wait::WaitStatus::Exited(_, code)) => format!("{:?}", Errno::from_raw(code)),
            other => format!("{other:?}"),
        },
        Err(errno) => format!("{errno:?}"),
    }
}
