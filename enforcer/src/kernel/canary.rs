//! The canary: proof that what is loaded also enforces.
//!
//! Programs can be loaded, attached and counted, and still refuse nothing. So a process in an agent of its own,
//! under a policy of its own, tries for each family of hooks one action that must be refused and a twin of it that
//! must pass. Only the two together prove anything: a machine on which nothing works refuses as well.
//!
//! The process is this program again, under a hidden command; it tries when it is told to on its standard input, by
//! which time it is governed, and writes what it met to its standard output.

use serde::{Deserialize, Serialize};
use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// The hidden command that tries.
pub const TRY: &str = "canary-try";
/// The hidden command that does nothing, for the exec that must pass.
pub const NOTHING: &str = "canary-nothing";

/// How long the canary may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// An address of this machine that nothing else uses, and its twin.
const REFUSED: Ipv4Addr = Ipv4Addr::new(127, 101, 110, 102);
const ALLOWED: Ipv4Addr = Ipv4Addr::new(127, 101, 110, 103);

/// One family of hooks, and what became of the two actions: 0, or the error number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// `connect`, `send`, `open`, `create` or `exec`.
    pub family: String,
    /// What the action that must be refused returned.
    pub refused: i32,
    /// What its twin returned.
    pub allowed: i32,
}

impl Attempt {
    /// Whether it was as it should be.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.refused == libc::EPERM && self.allowed == 0
    }
}

/// The stage: files that the actions are on, removed with this.
#[derive(Debug)]
pub struct Stage {
    folder: PathBuf,
}

impl Stage {
    /// Lays everything out in a new folder.
    pub fn new(within: &Path) -> io::Result<Self> {
        let folder = within.join(format!("canary-{}", std::process::id()));
        if fs::exists(&folder)? {
            fs::remove_dir_all(&folder)?;
        }
        DirBuilder::new().mode(0o700).recursive(true).create(&folder)?;
        let stage = Self { folder };
        for name in ["refused", "allowed", "refused-exec"] {
            fs::write(stage.folder.join(name), "canary\n")?;
        }
        fs::set_permissions(stage.folder.join("refused-exec"), fs::Permissions::from_mode(0o700))?;
        Ok(stage)
    }

    /// The policy that the canary is under; where there is no LSM, only on the network.
    #[must_use]
    pub fn policy(&self, lsm: bool) -> String {
        let network = format!(
            "version = 1\nname = \"enforcer-canary\"\n\
             [default]\nnetwork = \"allow\"\nfiles = \"allow\"\nexec = \"allow\"\n\
             [[network]]\nname = \"refused\"\naction = \"block\"\nto = [\"{REFUSED}\"]\n"
        );
        if !lsm {
            return network;
        }
        let folder = self.folder.display();
        format!(
            "{network}[[file]]\nname = \"refused-files\"\naction = \"block\"\npaths = [\"{folder}/refused\", \"{folder}/refused-new\"]\n\
             access = [\"read\", \"write\", \"create\"]\n\
             [[exec]]\nname = \"refused-programs\"\naction = \"block\"\npaths = [\"{folder}/refused-exec\"]\n"
        )
    }

    /// Starts the canary, has it governed, and tells what it met.
    pub fn run<E>(
        &self,
        lsm: bool,
        govern: impl FnOnce(u32) -> Result<(), E>,
    ) -> io::Result<Result<Vec<Attempt>, E>> {
        let mut command = Command::new("/proc/self/exe");
        command.arg(TRY).arg(&self.folder).args(lsm.then_some("--lsm"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).env_clear();
        let mut child = command.spawn()?;
        if let Err(error) = govern(child.id()) {
            child.kill()?;
            child.wait()?;
            return Ok(Err(error));
        }
        // Closing its input is the sign to begin.
        drop(child.stdin.take());
        let begun = Instant::now();
        while child.try_wait()?.is_none() {
            if begun.elapsed() > PATIENCE {
                child.kill()?;
                child.wait()?;
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the canary did not come back"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut told = String::new();
        if let Some(mut out) = child.stdout.take() {
            out.read_to_string(&mut told)?;
        }
        Ok(Ok(serde_json::from_str(&told)?))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(folder = %self.folder.display(), %error, "the canary's folder stays behind");
        }
    }
}

/// The hidden command: waits for the sign, tries everything, and tells.
pub fn try_all(folder: &Path, lsm: bool) -> io::Result<Vec<Attempt>> {
    io::stdin().read_to_end(&mut Vec::new())?;
    // Only now: the cgroup hooks go by the cgroup in which a socket was made.
    let network = Network::prepare()?;
    let mut attempts = vec![
        attempt("connect", |twin| TcpStream::connect(network.listener(twin)?).map(drop)),
        attempt("send", |twin| network.sender.send_to(b"canary", network.receiver(twin)?).map(drop)),
    ];
    if lsm {
        let file = |twin: Twin, rest: &str| folder.join(format!("{}{rest}", twin.word()));
        attempts.push(attempt("open", |twin| File::open(file(twin, "")).map(drop)));
        attempts.push(attempt("create", |twin| File::create_new(file(twin, "-new")).map(drop)));
        attempts.push(attempt("exec", |twin| {
            let program = match twin {
                Twin::Refused => file(twin, "-exec"),
                Twin::Allowed => PathBuf::from("/proc/self/exe"),
            };
            Command::new(program).arg(NOTHING).status().map(drop)
        }));
    }
    Ok(attempts)
}

#[derive(Clone, Copy)]
enum Twin {
    Refused,
    Allowed,
}

impl Twin {
    fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Allowed => "allowed",
        }
    }
}

fn attempt(family: &str, act: impl Fn(Twin) -> io::Result<()>) -> Attempt {
    let result = |twin| match act(twin) {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().unwrap_or(-1),
    };
    Attempt { family: family.to_owned(), refused: result(Twin::Refused), allowed: result(Twin::Allowed) }
}

/// Sockets at the other end, so that an action that is not refused succeeds.
struct Network {
    listeners: [TcpListener; 2],
    receivers: [UdpSocket; 2],
    sender: UdpSocket,
}

impl Network {
    fn prepare() -> io::Result<Self> {
        let at = |address| SocketAddrV4::new(address, 0);
        Ok(Self {
            listeners: [TcpListener::bind(at(REFUSED))?, TcpListener::bind(at(ALLOWED))?],
            receivers: [UdpSocket::bind(at(REFUSED))?, UdpSocket::bind(at(ALLOWED))?],
            sender: UdpSocket::bind(at(Ipv4Addr::UNSPECIFIED))?,
        })
    }

    fn listener(&self, twin: Twin) -> io::Result<std::net::SocketAddr> {
        let [refused, allowed] = &self.listeners;
        match twin {
            Twin::Refused => refused.local_addr(),
            Twin::Allowed => allowed.local_addr(),
        }
    }

    fn receiver(&self, twin: Twin) -> io::Result<std::net::SocketAddr> {
        let [refused, allowed] = &self.receivers;
        match twin {
            Twin::Refused => refused.local_addr(),
            Twin::Allowed => allowed.local_addr(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Attempt, Stage};
    use crate::{
        agents::policy::prepare,
        policy::{Look, PolicySource},
    };

    #[test]
    fn its_policies_are_policies() {
        let folder = tempfile::tempdir().unwrap();
        let stage = Stage::new(folder.path()).unwrap();
        for lsm in [false, true] {
            let (prepared, found) = prepare(PolicySource::new("canary", stage.policy(lsm)));
            let prepared = prepared.unwrap_or_else(|| panic!("{}", found.render(Look::PLAIN)));
            assert!(!found.has_errors(), "{}", found.render(Look::PLAIN));
            assert_eq!(prepared.needs_lsm.is_some(), lsm);
        }
    }

    #[test]
    fn only_a_refusal_beside_a_pass_will_do() {
        let attempt = |refused, allowed| Attempt { family: "open".into(), refused, allowed }.is_ok();
        assert!(attempt(libc::EPERM, 0));
        for (refused, allowed) in [(0, 0), (libc::EPERM, libc::EPERM), (libc::EACCES, 0), (-1, 0)] {
            assert!(!attempt(refused, allowed));
        }
    }

    #[test]
    fn the_stage_is_cleared() {
        let folder = tempfile::tempdir().unwrap();
        drop(Stage::new(folder.path()).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
