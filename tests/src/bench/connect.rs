//! `connect`: natively, in time. The machine may be busy with other things, so whatever is compared is measured in
//! turns, a few milliseconds each, and the middle of many ratios counts.

use std::io;
use std::mem::size_of;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};
use aya::sys::{Stats, enable_stats};
use enforcer::kernel::Governing;

use crate::bpf::Empty;
use crate::governed::{Cgroup, Governed, Outside, compiled};
use crate::pause::clock;
use crate::report::{figure, goal, kernel, median, say, table};
use crate::worker::{Work, Worker};
use crate::{landlock, policies};

/// Rules, and prefixes in each one's `to`.
const POLICIES: [(usize, usize); 4] = [(10, 1), (10, 1000), (10_000, 1), (10_000, 10)];
/// Which of them is compared with which. The last two differ in their rules alone.
const COMPARED: [(usize, usize); 4] = [(1, 0), (2, 0), (3, 0), (2, 1)];
const PROGRAM: &str = "cg_connect4";

/// Destinations that an agent goes to again and again, so that whatever is read for them stays in the caches.
const FEW: usize = 10;

/// Connects between two looks at the clock, some milliseconds.
const CONNECTS: usize = 400;
/// Turns for the statistics, and for the time of all.
const TURNS: usize = 60;
const PAIRS: usize = 150;

/// One policy, an agent under it, and where the worker goes under it.
struct Case {
    name: String,
    agent: Cgroup,
    /// The worker's order for addresses at random.
    random: u64,
}

impl Case {
    /// The worker's order for few of these.
    fn few(&self) -> u64 {
        self.random + 1
    }
}

pub(crate) fn run() -> Result<()> {
    let listener = Listener::open()?;
    let policies = POLICIES.map(|(rules, each)| policies::network(rules, each, listener.port));
    let destinations: Vec<_> = policies
        .iter()
        .flat_map(|policy| [policy.allowed.clone(), policy.allowed.iter().copied().take(FEW).collect()])
        .collect();
    let mut governed = Governed::open(Governing::NetworkOnly, None)?;
    let (Outside { plain, .. }, Outside { plain: other, .. }) =
        (&Outside::make("plain")?, &Outside::make("other")?);
    let mut cases = Vec::new();
    for ((policy, (rules, each)), random) in policies.iter().zip(POLICIES).zip((0..).step_by(2)) {
        say(format_args!("loading {rules} rules with {each} prefixes each"));
        let agent = governed.agent(&compiled(&policy.text)?)?;
        let name = format!("{rules} rules, {} prefixes", rules * each);
        cases.push(Case { name, agent, random });
    }

    let start = |rules: Option<usize>| {
        Worker::start(|| {
            if let Some(rules) = rules {
                landlock::allow_connecting(ports(listener.port, rules))?;
            }
            listener.work(destinations.clone())
        })
    };
    // All workers are copies of this process, so that their memory looks the same.
    let mut worker = start(None)?;
    let mut restricted = Vec::new();
    let has_peer = landlock::version().is_ok_and(|version| version >= landlock::WITH_PORTS);
    for rules in [10, 10_000].into_iter().filter(|_| has_peer) {
        restricted.push((rules, start(Some(rules))?));
    }

    println!("connect, natively, kernel {}\n", kernel());
    programs(&mut worker, &governed, &cases, other)?;
    whole(&mut worker, &mut restricted, &cases, (plain, other))?;
    Ok(())
}

/// The time of the program alone, from the kernel's own statistics.
fn programs(worker: &mut Worker, governed: &Governed, cases: &[Case], other: &Cgroup) -> Result<()> {
    say("the program's own time");
    let folder = std::fs::File::open(other.path())?;
    let empty = Empty::on_connect(folder.as_fd())?;
    let statistics = enable_stats(Stats::RunTime).context("enable the kernel's statistics")?;
    let of_program = || governed.program(PROGRAM).map(|report| (report.runs, report.run_time_ns));
    let mut times = vec![(Vec::new(), Vec::new()); cases.len()];
    let mut nothing = Vec::new();
    for _ in 0..TURNS {
        for (case, (few, random)) in cases.iter().zip(&mut times) {
            case.agent.enter(worker.pid())?;
            few.push(mean(worker, case.few(), &of_program)?);
            random.push(mean(worker, case.random, &of_program)?);
        }
        other.enter(worker.pid())?;
        nothing.push(mean(worker, 0, &|| empty.statistics())?);
    }
    drop(statistics);
    let nothing = median(nothing);
    let times: Vec<_> = times.into_iter().map(|(few, random)| (median(few), median(random))).collect();
    let mut rows = vec![vec!["an empty program".to_owned(), figure(nothing), figure(nothing)]];
    rows.extend(
        cases
            .iter()
            .zip(&times)
            .map(|(case, &(few, random))| vec![case.name.clone(), figure(few), figure(random)]),
    );
    println!(
        "`{PROGRAM}` by `bpf_stats`, ns: median over {TURNS} turns of the mean of {CONNECTS} runs. Every connect goes \
         to the next of {FEW} addresses, or of {}.\n",
        policies::ADDRESSES
    );
    let (few, random) = (format!("{FEW} addresses"), "addresses at random".to_owned());
    table(&["program", &few, &random], &rows);
    let measured: Vec<_> = cases.iter().map(|case| &case.name).zip(times).collect();
    for (of, than) in COMPARED {
        let case = |at: usize| measured.get(at).context("no such policy");
        let ((of, of_times), (than, than_times)) = (case(of)?, case(than)?);
        goal(&format!("{of}, against {than}: time, {few}"), of_times.0 / than_times.0, 1.25);
        goal(&format!("{of}, against {than}: time, {random}"), of_times.1 / than_times.1, 1.25);
    }
    println!();
    Ok(())
}

/// The mean time of a run of a program while the worker connects.
fn mean(worker: &mut Worker, destinations: u64, statistics: &dyn Fn() -> Result<(u64, u64)>) -> Result<f64> {
    let (runs, time) = statistics()?;
    worker.order(destinations)?;
    let (runs_after, time_after) = statistics()?;
    Ok((time_after - time) as f64 / (runs_after - runs) as f64)
}

/// Connect + accept + close, with and without.
fn whole(
    worker: &mut Worker,
    restricted: &mut [(usize, Worker)],
    cases: &[Case],
    (plain, other): (&Cgroup, &Cgroup),
) -> Result<()> {
    say("connect + accept + close");
    let mut rows = Vec::new();
    let mut judged = Vec::new();
    plain.enter(worker.pid())?;
    let measured = pairs(|with| {
        (if with { other } else { plain }).enter(worker.pid())?;
        worker.order(0)
    })?;
    rows.push(measured.row("nothing against nothing: how exact this is"));
    for case in cases {
        let measured = pairs(|with| {
            (if with { &case.agent } else { plain }).enter(worker.pid())?;
            worker.order(case.random)
        })?;
        rows.push(measured.row(&format!("governed and allowed: {}", case.name)));
        judged.push((case.name.clone(), measured.slower()));
    }
    plain.enter(worker.pid())?;
    for (rules, peer) in restricted.iter_mut() {
        let measured = pairs(|with| if with { peer.order(0) } else { worker.order(0) })?;
        rows.push(measured.row(&format!("Landlock, {rules} ports")));
    }
    if restricted.is_empty() {
        rows.push(vec!["Landlock: this kernel has none for ports".into(), "".into(), "".into(), "".into()]);
    }
    println!("connect + accept + close on loopback: medians over {PAIRS} pairs of {CONNECTS} each.\n");
    table(&["", "without, ns", "with, ns", "slower by"], &rows);
    for (name, slower) in judged {
        goal(&format!("{name}: % slower"), slower, 3.0);
    }
    println!();
    Ok(())
}

/// What pairs of turns came to, without and with, in nanoseconds of one connect.
struct Pairs {
    without: Vec<f64>,
    with: Vec<f64>,
}

/// Measures in pairs, and in every other pair the other way round.
fn pairs(mut turn: impl FnMut(bool) -> Result<u64>) -> Result<Pairs> {
    let mut pairs = Pairs { without: Vec::new(), with: Vec::new() };
    for number in 0..PAIRS {
        let first = number % 2 == 1;
        for with in [first, !first] {
            let time = turn(with)? as f64 / CONNECTS as f64;
            (if with { &mut pairs.with } else { &mut pairs.without }).push(time);
        }
    }
    Ok(pairs)
}

impl Pairs {
    /// How much slower it is with, in percent.
    fn slower(&self) -> f64 {
        let ratios = self.without.iter().zip(&self.with).map(|(without, with)| with / without);
        (median(ratios.collect()) - 1.0) * 100.0
    }

    fn row(&self, name: &str) -> Vec<String> {
        let [without, with] = [&self.without, &self.with].map(|times| figure(median(times.clone())));
        vec![name.to_owned(), without, with, format!("{:+.2} %", self.slower())]
    }
}

/// As many ports as there are rules, the one that is connected to among them.
fn ports(port: u16, rules: usize) -> impl Iterator<Item = u16> {
    let others = (1_u16..).filter(move |other| *other != port).take(rules - 1);
    others.chain([port])
}

/// Where the worker connects to, which it also accepts from.
struct Listener {
    socket: TcpListener,
    port: u16,
}

impl Listener {
    /// On a free port of every address.
    fn open() -> Result<Self> {
        let socket = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).context("listen")?;
        // What is accepted inherits it: closing resets, so that no connection is left to wait.
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        // SAFETY: the option with its size.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                (&raw const linger).cast(),
                size_of::<libc::linger>() as u32,
            )
        };
        checked(set).context("linger")?;
        Ok(Self { port: socket.local_addr()?.port(), socket })
    }

    /// Connects a number of times, to destinations in their order, and gives the nanoseconds that took of a processor.
    fn work(&self, destinations: Vec<Vec<Ipv4Addr>>) -> Result<Work> {
        let socket = self.socket.try_clone()?;
        let port = self.port;
        let mut at = 0;
        Ok(Box::new(move |which| {
            let addresses = destinations.get(which as usize)?;
            let start = processor_time();
            for address in addresses.iter().cycle().skip(at).take(CONNECTS) {
                connect(&socket, *address, port).map_err(|error| eprintln!("{address}: {error}")).ok()?;
            }
            let time = processor_time() - start;
            at = (at + CONNECTS) % addresses.len();
            Some(time)
        }))
    }
}

/// Nanoseconds that this process has had a processor: what others do meanwhile does not count.
fn processor_time() -> u64 {
    clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn checked(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Connect, accept, close twice.
fn connect(listener: &TcpListener, address: Ipv4Addr, port: u16) -> io::Result<()> {
    let to = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(address).to_be() },
        sin_zero: [0; 8],
    };
    let bytes = size_of::<libc::sockaddr_in>() as u32;
    // SAFETY: the address with its size, and descriptors that these calls made.
    unsafe {
        let client = checked(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0))?;
        checked(libc::connect(client, (&raw const to).cast(), bytes))?;
        let server = checked(libc::accept(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut()))?;
        checked(libc::close(server))?;
        checked(libc::close(client))?;
    }
    Ok(())
}
