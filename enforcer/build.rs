//! Compiles the programs that run in the kernel, and leaves the object in `$OUT_DIR/enforcer-ebpf`.

use aya_build::{Package, Toolchain};
use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

const LINKER: &str = "bpf-linker";
/// Set where only types matter, as for documentation on a machine without the linker. What is built then cannot
/// load anything.
const SKIP: &str = "ENFORCER_SKIP_EBPF";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    println!("cargo::rerun-if-env-changed={SKIP}");
    if env::var_os(SKIP).is_some() {
        return empty_object();
    }
    let workspace = workspace()?;
    let path = path_with_setup(&workspace);
    let linker = find(LINKER, &path).ok_or_else(|| {
        format!("`{LINKER}` is in neither `target/setup/bin` nor `PATH`: run `cargo xtask setup`, which puts it there")
    })?;
    println!("cargo::rerun-if-changed={}", linker.display());
    // The kernel side is `no_std` for a target without a prebuilt `core`.
    //
    // SAFETY: a build script has one thread here.
    unsafe {
        env::set_var("PATH", &path);
        env::set_var("RUSTC_BOOTSTRAP", "1");
    }
    println!("cargo::rerun-if-changed={}", workspace.join("enforcer-common/src").display());
    let root = workspace.join("enforcer-ebpf");
    let root = root.to_str().ok_or("the path of the workspace is not UTF-8")?;
    let package = Package { name: "enforcer-ebpf", root_dir: root, ..Package::default() };
    let toolchain = toolchain(&workspace)?;
    aya_build::build_ebpf([package], Toolchain::Custom(&toolchain))
        .map_err(|error| format!("the programs for the kernel do not compile: {error:#}"))
}

fn empty_object() -> Result<(), String> {
    let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?;
    let object = Path::new(&out).join("enforcer-ebpf");
    println!("cargo::warning={SKIP} is set: this enforcer cannot load anything");
    fs::write(&object, []).map_err(|error| format!("{}: {error}", object.display()))
}

fn workspace() -> Result<PathBuf, String> {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?;
    let parent = Path::new(&manifest).parent().ok_or("the package has no workspace above it")?;
    Ok(parent.to_owned())
}

/// The one toolchain of the workspace: the kernel side builds with it too.
fn toolchain(workspace: &Path) -> Result<String, String> {
    let file = workspace.join("rust-toolchain.toml");
    println!("cargo::rerun-if-changed={}", file.display());
    let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let channel = text.lines().find_map(|line| line.strip_prefix("channel = "));
    channel
        .map(|channel| channel.trim_matches('"').to_owned())
        .ok_or_else(|| format!("{} names no channel", file.display()))
}

/// `PATH` with the place where `cargo xtask setup` puts tools in front.
fn path_with_setup(workspace: &Path) -> OsString {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    let setup = [target.join("setup/bin"), workspace.join("target/setup/bin")];
    let path = env::var_os("PATH").unwrap_or_default();
    let all = setup.into_iter().chain(env::split_paths(&path));
    env::join_paths(all).unwrap_or(path)
}

fn find(name: &str, path: &OsString) -> Option<PathBuf> {
    env::split_paths(path)
        .map(|folder| folder.join(name))
        .find(|file| fs::metadata(file).is_ok_and(|m| m.is_file()))
}
