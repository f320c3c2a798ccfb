//! Events: read from the kernel's rings, named, and told to whoever listens.
//!
//! One thread reads both rings, alerts before all else, and never waits for a listener: enforcement does not
//! depend on it, but a ring that nobody reads fills up, and what it has no room for is lost and counted.

pub mod decode;
mod file;
mod history;
mod hold;
pub mod intervention;
mod told;

pub use self::{
    decode::{Decided, EventView},
    told::Told,
};

use self::{file::EventFile, history::History, hold::Hold, intervention::InterventionEvent};
use crate::{
    agents::{AgentId, names::Names},
    kernel::{self, Kernel, clock::Wall},
};
use aya::maps::{MapData, RingBuf};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::{
    io,
    os::fd::AsFd as _,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::{Notify, broadcast};

/// Events that a listener may be behind before it misses some.
const BEHIND: usize = 4096;

/// Events of the lesser ring that are read before alerts are looked at again.
const TURN: usize = 256;

/// How long the reader sleeps at most, so that it can be stopped.
const SLEEP: Duration = Duration::from_millis(100);

/// How long the offset between the clocks is taken for true.
const WALL: Duration = Duration::from_secs(1);

/// Where events go.
#[derive(Debug)]
pub struct Events {
    listeners: broadcast::Sender<Told>,
    history: Mutex<History>,
    /// What people did, for the thread that writes the file.
    interventions: Mutex<Vec<Arc<InterventionEvent>>>,
    /// Told of every request that is filed.
    pub requests: Notify,
    dropped: AtomicU64,
    stopped: AtomicBool,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            listeners: broadcast::Sender::new(BEHIND),
            history: Mutex::default(),
            interventions: Mutex::default(),
            requests: Notify::new(),
            dropped: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        }
    }
}

impl Events {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens from now on.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<Told> {
        self.listeners.subscribe()
    }

    /// Listens from now on, and hears first what is kept of before. No event is in both.
    #[must_use]
    pub fn listen_from_start(&self) -> (Vec<Told>, broadcast::Receiver<Told>) {
        let history = self.history();
        (history.all(), self.listeners.subscribe())
    }

    /// The last refusals of an agent, the newest first.
    #[must_use]
    pub fn refusals(&self, agent: AgentId) -> Vec<Arc<Decided>> {
        self.history().refusals(agent)
    }

    /// How many events could not be written to the file.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Stops the reader.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Takes what a person did, to be told of within a moment.
    pub fn report(&self, event: InterventionEvent) {
        self.interventions.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(event));
    }

    fn reported(&self) -> Vec<Arc<InterventionEvent>> {
        std::mem::take(&mut *self.interventions.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn tell(&self, told: Told) {
        let asks = matches!(&told, Told::Decision(decided) if decided.request().is_some());
        {
            let mut history = self.history();
            history.push(&told);
            // Nobody listens: that is no error.
            let _ = self.listeners.send(told);
        }
        if asks {
            self.requests.notify_one();
        }
    }
}

/// Starts the thread that reads the rings.
pub fn start(
    events: Arc<Events>,
    kernel: Arc<Kernel>,
    names: Arc<Names>,
    file: Option<&Path>,
) -> Result<JoinHandle<()>, Error> {
    let file = file
        .map(|path| EventFile::open(path).map_err(|source| Error::File { path: path.to_owned(), source }));
    let mut reader = Reader {
        rings: kernel.rings()?,
        events,
        kernel,
        names,
        hold: Hold::default(),
        file: file.transpose()?,
        wall: Wall::now(),
        read_wall: Instant::now(),
    };
    let thread = std::thread::Builder::new().name("events".to_owned()).spawn(move || reader.run());
    thread.map_err(Error::Thread)
}

/// Why events cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file for events.
    #[error("cannot open the file for events `{}`", path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The thread.
    #[error("cannot start the thread that reads events")]
    Thread(#[source] io::Error),
    /// The rings.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
}

struct Reader {
    rings: [RingBuf<MapData>; 2],
    events: Arc<Events>,
    kernel: Arc<Kernel>,
    names: Arc<Names>,
    hold: Hold,
    file: Option<EventFile>,
    wall: Wall,
    read_wall: Instant,
}

impl Reader {
    fn run(&mut self) {
        while !self.events.stopped.load(Ordering::Relaxed) {
            if self.read_wall.elapsed() >= WALL {
                (self.wall, self.read_wall) = (Wall::now(), Instant::now());
            }
            let more = self.turn();
            while let Some(decided) = self.hold.due(Instant::now()) {
                self.tell_decision(decided);
            }
            self.tell_interventions();
            if !more {
                self.rest();
            }
        }
        while let Some(decided) = self.hold.due(Instant::now() + hold::MOMENT) {
            self.tell_decision(decided);
        }
        self.tell_interventions();
        if let Some(file) = &mut self.file {
            file.close();
            self.events.dropped.store(file.dropped(), Ordering::Relaxed);
        }
    }

    /// Reads all alerts and some of the rest; whether there may be more.
    fn turn(&mut self) -> bool {
        let Self { rings: [alerts, others], names, wall, .. } = self;
        let mut batch = Vec::new();
        let read = |record: &[u8]| {
            let decided = Decided::decode(record, names, wall);
            if decided.is_none() {
                tracing::error!(bytes = record.len(), "a record in the ring is not an event");
            }
            decided
        };
        while let Some(record) = alerts.next() {
            batch.extend(read(&record));
        }
        let mut count = 0;
        while count < TURN
            && let Some(record) = others.next()
        {
            batch.extend(read(&record));
            count += 1;
        }
        for decided in batch {
            self.take(decided);
        }
        count == TURN
    }

    fn take(&mut self, decided: Decided) {
        if decided.is_canary() {
            return;
        }
        if decided.is_void() {
            if let Some(held) = self.hold.void(&decided) {
                self.withdraw(&held);
            }
        } else if decided.is_tentative() {
            self.hold.push(decided, Instant::now());
        } else {
            self.tell_decision(decided);
        }
    }

    /// Takes back what a decision had filed.
    fn withdraw(&self, held: &Decided) {
        if let Some(key) = held.request()
            && let Err(error) = self.kernel.remove_request(&key)
        {
            tracing::error!(error = &error as &dyn std::error::Error, "a request that is void stays");
        }
    }

    fn tell_decision(&mut self, decided: Decided) {
        self.tell(Told::Decision(Arc::new(decided)));
    }

    fn tell_interventions(&mut self) {
        for event in self.events.reported() {
            self.tell(Told::Intervention(event));
        }
    }

    fn tell(&mut self, told: Told) {
        if let Some(file) = &mut self.file {
            file.write(&told);
        }
        self.events.tell(told);
    }

    fn flush(&mut self) {
        if let Some(file) = &mut self.file {
            file.flush();
            self.events.dropped.store(file.dropped(), Ordering::Relaxed);
        }
    }

    /// Sleeps until there is something to read or to tell.
    fn rest(&mut self) {
        self.flush();
        let until =
            self.hold.next().map_or(SLEEP, |next| next.saturating_duration_since(Instant::now()).min(SLEEP));
        let timeout = PollTimeout::try_from(until + Duration::from_millis(1)).unwrap_or(PollTimeout::ZERO);
        let [alerts, others] = &self.rings;
        let mut rings = [alerts.as_fd(), others.as_fd()].map(|ring| PollFd::new(ring, PollFlags::POLLIN));
        if let Err(errno) = poll(&mut rings, timeout)
            && errno != nix::errno::Errno::EINTR
        {
            tracing::error!(%errno, "cannot wait for events");
            std::thread::sleep(SLEEP);
        }
    }
}
