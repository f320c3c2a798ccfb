//! The kernel's side of the daemon: what is loaded there, where it is pinned, and the maps.
//!
//! [`Kernel::open`] either takes over the pins that are there or makes them; everything after that is the same.
//! Nothing here knows what a policy means or who an agent is.

pub mod attach;
pub mod btf;
pub mod canary;
pub mod clock;
mod counters;
pub mod hierarchy;
pub mod hold;
mod load;
pub(crate) mod log;
mod maps;
mod marks;
pub mod offsets;
pub mod pin;
pub mod probe;
mod slot;
mod sys;

use self::{
    attach::ProgramReport,
    hierarchy::{AgentsRoot, Hierarchy},
    hold::HoldMaps,
    load::Globals,
    maps::{Maps, failed, locked},
    pin::{Lock, Pins, State},
    probe::{LsmLack, Probe},
    slot::Free,
    sys::Grace,
};
use crate::{agents::AgentId, policy::CompiledTables};
use aya::maps::{MapData, MapError, RingBuf};
use enforcer_common::{
    agent::{AgentEntry, CounterKey, Counts, Meta},
    event::{Losses, Record},
    grant::{Grant, RequestKey},
    limits::LAYOUT_VERSION,
};
use std::{fs::File, io, os::fd::BorrowedFd, path::PathBuf, sync::Mutex};

pub(crate) use self::sys::{First, pidfd, run_first, signal};
pub use self::{load::LogLevel, maps::Error as MapFailure, slot::SlotId};

/// Why the kernel's side cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not root.
    #[error("enforcer must run as root to load programs into the kernel")]
    NotRoot,
    /// What the daemon was told to require is not there.
    #[error("this kernel cannot govern files and programs")]
    NoLsm(#[source] LsmLack),
    /// Fields that the programs read are missing.
    #[error("the programs do not fit this kernel")]
    Offsets(#[source] probe::OffsetsLack),
    /// Cgroup programs do not load.
    #[error("the kernel refuses cgroup programs, so nothing can be governed")]
    NoCgroupPrograms(#[source] io::Error),
    /// There is no place for agents.
    #[error(transparent)]
    Hierarchy(#[from] hierarchy::Error),
    /// The pins.
    #[error(transparent)]
    Pins(#[from] pin::Error),
    /// The pins belong to agents elsewhere.
    #[error(
        "the pins under `{}` hold on to another cgroup than `{}`: start with the `--cgroup-root` that made them, \
         or run `enforcer unload`", pins.display(), root.display()
    )]
    OtherRoot {
        /// The pins.
        pins: PathBuf,
        /// The root for agents.
        root: PathBuf,
    },
    /// The object does not load.
    #[error("cannot load the programs")]
    Load(#[from] aya::EbpfError),
    /// A program does not load or attach.
    #[error(transparent)]
    Attach(#[from] attach::Error),
    /// A map cannot be pinned.
    #[error("cannot pin the map `{map}`")]
    PinMap {
        /// The map.
        map: String,
        /// What the kernel said.
        source: aya::pin::PinError,
    },
    /// A map.
    #[error(transparent)]
    Map(#[from] MapFailure),
    /// Every slot is in use.
    #[error(
        "no slot is free for a policy: all {} are in use, or about to be emptied",
        enforcer_common::limits::SLOTS_MAX
    )]
    NoSlot,
    /// A system call.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// Whether it is the kernel that lacks something, and not the installation.
    #[must_use]
    pub fn is_lack(&self) -> bool {
        matches!(
            self,
            Self::NoLsm(_)
                | Self::Offsets(_)
                | Self::NoCgroupPrograms(_)
                | Self::Hierarchy(hierarchy::Error::NotMounted | hierarchy::Error::Namespaced { .. })
        )
    }
}

fn io_failed(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { what, source }
}

/// Whether LSM programs are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Governing {
    /// Where the kernel can.
    #[default]
    Auto,
    /// Or else nothing.
    RequireLsm,
    /// Never.
    NetworkOnly,
}

/// How to open the kernel's side.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder of the pins.
    pub pins: PathBuf,
    /// The cgroup for agents; `enforcer` at the root of the hierarchy by default.
    pub cgroup_root: Option<PathBuf>,
    /// Whether LSM programs are wanted.
    pub governing: Governing,
    /// Which lines for debugging the programs write.
    pub kernel_log: Option<LogLevel>,
}

/// What an agent is put under.
#[derive(Clone, Copy, Debug)]
pub struct Assignment {
    /// Where the policy lies.
    pub slot: SlotId,
    /// The number of its load.
    pub policy: u32,
    /// Whether decisions are only noted.
    pub audit: bool,
    /// The id of the agent's cgroup.
    pub cgroup: u64,
}

/// How the pins came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Just made.
    Made,
    /// Found, as another daemon left them.
    TakenOver,
}

/// The kernel's side, opened. While it is, nobody else can open it.
#[derive(Debug)]
pub struct Kernel {
    pins: Pins,
    root: AgentsRoot,
    maps: Maps,
    lsm: Result<(), LsmLack>,
    grace: Grace,
    free: Mutex<Free>,
    free_counters: Mutex<counters::Free>,
    _locks: [Lock; 2],
}

impl Kernel {
    /// Takes over what is pinned, or loads, attaches and pins everything.
    pub fn open(options: &Options) -> Result<(Self, Origin), Error> {
        be_root()?;
        let root = Hierarchy::find()?.agents_root(options.cgroup_root.as_deref())?;
        root.create()?;
        let pins = Pins::new(&options.pins);
        let locks = [pins.lock()?, Lock::on("the agents' cgroup", root.path())?];
        let probe = Probe::run();
        let origin = match pins.state()? {
            State::Foreign(found) => {
                return Err(pin::Error::Layout { dir: options.pins.clone(), found }.into());
            }
            State::Complete(meta) if take_over(&pins, &root, meta.lsm == 1)? => Origin::TakenOver,
            state => {
                if state != State::Absent {
                    tracing::warn!(pins = %options.pins.display(), "removing pins that are of no use");
                    pins.remove()?;
                }
                if let Err(error) = make(&pins, &root, &probe, options) {
                    pins.remove()?;
                    return Err(error);
                }
                Origin::Made
            }
        };
        let maps = Maps::open(&pins)?;
        let kernel = Self::over(origin, pins, root, maps, probe.lsm, locks)?;
        if let (Governing::RequireLsm, Err(_)) = (options.governing, &kernel.lsm) {
            return Err(kernel.lsm.err().map_or(Error::NotRoot, Error::NoLsm));
        }
        Ok((kernel, origin))
    }

    fn over(
        origin: Origin,
        pins: Pins,
        root: AgentsRoot,
        maps: Maps,
        probed: Result<(), LsmLack>,
        locks: [Lock; 2],
    ) -> Result<Self, Error> {
        let meta = locked(&maps.meta).get(&0, 0).map_err(failed("read", "META"))?;
        let lsm = match (meta.lsm, probed) {
            (1, _) => Ok(()),
            (_, Err(lack)) => Err(lack),
            (_, Ok(())) => Err(LsmLack::NotWanted),
        };
        let entries = locked(&maps.agents).iter().collect::<Result<Vec<_>, _>>();
        let entries = entries.map_err(failed("read", "AGENTS"))?;
        let free = Mutex::new(Free::all_but(entries.iter().map(|(_, entry)| SlotId(entry.slot))));
        let free_counters = Mutex::new(match origin {
            Origin::Made => counters::Free::all()?,
            Origin::TakenOver => counters::Free::find(&maps, &entries)?,
        });
        let grace = Grace::new().map_err(io_failed("make the map that waits for programs"))?;
        Ok(Self { pins, root, maps, lsm, grace, free, free_counters, _locks: locks })
    }

    /// Where everything is pinned.
    #[must_use]
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Where agents have their cgroups.
    #[must_use]
    pub fn root(&self) -> &AgentsRoot {
        &self.root
    }

    /// Whether files and programs are governed too, and if not, why.
    pub fn lsm(&self) -> Result<(), &LsmLack> {
        self.lsm.as_ref().copied()
    }

    /// The rings of alerts and of all other events. Only one reader may have them.
    pub fn rings(&self) -> Result<[RingBuf<MapData>; 2], Error> {
        Ok(Maps::rings(&self.pins)?)
    }

    /// Tells the programs which socket no governed task may connect to.
    pub fn set_control_socket(&self, inode: u64, device: u64) -> Result<(), Error> {
        let mut map = locked(&self.maps.meta);
        let meta = map.get(&0, 0).map_err(failed("read", "META"))?;
        let meta = Meta { control_inode: inode, control_device: device, ..meta };
        Ok(map.set(0, meta, 0).map_err(failed("write to", "META"))?)
    }

    /// Loads a policy into a free slot.
    pub fn load_policy(&self, policy: u32, tables: &CompiledTables) -> Result<SlotId, Error> {
        let slot = locked(&self.free).take().ok_or(Error::NoSlot)?;
        slot::fill(&self.maps, slot, policy, tables).inspect_err(|_| locked(&self.free).give_back(slot))?;
        Ok(slot)
    }

    /// Empties a slot that no agent is on. Waits until no program uses it.
    pub fn unload_policy(&self, slot: SlotId) -> Result<(), Error> {
        self.wait_for_programs()?;
        slot::empty(&self.maps, slot)?;
        locked(&self.free).give_back(slot);
        Ok(())
    }

    /// Waits until every program that is running now has ended.
    pub fn wait_for_programs(&self) -> Result<(), Error> {
        self.grace.wait().map_err(io_failed("wait for running programs"))
    }

    /// Puts an agent under the policy in a slot: from now on its actions are decided by that. Where it was under another
    /// one, waits until no program uses that any more.
    pub fn set_agent(&self, agent: AgentId, assignment: Assignment) -> Result<(), Error> {
        let AgentId(id) = agent;
        let before = self.entry(agent)?;
        let Assignment { slot: SlotId(slot), policy, audit, cgroup } = assignment;
        let entry =
            AgentEntry { slot, policy, audit: u32::from(audit), counters: 0, cgroup, rules: 0, stripes: 0 };
        let entry = counters::make(&self.maps, &mut locked(&self.free_counters), agent, entry)?;
        locked(&self.maps.agents).insert(id, entry, 0).map_err(failed("write to", "AGENTS"))?;
        locked(&self.maps.cgroups).insert(cgroup, id, 0).map_err(failed("write to", "CGROUPS"))?;
        if let Some(AgentEntry { counters, .. }) = before {
            self.wait_for_programs()?;
            counters::retire(&self.maps, counters)?;
            locked(&self.free_counters).give_back(counters);
        }
        Ok(())
    }

    fn entry(&self, agent: AgentId) -> Result<Option<AgentEntry>, Error> {
        let AgentId(id) = agent;
        match locked(&self.maps.agents).get(&id, 0) {
            Ok(entry) => Ok(Some(entry)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(failed("read", "AGENTS")(error).into()),
        }
    }

    /// All agents' entries.
    pub fn agents(&self) -> Result<Vec<(AgentId, AgentEntry)>, Error> {
        let agents = locked(&self.maps.agents);
        let all = agents.iter().map(|entry| entry.map(|(id, entry)| (AgentId(id), entry)));
        Ok(all.collect::<Result<_, _>>().map_err(failed("read", "AGENTS"))?)
    }

    /// Removes an agent's entry and all that is kept for it. Whatever task still bears its mark is refused
    /// everything from then on.
    pub fn remove_agent(&self, agent: AgentId, cgroup: u64) -> Result<(), Error> {
        let AgentId(id) = agent;
        let entry = self.entry(agent)?;
        maps::removed(locked(&self.maps.cgroups).remove(&cgroup))
            .map_err(failed("delete from", "CGROUPS"))?;
        maps::removed(locked(&self.maps.agents).remove(&id)).map_err(failed("delete from", "AGENTS"))?;
        if let Some(AgentEntry { counters, .. }) = entry {
            self.maps.counters.clear(counters)?;
            locked(&self.free_counters).give_back(counters);
        }
        Ok(self.maps.forget(agent)?)
    }

    /// The agent whose mark a process bears. Without LSM there are no marks.
    pub fn mark_of(&self, process: BorrowedFd<'_>) -> Result<Option<AgentId>, Error> {
        marks::of(&self.maps.marks, process).map_err(io_failed("look a mark up"))
    }

    /// All processes that bear a mark.
    pub fn marked(&self) -> Result<Vec<(u32, AgentId)>, Error> {
        marks::scan(&self.maps.marks).map_err(io_failed("look for marked processes"))
    }

    /// Decisions by agent and rule.
    pub fn counts(&self) -> Result<Vec<(CounterKey, Counts)>, Error> {
        Ok(counters::all(&self.maps, &self.agents()?)?)
    }

    /// What was lost since the pins were made.
    pub fn losses(&self) -> Result<Losses, Error> {
        Ok(self.maps.losses()?)
    }

    /// The requests that wait.
    pub fn requests(&self) -> Result<Vec<(RequestKey, Record)>, Error> {
        Ok(self.maps.requests()?)
    }

    /// A request that waits; nothing where it was answered or taken back.
    pub fn request(&self, key: &RequestKey) -> Result<Option<Record>, Error> {
        Ok(self.maps.request(key)?)
    }

    /// What the requests that wait are for. Where one is removed meanwhile, some may be told twice.
    pub fn request_keys(&self) -> Result<Vec<RequestKey>, Error> {
        Ok(self.maps.request_keys()?)
    }

    /// What is known of the threads that wait.
    #[must_use]
    pub fn holds(&self) -> &HoldMaps {
        &self.maps.holds
    }

    /// The ring of notices about threads that wait. Only one reader may have it.
    pub fn notices(&self) -> Result<RingBuf<MapData>, Error> {
        Ok(Maps::notices(&self.pins)?)
    }

    /// Takes a request back, without an answer.
    pub fn remove_request(&self, key: &RequestKey) -> Result<(), Error> {
        Ok(self.maps.remove_request(key)?)
    }

    /// Answers what a request is for; the request stays.
    pub fn grant(&self, key: &RequestKey, grant: &Grant) -> Result<(), Error> {
        Ok(self.maps.insert_grant(key, grant)?)
    }

    /// All grants.
    pub fn grants(&self) -> Result<Vec<(RequestKey, Grant)>, Error> {
        Ok(self.maps.grants()?)
    }

    /// Takes an answer back.
    pub fn remove_grant(&self, key: &RequestKey) -> Result<(), Error> {
        Ok(self.maps.remove_grant(key)?)
    }

    /// Removes the grants that have run out or are used up.
    pub fn remove_stale_grants(&self, now_ns: u64) -> Result<usize, Error> {
        Ok(self.maps.remove_grants(|grant| grant.is_useless(now_ns))?)
    }

    /// What the kernel tells about the attached programs, and which are not attached though they should be.
    #[must_use]
    pub fn programs(&self) -> (Vec<ProgramReport>, Vec<String>) {
        attach::report(self.lsm.is_ok(), &self.pins.links())
    }

    /// Detaches everything and removes the pins. The maps in hand stay usable and mean nothing any more.
    pub fn unload(&self) -> Result<(), Error> {
        Ok(self.pins.remove()?)
    }
}

/// Fails at once where everything else would, with less of a reason.
pub(crate) fn be_root() -> Result<(), Error> {
    if nix::unistd::geteuid().is_root() { Ok(()) } else { Err(Error::NotRoot) }
}

/// Whether complete pins can be taken over. They cannot when the cgroup that they govern is gone, and all agents
/// with it; then they are of no use.
fn take_over(pins: &Pins, root: &AgentsRoot, lsm: bool) -> Result<bool, Error> {
    pins.check(lsm)?;
    match pins.governed_cgroup()? {
        Some(cgroup) if cgroup == root.id()? => Ok(true),
        None if no_task_is_marked(pins)? => Ok(false),
        _ => Err(Error::OtherRoot { pins: pins.dir().to_owned(), root: root.path().to_owned() }),
    }
}

fn no_task_is_marked(pins: &Pins) -> Result<bool, Error> {
    let marks = sys::open_pin(&pins.map("MARKS"))
        .and_then(sys::TypedMap::new)
        .map_err(io_failed("open the marks"))?;
    let marked = marks::scan(&marks).map_err(io_failed("look for marked processes"))?;
    Ok(marked.is_empty())
}

fn make(pins: &Pins, root: &AgentsRoot, probe: &Probe, options: &Options) -> Result<(), Error> {
    let wanted = options.governing != Governing::NetworkOnly;
    if let (Governing::RequireLsm, Err(lack)) = (options.governing, &probe.lsm) {
        return Err(Error::NoLsm(lack.clone()));
    }
    if let Err(error) = &probe.cgroup {
        return Err(Error::NoCgroupPrograms(io::Error::from(error.kind())));
    }
    let lsm = wanted && probe.lsm.is_ok();
    let offsets = probe.offsets.clone().map_err(Error::Offsets)?;
    let globals = Globals {
        offsets,
        lsm,
        storage_locks: probe::storage_locks(),
        mptcp: probe.mptcp,
        signals: probe.signals,
        signal_pending: probe::signal_pending(),
        agent_level: root.agent_level(),
        log: options.kernel_log,
    };
    let types = aya::Btf::from_sys_fs().map_err(aya::EbpfError::from)?;
    pins.prepare()?;
    let random = || load::random().map_err(io_failed("draw a random key"));
    let mut ebpf = load::load(&globals, [random()?, random()?], &types)?;
    for (name, map) in ebpf.maps().filter(|(name, _)| !name.starts_with('.')) {
        map.pin(pins.map(name)).map_err(|source| Error::PinMap { map: name.to_owned(), source })?;
    }
    let cgroup = File::open(root.path()).map_err(io_failed("open the cgroup for agents"))?;
    attach::load_and_attach(&mut ebpf, lsm, &types, &cgroup, &pins.links())?;
    // Last, as the mark of being complete.
    let meta = Meta {
        layout_version: LAYOUT_VERSION,
        lsm: u32::from(lsm),
        created_ns: clock::now_ns(),
        control_inode: 0,
        control_device: 0,
    };
    Ok(locked(&Maps::open(pins)?.meta).set(0, meta, 0).map_err(failed("write to", "META"))?)
}
