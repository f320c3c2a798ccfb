//! The object with the programs, and its loading for the running kernel.

use aya::{Btf, Ebpf, EbpfError, EbpfLoader};
use aya_obj::{Object, ParseError};
use std::{collections::BTreeMap, io};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/enforcer-ebpf"));

/// What the programs are told before they are loaded; the verifier takes all of it for constants.
#[derive(Clone, Debug)]
pub(super) struct Globals {
    /// Offsets of fields, by the name of the global.
    pub(super) offsets: Vec<(&'static str, u64)>,
    /// Whether the LSM programs are attached too.
    pub(super) lsm: bool,
    /// Whether a look-up in task storage may fail for a lock.
    pub(super) storage_locks: bool,
    /// Whether a socket can be found by its subflow.
    pub(super) mptcp: bool,
    /// Whether cgroup programs may send signals.
    pub(super) signals: bool,
    /// The bit of a thread's flags that says that a signal is pending.
    pub(super) signal_pending: u64,
    /// The level of agents' own cgroups.
    pub(super) agent_level: u32,
    /// Which lines for debugging are written, if any.
    pub(super) log: Option<LogLevel>,
}

/// Which lines for debugging the programs write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What each hook returns. There are no others, so no other level would show any.
    Debug = 4,
}

/// Makes the maps and prepares the programs. Nothing is attached, and nothing is pinned.
pub(super) fn load(globals: &Globals, keys: [u64; 2], types: &Btf) -> Result<Ebpf, EbpfError> {
    let lsm = u8::from(globals.lsm);
    let storage_locks = u8::from(globals.storage_locks);
    let mptcp = u8::from(globals.mptcp);
    let signals = u8::from(globals.signals);
    let log_level = globals.log.map_or(0, |level| level as u8);
    let [first, second] = keys;
    let mut loader = EbpfLoader::new();
    // The storage of tasks is a kind of map that Aya does not know.
    loader.btf(Some(types)).allow_unsupported_maps();
    for (name, offset) in &globals.offsets {
        // One that no program reads any more is not in the object.
        loader.override_global(name, offset, false);
    }
    loader
        .override_global("LSM", &lsm, true)
        .override_global("STORAGE_LOCKS", &storage_locks, true)
        .override_global("MPTCP", &mptcp, true)
        .override_global("SIGNALS", &signals, true)
        .override_global("SIGNAL_PENDING", &globals.signal_pending, true)
        .override_global("AGENT_LEVEL", &globals.agent_level, true)
        .override_global("HASH_KEY0", &first, false)
        .override_global("HASH_KEY1", &second, false)
        .override_global("AYA_LOG_LEVEL", &log_level, false)
        .load(OBJECT)
}

/// A key that nobody can guess.
pub(super) fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        // SAFETY: the kernel writes at most as many bytes as the slice has.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(got) {
            Ok(got) => filled += got,
            Err(_) => return Err(io::Error::last_os_error()),
        }
    }
    Ok(u64::from_ne_bytes(bytes))
}

/// A map as the object declares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MapShape {
    pub(super) kind: u32,
    pub(super) key_bytes: u32,
    pub(super) value_bytes: u32,
    pub(super) max_entries: u32,
}

/// The maps that are pinned, as the object declares them. The loader's own, for globals, are not among them:
/// nothing but the programs needs those.
pub(super) fn map_shapes() -> Result<BTreeMap<String, MapShape>, ParseError> {
    let object = Object::parse(OBJECT)?;
    let shapes = object.maps.iter().filter(|(name, _)| !name.starts_with('.')).map(|(name, map)| {
        let shape = MapShape {
            kind: map.map_type(),
            key_bytes: map.key_size(),
            value_bytes: map.value_size(),
            max_entries: map.max_entries(),
        };
        (name.clone(), shape)
    });
    Ok(shapes.collect())
}

#[cfg(test)]
mod tests {
    use super::OBJECT;
    use crate::kernel::attach::PLACES;
    use std::collections::BTreeSet;

    #[test]
    fn every_program_of_the_object_has_a_place() {
        let object = aya_obj::Object::parse(OBJECT).unwrap();
        let programs: BTreeSet<_> = object.programs.keys().map(String::as_str).collect();
        let places: BTreeSet<_> = PLACES.iter().map(|place| place.program).collect();
        assert_eq!(programs, places);
    }

    #[test]
    fn every_map_of_the_object_has_a_name_that_can_be_pinned() {
        let shapes = super::map_shapes().unwrap();
        assert!(shapes.contains_key("META"), "{shapes:?}");
        assert!(shapes.keys().all(|name| !name.contains('.')), "{shapes:?}");
    }
}
