//! What the pinned Rust toolchain lacks: parts of its own, and programs that cargo installs.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::process::{command, output, quietly};
use crate::tree;

const LINKER: &str = "0.13.0";
const DENY: &str = "0.20.2";

fn rustc() -> std::process::Command {
    let mut rustc = command("rustc");
    // The pin in rust-toolchain.toml counts below the tree's root.
    rustc.current_dir(tree::root());
    rustc
}

/// Paths below the sysroot that the components and targets of rust-toolchain.toml bring.
fn parts() -> Result<[PathBuf; 2]> {
    let root = PathBuf::from(output(rustc().args(["--print", "sysroot"]))?.trim());
    let library = root.join("lib/rustlib");
    Ok([library.join("src/rust/library/core/Cargo.toml"), library.join(tree::TRIPLE).join("lib")])
}

pub(crate) fn is_whole() -> Result<bool> {
    Ok(parts()?.iter().all(|part| part.exists()))
}

pub(crate) fn complete() -> Result<()> {
    let rustup = || {
        let mut rustup = command("rustup");
        rustup.current_dir(tree::root());
        rustup
    };
    let hint = "without rustup, install the source of core and the musl target of your rustc by hand";
    quietly(rustup().args(["component", "add", "rust-src"])).context(hint)?;
    quietly(rustup().args(["target", "add", tree::TRIPLE])).context(hint)
}

/// The major of the LLVM that rustc was built with: bitcode of another cannot be linked.
fn llvm_major() -> Result<String> {
    let version = output(rustc().arg("-vV"))?;
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "));
    let major = llvm.and_then(|llvm| llvm.split('.').next()).context("`rustc -vV` names no LLVM version")?;
    Ok(major.to_owned())
}

/// Cargo's own record of what it installed, with versions and features.
fn installed(what: &str) -> bool {
    fs::read_to_string(tree::setup().join(".crates2.json")).is_ok_and(|record| record.contains(what))
}

fn runs(program: &str) -> bool {
    let path = tree::setup().join("bin").join(program);
    path.exists() && output(command(program).arg("--version")).is_ok()
}

pub(crate) fn linker_works() -> Result<bool> {
    let feature = format!("\"llvm-{}\"", llvm_major()?);
    Ok(installed(&format!("\"bpf-linker {LINKER} ")) && installed(&feature) && runs("bpf-linker"))
}

/// LLVM's headers and libraries, and Polly's, which LLVM's own configuration asks for.
pub(crate) fn missing_packages() -> Result<Vec<String>> {
    let major = llvm_major()?;
    let prefix = prefix(&major);
    let brings = [("include/llvm", "llvm"), ("lib/libPolly.a", "libpolly")];
    let missing = brings.iter().filter(|(file, _)| !prefix.join(file).exists());
    Ok(missing.map(|(_, name)| format!("{name}-{major}-dev")).collect())
}

/// Where Debian and apt.llvm.org put an LLVM.
fn prefix(major: &str) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{major}"))
}

pub(crate) fn build_linker() -> Result<()> {
    let major = llvm_major()?;
    let mut install = cargo_install("bpf-linker", LINKER);
    install.args(["--no-default-features", "--features", &format!("llvm-{major}")]);
    quietly(install.env("LLVM_PREFIX", prefix(&major)))
}

pub(crate) fn deny_works() -> bool {
    runs("cargo-deny") && installed(&format!("\"cargo-deny {DENY} "))
}

/// Without optimisation: it looks at one lock file and is built from hundreds of crates.
pub(crate) fn build_deny() -> Result<()> {
    let mut install = cargo_install("cargo-deny", DENY);
    quietly(install.arg("--debug").env("CARGO_PROFILE_DEV_DEBUG", "0"))
}

fn cargo_install(name: &str, version: &str) -> std::process::Command {
    let mut install = command("cargo");
    install.current_dir(tree::root()).args(["install", "--locked", "--force", "--root"]).arg(tree::setup());
    install.args([name, "--version", version]);
    install
}
