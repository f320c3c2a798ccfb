//! The file of events: one JSON object a line.

use super::decode::Decided;
use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const BUFFER_BYTES: usize = 1 << 20;
/// How often it is looked whether the file was renamed, to begin another.
const LOOK: Duration = Duration::from_secs(1);

/// The file, which may be renamed under us at any time.
#[derive(Debug)]
pub(super) struct EventFile {
    path: PathBuf,
    out: BufWriter<File>,
    looked: Instant,
    /// Whether the last write failed, so that each trouble is told of once.
    failing: bool,
    dropped: u64,
}

impl EventFile {
    /// Opens the file at its end.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let out = BufWriter::with_capacity(BUFFER_BYTES, open(path)?);
        Ok(Self { path: path.to_owned(), out, looked: Instant::now(), failing: false, dropped: 0 })
    }

    /// Writes a line. What cannot be written is counted, and told of once.
    pub(super) fn write(&mut self, decided: &Decided) {
        let written = serde_json::to_writer(&mut self.out, &decided.view()).map_err(io::Error::from);
        let written = written.and_then(|()| self.out.write_all(b"\n"));
        self.note(written, 1);
    }

    /// Sees to it that what was written is in the file.
    pub(super) fn flush(&mut self) {
        let flushed = self.out.flush();
        self.note(flushed, 0);
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            self.follow();
        }
    }

    /// How many lines could not be written.
    #[must_use]
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    fn note(&mut self, result: io::Result<()>, lines: u64) {
        match result {
            Ok(()) if lines == 0 && self.failing => {
                self.failing = false;
                tracing::info!(file = %self.path.display(), dropped = self.dropped, "events are written again");
            }
            Ok(()) => {}
            Err(error) => {
                self.dropped += lines;
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
        let held = self.out.get_ref().metadata().ok().map(|file| (file.dev(), file.ino()));
        if named == held {
            return;
        }
        match open(&self.path) {
            Ok(file) => self.out = BufWriter::with_capacity(BUFFER_BYTES, file),
            Err(error) => self.note(Err(error), 0),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

#[cfg(test)]
mod tests {
    use super::EventFile;
    use crate::{
        agents::names::Names,
        events::decode::{Decided, EventView, tests::event},
        kernel::clock::Wall,
    };
    use std::{fs, time::Instant};

    fn decided() -> Decided {
        Decided::new(event(), b"/a", &Names::default(), &Wall::now())
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
    fn a_full_disk_drops_lines_and_nothing_else() {
        let mut file = EventFile::open(std::path::Path::new("/dev/full")).unwrap();
        for _ in 0..10_000 {
            file.write(&decided());
        }
        assert!(file.dropped() > 0);
    }
}
