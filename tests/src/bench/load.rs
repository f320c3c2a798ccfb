//! `load`: how long it takes from the text of a policy to its being in the kernel, natively.

use std::time::Instant;

use anyhow::Result;
use enforcer::kernel::Governing;

use crate::governed::{Governed, compiled};
use crate::policies::{self, Globs};
use crate::report::{figure, goal, kernel, median, say, table};

const TIMES: usize = 9;
const RULES: usize = 10_000;

pub(crate) fn run() -> Result<()> {
    let texts = [
        ("10,000 network rules, a prefix and a port each", policies::network(RULES, 1, 443).text),
        ("10,000 network rules, 100,000 prefixes", policies::network(RULES, 10, 443).text),
        ("10,000 file rules, globs that begin fixed", policies::files(RULES, Globs::Fixed, "/srv/a/**")),
        ("10,000 file rules, globs of every kind", policies::files(RULES, Globs::Mixed, "/srv/a/**")),
    ];
    let governed = Governed::open(Governing::NetworkOnly, None)?;
    println!("load, natively, kernel {}: medians of {TIMES}, in milliseconds.\n", kernel());
    let mut rows = Vec::new();
    let mut sums = Vec::new();
    for (name, text) in &texts {
        say(name);
        let (mut compiling, mut loading, mut sum) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..TIMES {
            let start = Instant::now();
            let tables = compiled(text)?;
            let compiled = start.elapsed().as_secs_f64() * 1e3;
            let slot = governed.kernel().load_policy(1, &tables)?;
            let all = start.elapsed().as_secs_f64() * 1e3;
            governed.kernel().unload_policy(slot)?;
            compiling.push(compiled);
            loading.push(all - compiled);
            sum.push(all);
        }
        let figures = [median(compiling), median(loading), median(sum)];
        sums.push((name, figures[2]));
        rows.push([(*name).to_owned()].into_iter().chain(figures.map(figure)).collect());
    }
    table(&["policy", "check and compile", "load", "both"], &rows);
    for (name, sum) in sums {
        goal(&format!("{name}: compile and load, ms"), sum, 1000.0);
    }
    println!();
    Ok(())
}
