//! `open`: in a guest whose clock counts instructions, so that a nanosecond is an instruction and figures repeat.

use std::ffi::CString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use enforcer::kernel::{Governing, LogLevel};

use crate::bpf::Empty;
use crate::governed::{Cgroup, Governed, Outside, compiled};
use crate::landlock;
use crate::policies::{self, Globs};
use crate::report::{figure, goal, kernel, median, say, table};
use crate::worker::{Work, Worker};

/// Until a guest that has just booted has nothing more to do.
const SETTLE: Duration = Duration::from_secs(20);

/// Until programs whose pins are gone are gone too, which the kernel does at leisure.
const UNLOAD: Duration = Duration::from_secs(2);

/// Opens between two looks at the clock, and how often that is done.
const OPENS: usize = 40;
const SEEN_TURNS: usize = 41;
const NEW_FILES: usize = OPENS * 11;
const NEW_FOLDERS: usize = OPENS * 7;

/// All that is measured lies below it, and a rule of every policy allows to read it.
const TREE: &str = "/srv/a";
const TREE_GLOB: &str = "/srv/a/**";
/// Five folders deep, like everything else that is opened.
const FILE: &str = "/srv/a/b/c/d/file.txt";
/// For the rules of Landlock, which are on folders that exist.
const OTHERS: &str = "/srv/others";

const RULES: [usize; 2] = [10, 10_000];

/// Instructions of one open + close.
#[derive(Clone, Copy)]
struct Cost {
    /// Of a file that was opened before.
    seen: f64,
    /// Of a file in a folder whose other files were opened before.
    new_file: f64,
    /// Of a file in a folder in which nothing was.
    new_folder: f64,
}

impl Cost {
    fn figures(self) -> [f64; 3] {
        [self.seen, self.new_file, self.new_folder]
    }
}

/// Who opens.
#[derive(Clone, Copy, PartialEq)]
enum Thread {
    Leader,
    Other,
}

/// All that was measured, in order.
struct Bench {
    outside: Outside,
    alone: Cost,
    rows: Vec<Vec<String>>,
    trees: u8,
}

pub(crate) fn run() -> Result<()> {
    thread::sleep(SETTLE);
    fs::create_dir_all("/srv/a/b/c/d").context(FILE)?;
    File::create(FILE).context(FILE)?;
    let nothing = || Ok(());
    let outside = Outside::make("outside")?;
    let alone = measure(0, &outside.plain, Thread::Leader, nothing)?;
    let mut bench = Bench { outside, alone, rows: Vec::new(), trees: 0 };

    say("an empty program");
    let empty = Empty::on_file_open()?;
    let empty_cost = bench.add("an empty program on the hook", None, nothing)?;
    drop(empty);

    say("loading enforcer");
    let mut governed = Governed::open(Governing::RequireLsm, None)?;
    let outside = bench.add("not governed, enforcer loaded", None, nothing)?;
    let outside_thread =
        bench.add_thread("not governed, not the first thread", None, Thread::Other, nothing)?;
    let mut flat = Vec::new();
    let mut first = None;
    for (globs, words) in [(Globs::Fixed, "fixed folders first"), (Globs::Mixed, "of every kind")] {
        let mut costs = Vec::new();
        for rules in RULES {
            say(format_args!("{rules} globs, {words}"));
            let agent = governed.agent(&compiled(&policies::files(rules, globs, TREE_GLOB))?)?;
            let cost = bench.add(&format!("governed: {rules} globs, {words}"), Some(&agent), nothing)?;
            first = first.or(Some(cost));
            costs.push(cost);
        }
        flat.push((words, costs));
    }
    drop(governed);
    thread::sleep(UNLOAD);

    let mut peers = Vec::new();
    for rules in RULES {
        say(format_args!("Landlock, {rules} rules"));
        let folders = others(rules - 1)?;
        let restrict =
            move || landlock::allow_reading(folders.iter().map(PathBuf::as_path).chain([Path::new(TREE)]));
        peers.push(bench.add(&format!("Landlock: {rules} rules"), None, restrict)?);
    }

    say("with --kernel-log");
    let mut governed = Governed::open(Governing::RequireLsm, Some(LogLevel::Debug))?;
    let agent = governed.agent(&compiled(&policies::files(10, Globs::Fixed, TREE_GLOB))?)?;
    let logging = bench.add("governed: 10 globs, with `--kernel-log debug`", Some(&agent), nothing)?;
    drop(agent);
    drop(governed);
    thread::sleep(UNLOAD);
    bench.add("alone again", None, nothing)?;

    bench.print();
    let over_empty = |cost: Cost| cost.seen - empty_cost.seen;
    goal("not governed, over an empty program", over_empty(outside), 130.0);
    goal("not governed, not the first thread, over an empty program", over_empty(outside_thread), 130.0);
    for (words, costs) in &flat {
        let [few, many] = costs.as_slice() else { continue };
        let added = |cost: &Cost| cost.new_folder;
        goal(
            &format!("10,000 globs against 10, {words}: what governing adds"),
            added(many) / added(few),
            1.25,
        );
        for (what, figure, below) in [
            ("a file seen before", many.seen, 500.0),
            ("a new file in a folder seen before", many.new_file, 1500.0),
            ("the first file in a folder", many.new_folder, 3000.0),
        ] {
            goal(&format!("10,000 globs, {words}: {what}"), figure, below);
        }
    }
    if let (Some(first), Some(peer)) = (first, peers.first()) {
        println!(
            "- a file seen before, 10 rules, of what Landlock adds: {} %",
            figure(100.0 * first.seen / peer.seen)
        );
        println!(
            "- what `--kernel-log debug` adds to an allowed open: {}",
            figure(logging.seen - first.seen)
        );
    }
    println!();
    Ok(())
}

impl Bench {
    /// Measures and gives what is added to being alone.
    fn add(
        &mut self,
        name: &str,
        place: Option<&Cgroup>,
        prepare: impl FnOnce() -> Result<()> + 'static,
    ) -> Result<Cost> {
        self.add_thread(name, place, Thread::Leader, prepare)
    }

    fn add_thread(
        &mut self,
        name: &str,
        place: Option<&Cgroup>,
        by: Thread,
        prepare: impl FnOnce() -> Result<()> + 'static,
    ) -> Result<Cost> {
        self.trees += 1;
        let cost = measure(self.trees, place.unwrap_or(&self.outside.plain), by, prepare)
            .with_context(|| name.to_owned())?;
        let added = Cost {
            seen: cost.seen - self.alone.seen,
            new_file: cost.new_file - self.alone.new_file,
            new_folder: cost.new_folder - self.alone.new_folder,
        };
        let figures = added.figures().map(|figure| format!("{figure:+.0}"));
        self.rows.push([name.to_owned()].into_iter().chain(figures).collect());
        Ok(added)
    }

    fn print(&self) {
        println!("open + close five folders deep, kernel {}: instructions.\n", kernel());
        let alone = [("alone".to_owned())].into_iter().chain(self.alone.figures().map(figure)).collect();
        let rows: Vec<_> = [alone].into_iter().chain(self.rows.iter().cloned()).collect();
        table(&["", "a file seen before", "a new file, folder seen before", "the first in a folder"], &rows);
    }
}

/// Has a worker open files in a tree of its own, of which nothing has been seen.
fn measure(
    tree: u8,
    place: &Cgroup,
    by: Thread,
    prepare: impl FnOnce() -> Result<()> + 'static,
) -> Result<Cost> {
    let sets = sets(tree)?;
    let mut worker = Worker::start(|| {
        prepare()?;
        Ok(work(sets, by))
    })?;
    place.enter(worker.pid())?;
    let mut cost = |set: u64| worker.order(set).map(|time| time as f64 / OPENS as f64);
    Ok(Cost { seen: cost(0)?, new_file: cost(1)?, new_folder: cost(2)? })
}

/// The files of the three kinds of opens, made and in the kernel's caches.
fn sets(tree: u8) -> Result<[Vec<CString>; 3]> {
    let letter = char::from(b'e' + tree);
    let folder = format!("/srv/a/b/c/{letter}");
    fs::create_dir_all(&folder).context("a folder")?;
    let new_files = (0..NEW_FILES).map(|number| format!("{folder}/f{number:07}")).collect();
    let mut new_folders = Vec::new();
    for number in 0..NEW_FOLDERS {
        let folder = format!("/srv/a/{letter}/{number:03}/d");
        fs::create_dir_all(&folder).context("a folder")?;
        new_folders.push(format!("{folder}/file.txt"));
    }
    let seen = vec![FILE.to_owned(); OPENS * SEEN_TURNS];
    let made = |paths: Vec<String>| {
        paths
            .into_iter()
            .map(|path| {
                File::options().create(true).append(true).open(&path).with_context(|| path.clone())?;
                Ok(CString::new(path)?)
            })
            .collect::<Result<Vec<_>>>()
    };
    Ok([made(seen)?, made(new_files)?, made(new_folders)?])
}

/// Opens and closes every file of a set; gives the middle of the times of [`OPENS`] of them.
fn work(sets: [Vec<CString>; 3], by: Thread) -> Work {
    Box::new(move |which| {
        let files = sets.get(which as usize)?;
        match by {
            Thread::Leader => opened(files),
            Thread::Other => thread::scope(|scope| scope.spawn(|| opened(files)).join().ok()?),
        }
    })
}

fn opened(files: &[CString]) -> Option<u64> {
    let mut times = Vec::with_capacity(files.len() / OPENS);
    for files in files.chunks_exact(OPENS) {
        let start = Instant::now();
        for file in files {
            // SAFETY: a path that ends, and a descriptor of ours.
            unsafe {
                let number = libc::open(file.as_ptr(), libc::O_RDONLY);
                if number < 0 {
                    eprintln!("enforcer-bench: {file:?}: {}", std::io::Error::last_os_error());
                    return None;
                }
                libc::close(number);
            }
        }
        times.push(start.elapsed().as_nanos() as f64);
    }
    Some(median(times) as u64)
}

/// As many folders as asked for.
fn others(count: usize) -> Result<Vec<PathBuf>> {
    (0..count)
        .map(|number| {
            let folder = Path::new(OTHERS).join(number.to_string());
            fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
            Ok(folder)
        })
        .collect()
}
