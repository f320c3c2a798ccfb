//! The kernel's tables of who waits, as the daemon has pinned them.

use aya::maps::{HashMap, Map, MapData};
use enforcer_common::{
    event::Record,
    grant::RequestKey,
    hold::{ThreadKey, Waiter},
};
use enforcer_tests::harness::Daemon;
use libtest_mimic::Failed;

use crate::governed::{Context as _, eventually};

/// Threads that wait, how many of each agent, how many frozen of each process, and what is asked for.
pub(super) const TABLES: [&str; 4] = ["WAITERS", "WAITING", "FROZEN", "REQUESTS"];

/// Waits until nobody is in any of them.
pub(super) fn all_empty(daemon: &Daemon) -> Result<(), Failed> {
    for table in TABLES {
        eventually(table, || Ok((entries(daemon, table)? == 0).then_some(())))?;
    }
    Ok(())
}

/// How many entries a table of the daemon's has.
pub(super) fn entries(daemon: &Daemon, table: &str) -> Result<usize, Failed> {
    let map = MapData::from_pin(daemon.pins().join("maps").join(table)).context(table)?;
    match table {
        "WAITERS" => keys::<{ size_of::<ThreadKey>() }, { size_of::<Waiter>() }>(map),
        "REQUESTS" => keys::<{ size_of::<RequestKey>() }, { size_of::<Record>() }>(map),
        "WAITING" => keys::<8, 8>(map),
        "FROZEN" => keys::<4, 4>(map),
        _ => Err(format!("no table {table}").into()),
    }
}

/// How many keys a map has whose keys and values are of these sizes.
fn keys<const KEY: usize, const VALUE: usize>(map: MapData) -> Result<usize, Failed> {
    let map = HashMap::<_, [u8; KEY], [u8; VALUE]>::try_from(Map::HashMap(map))?;
    Ok(map.keys().filter(Result::is_ok).count())
}
