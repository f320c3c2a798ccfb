//! Figures for people: medians, tables, and goals beside what was measured.

use std::fmt::Display;

/// The middle of some figures; of an even number of them, the upper middle. 0 of none.
pub(crate) fn median(figures: Vec<f64>) -> f64 {
    percentile(figures, 0.5)
}

/// The figure below which a share of them are, from 0 to below 1. 0 of none.
pub(crate) fn percentile(mut figures: Vec<f64>, share: f64) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get((figures.len() as f64 * share) as usize).copied().unwrap_or(0.0)
}

/// Says what is going on, for whoever waits.
pub(crate) fn say(what: impl Display) {
    eprintln!("bench: {what}");
}

/// Prints rows under a head, as Markdown.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) {
    let line = |cells: Vec<&str>| println!("| {} |", cells.join(" | "));
    line(head.to_vec());
    line(head.iter().enumerate().map(|(column, _)| if column == 0 { "---" } else { "---:" }).collect());
    for row in rows {
        line(row.iter().map(String::as_str).collect());
    }
    println!();
}

/// Prints one goal and whether it held.
pub(crate) fn goal(what: &str, measured: f64, below: f64) {
    let held = if measured < below { "holds" } else { "DOES NOT HOLD" };
    println!("- {what}: {} (goal: less than {}): {held}", figure(measured), figure(below));
}

/// A figure with as many digits as mean something.
pub(crate) fn figure(figure: f64) -> String {
    if figure.abs() < 100.0 { format!("{figure:.2}") } else { format!("{figure:.0}") }
}

/// The running kernel's release.
pub(crate) fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_owned()
}
