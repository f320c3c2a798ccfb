//! An agent's cgroup: its folder, who is in it, and entering it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Makes the cgroup of an agent and tells its id.
pub(super) fn create(folder: &Path) -> io::Result<u64> {
    fs::create_dir(folder)?;
    Ok(fs::metadata(folder)?.ino())
}

/// That there is no such cgroup, or not any more.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

/// Removes it with the cgroups below, if there is nobody in them. That it is gone already is as good.
pub(crate) fn remove(folder: &Path) -> io::Result<()> {
    if let Ok(entries) = fs::read_dir(folder) {
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                remove(&entry.path())?;
            }
        }
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Whether a process is in the cgroup or below it. One that is gone has nobody in it.
pub(super) fn is_populated(folder: &Path) -> io::Result<bool> {
    match fs::read_to_string(folder.join("cgroup.events")) {
        Ok(events) => Ok(events.lines().any(|line| line == "populated 1")),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The processes in the cgroup and below it. Whoever makes cgroups so deep that their paths are too long to be read hides
/// nobody by that: who is in them counts as outside.
pub(crate) fn processes(folder: &Path) -> io::Result<Vec<u32>> {
    let gone = |error: &io::Error| is_gone(error) || error.raw_os_error() == Some(libc::ENAMETOOLONG);
    let mut all = match fs::read_to_string(folder.join("cgroup.procs")) {
        Ok(text) => text.lines().filter_map(|line| line.parse().ok()).collect(),
        // A threaded cgroup does not tell its processes; its domain above does.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Vec::new(),
        Err(error) if gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    match fs::read_dir(folder) {
        Ok(entries) => {
            for entry in entries {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    all.extend(processes(&entry.path())?);
                }
            }
            Ok(all)
        }
        Err(error) if gone(&error) => Ok(all),
        Err(error) => Err(error),
    }
}

/// Moves a process with all its threads into the cgroup.
pub(super) fn enter(folder: &Path, pid: u32) -> io::Result<()> {
    fs::write(folder.join("cgroup.procs"), pid.to_string())
}

/// The cgroup of a process, under the mount of the hierarchy.
pub(super) fn of(pid: u32, mount: &Path) -> io::Result<Option<PathBuf>> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    Ok(parse(&text).map(|path| mount.join(path.trim_start_matches('/'))))
}

/// The path of the line for v2: `0::/path`. One that was removed bears a note.
pub(crate) fn parse(text: &str) -> Option<&str> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(path.strip_suffix(" (deleted)").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn the_line_for_v2_is_found_beside_v1() {
        assert_eq!(parse("3:cpu:/a\n0::/enforcer/x-1\n"), Some("/enforcer/x-1"));
        assert_eq!(parse("0::/enforcer/x-1 (deleted)\n"), Some("/enforcer/x-1"));
        assert_eq!(parse("1:name=systemd:/\n"), None);
    }
}
