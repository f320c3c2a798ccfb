//! The file of events: one JSON object a line.
//!
//! Lines wait in memory until all of one fits into the file. A disk that is full takes the beginning of a line and no
//! more: what it took is cut off again, and the line is written once there is room. Only what there is no memory for
//! meanwhile is lost, in whole lines, and counted.

use super::told::Told;
use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Bytes of lines that wait for the file.
const WAITING_BYTES: usize = 1 << 20;
/// How often it is looked whether the file was renamed, to begin another.
const LOOK: Duration = Duration::from_secs(1);

/// What lines are appended to.
trait Target: Write {
    /// Takes back the last bytes that were written.
    fn cut(&mut self, bytes: u64) -> io::Result<()>;
}

impl Target for File {
    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        let length = self.metadata()?.len();
        self.set_len(length.saturating_sub(bytes))
    }
}

/// Lines on their way to a target.
#[derive(Debug)]
struct Lines<T> {
    out: T,
    /// Whole lines, but for the first where its beginning is in the target and cannot be cut off.
    waiting: Vec<u8>,
    /// Whether the first that waits has its beginning in the target.
    begun: bool,
    dropped: u64,
}

impl<T: Target> Lines<T> {
    fn to(out: T) -> Self {
        Self { out, waiting: Vec::new(), begun: false, dropped: 0 }
    }

    /// Puts a line to those that wait. Where there is no room for it in memory either, it is lost.
    fn push(&mut self, line: &[u8]) -> io::Result<()> {
        let mut written = Ok(());
        if self.waiting.len() + line.len() > WAITING_BYTES {
            written = self.flush();
        }
        if self.waiting.len() + line.len() > WAITING_BYTES {
            self.dropped += 1;
        } else {
            self.waiting.extend_from_slice(line);
        }
        written
    }

    /// Writes what waits, or as many whole lines of it as there is room for.
    fn flush(&mut self) -> io::Result<()> {
        let mut written = 0;
        let result = loop {
            match self.waiting.get(written..) {
                None | Some([]) => break Ok(()),
                Some(rest) => match self.out.write(rest) {
                    Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                    Ok(count) => written += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => break Err(error),
                },
            }
        };
        self.settle(written);
        result
    }

    /// Forgets the lines that are in the target, and takes the beginning of another back.
    fn settle(&mut self, written: usize) {
        let took = self.waiting.get(..written).unwrap_or_default();
        let whole = took.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let part = written - whole;
        self.begun &= whole == 0;
        if part > 0 && !self.begun && self.out.cut(part as u64).is_ok() {
            self.waiting.drain(..whole);
            return;
        }
        self.begun |= part > 0;
        self.waiting.drain(..written);
    }

    /// Goes on in another target. A line that has its beginning in the one before is lost.
    fn go_on_in(&mut self, out: T) {
        self.out = out;
        if std::mem::take(&mut self.begun) {
            let end =
                self.waiting.iter().position(|byte| *byte == b'\n').map_or(self.waiting.len(), |at| at + 1);
            self.waiting.drain(..end);
            self.dropped += 1;
        }
    }

    /// Gives up what waits.
    fn give_up(&mut self) {
        self.dropped += self.waiting.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.waiting.clear();
    }
}

/// The file, which may be renamed under us at any time.
#[derive(Debug)]
pub(super) struct EventFile {
    path: PathBuf,
    lines: Lines<File>,
    looked: Instant,
    /// Whether the last write failed, so that each trouble is told of once.
    failing: bool,
}

impl EventFile {
    /// Opens the file at its end.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let lines = Lines::to(open(path)?);
        Ok(Self { path: path.to_owned(), lines, looked: Instant::now(), failing: false })
    }

    /// Writes a line, by the next flush at the latest.
    pub(super) fn write(&mut self, told: &Told) {
        let pushed = self.lines.push(&told.line());
        self.note(pushed);
    }

    /// Sees to it that what was written is in the file.
    pub(super) fn flush(&mut self) {
        let flushed = self.lines.flush();
        self.note(flushed);
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            self.follow();
        }
    }

    /// Writes what can be written, and counts the rest as lost.
    pub(super) fn close(&mut self) {
        self.flush();
        let before = self.lines.dropped;
        self.lines.give_up();
        let lost = self.lines.dropped - before;
        if lost > 0 {
            tracing::error!(file = %self.path.display(), lost, "the last events could not be written");
        }
    }

    /// How many lines could not be written.
    #[must_use]
    pub(super) fn dropped(&self) -> u64 {
        self.lines.dropped
    }

    fn note(&mut self, result: io::Result<()>) {
        match result {
            Ok(()) if self.failing && self.lines.waiting.is_empty() => {
                self.failing = false;
                tracing::info!(file = %self.path.display(), dropped = self.dropped(), "events are written again");
            }
            Ok(()) => {}
            Err(error) => {
                if !self.failing {
                    self.failing = true;
                    tracing::error!(file = %self.path.display(), %error, "events cannot be written");
                }
            }
        }
    }

    /// Begins another file where this one was renamed or removed.
    fn follow(&mut self) {
        let named = std::fs::metadata(&self.path).ok().map(|file| (file.dev(), file.ino()));
        let held = self.lines.out.metadata().ok().map(|file| (file.dev(), file.ino()));
        if named == held {
            return;
        }
        match open(&self.path) {
            Ok(file) => self.lines.go_on_in(file),
            Err(error) => self.note(Err(error)),
        }
    }
}

/// Bytes of a line at most, as far as the end of a file is searched for the beginning of one.
const LINE_BYTES: u64 = 1 << 20;

/// Opens the file at its end. A daemon that was killed may have left half a line there, which no reader of JSON gets
/// over: it is cut off. Its event is lost, as are all that the daemon had in memory then.
fn open(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Ok(file);
    }
    let begin = about.len().saturating_sub(LINE_BYTES);
    let mut end = Vec::new();
    let mut reader = File::open(path)?;
    reader.seek(SeekFrom::Start(begin))?;
    reader.read_to_end(&mut end)?;
    match end.iter().rposition(|byte| *byte == b'\n') {
        Some(last) => file.cut((end.len() - last - 1) as u64)?,
        None if begin == 0 => file.set_len(0)?,
        // Nothing that a daemon wrote.
        None => file.write_all(b"\n")?,
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::{EventFile, Lines, Target, WAITING_BYTES};
    use crate::{
        agents::names::Names,
        events::{
            Told,
            decode::{Decided, EventView, tests::event},
        },
        kernel::clock::Wall,
    };
    use std::{
        fs,
        io::{self, Write},
        time::Instant,
    };

    fn decided() -> Told {
        Told::Decision(Decided::new(event(), b"/a", &Names::default(), &Wall::now()).into())
    }

    /// A disk with room for so many bytes.
    struct Disk {
        bytes: Vec<u8>,
        room: usize,
        cuts: bool,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room - self.bytes.len());
            if count == 0 {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            self.bytes.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Target for Disk {
        fn cut(&mut self, bytes: u64) -> io::Result<()> {
            if !self.cuts {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            self.bytes.truncate(self.bytes.len() - bytes as usize);
            Ok(())
        }
    }

    fn lines_on(room: usize, cuts: bool) -> Lines<Disk> {
        Lines::to(Disk { bytes: Vec::new(), room, cuts })
    }

    #[test]
    fn each_line_is_an_event_and_a_renamed_file_is_followed_by_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let mut file = EventFile::open(&path).unwrap();
        file.write(&decided());
        file.write(&decided());
        file.flush();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<EventView<'_>> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        fs::rename(&path, folder.path().join("old")).unwrap();
        file.looked = Instant::now().checked_sub(super::LOOK).unwrap();
        file.flush();
        file.write(&decided());
        file.flush();
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
    }

    #[test]
    fn a_full_disk_drops_whole_lines_and_counts_each() {
        let mut lines = lines_on(1000, true);
        let line = [&[b'x'; 299], b"\n".as_slice()].concat();
        let pushed = 2 * WAITING_BYTES / line.len();
        for _ in 0..pushed {
            let _ = lines.push(&line);
            let _ = lines.flush();
        }
        assert_eq!(lines.out.bytes, line.repeat(3), "whole lines, and nothing of a fourth");
        let waiting = lines.waiting.len() / line.len();
        assert_eq!((3 + waiting) as u64 + lines.dropped, pushed as u64);
        lines.out.room = usize::MAX;
        lines.push(b"last\n").unwrap();
        lines.flush().unwrap();
        let written = lines.out.bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
        assert_eq!(written as u64 + lines.dropped, pushed as u64 + 1);
        assert!(lines.out.bytes.ends_with(b"\nlast\n"));
    }

    #[test]
    fn what_cannot_be_cut_off_is_completed_there_or_lost() {
        let mut lines = lines_on(8, false);
        for line in ["one\n", "two\n", "three\n"] {
            lines.push(line.as_bytes()).unwrap();
        }
        lines.out.room = 10;
        lines.flush().unwrap_err();
        assert_eq!(lines.out.bytes, b"one\ntwo\nth");
        lines.out.room = 11;
        lines.flush().unwrap_err();
        lines.out.room = 100;
        lines.flush().unwrap();
        assert_eq!((lines.out.bytes.as_slice(), lines.dropped), (b"one\ntwo\nthree\n".as_slice(), 0));
        lines.out.room = 16;
        for line in ["four\n", "five\n"] {
            lines.push(line.as_bytes()).unwrap();
        }
        lines.flush().unwrap_err();
        lines.go_on_in(Disk { bytes: Vec::new(), room: 100, cuts: false });
        lines.flush().unwrap();
        assert_eq!((lines.out.bytes.as_slice(), lines.dropped), (b"five\n".as_slice(), 1));
    }

    #[test]
    fn what_another_left_half_written_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        for (before, kept) in [("{\"time\":", ""), ("{}\n{\"time\":", "{}\n"), ("{}\n", "{}\n"), ("", "")] {
            fs::write(&path, before).unwrap();
            let mut file = EventFile::open(&path).unwrap();
            file.write(&decided());
            file.close();
            let text = fs::read_to_string(&path).unwrap();
            let line = text.strip_prefix(kept).unwrap();
            serde_json::from_str::<EventView<'_>>(line).unwrap();
        }
    }

    #[test]
    fn what_is_no_file_of_events_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let other = vec![b'x'; (super::LINE_BYTES + 1) as usize];
        fs::write(&path, &other).unwrap();
        drop(EventFile::open(&path).unwrap());
        assert_eq!(fs::read(&path).unwrap(), [other, b"\n".to_vec()].concat());
    }

    #[test]
    fn what_is_left_at_the_end_is_lost_and_counted() {
        let mut file = EventFile::open(std::path::Path::new("/dev/full")).unwrap();
        for _ in 0..10_000 {
            file.write(&decided());
        }
        assert!(file.dropped() > 0);
        file.close();
        assert_eq!(file.dropped(), 10_000);
    }
}
