//! The agent: tools that a model calls, one JSON object a line in, one out.
//!
//! It knows nothing of governance. What a refusal is to it is what it is to any program: an error of a system call.

use std::fmt;
use std::fs;
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// What the agent can be told to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Tool {
    /// An HTTP request.
    Get {
        /// Whom to ask.
        server: SocketAddr,
        /// For what.
        path: String,
    },
    /// Read a file.
    Read(PathBuf),
    /// Write a file, a new one or over an old one.
    Write(PathBuf, String),
    /// Start a program and wait for it.
    Start(Vec<String>),
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Get { server, path } => write!(f, "GET http://{server}{path}"),
            Self::Read(path) => write!(f, "read {}", path.display()),
            Self::Write(path, _) => write!(f, "write {}", path.display()),
            Self::Start(words) => write!(f, "start {}", words.join(" ")),
        }
    }
}

/// What came of it, as the agent sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// It worked.
    Done {
        /// What was read, printed or answered.
        text: String,
        /// Of a request: whom the agent believes to have talked to (`getpeername`).
        peer: Option<SocketAddr>,
    },
    /// A system call failed.
    Failed {
        /// With this error.
        errno: i32,
    },
}

impl Outcome {
    /// What was read, printed or answered, if it worked.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Done { text, .. } => Some(text.trim_end()),
            Self::Failed { .. } => None,
        }
    }

    /// Whether it failed with that error.
    pub(crate) fn is(&self, errno: Errno) -> bool {
        matches!(self, Self::Failed { errno: got } if *got == errno as i32)
    }
}

/// Where the agent's heart beats: a number that grows. In the agent's working directory.
pub(crate) const HEARTBEAT: &str = "heartbeat";

/// How often it does.
const BEAT: Duration = Duration::from_millis(20);

/// Counts in a thread of its own, as whatever an agent does besides its calls.
fn beat() -> Result<()> {
    let file = fs::File::create(HEARTBEAT).context(HEARTBEAT)?;
    thread::spawn(move || {
        for count in 1_u64.. {
            if file.write_at(&count.to_ne_bytes(), 0).is_err() {
                return;
            }
            thread::sleep(BEAT);
        }
    });
    Ok(())
}

/// Does what standard input says until it ends.
pub(crate) fn work() -> Result<()> {
    beat()?;
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let tool: Tool = serde_json::from_str(&line.context("standard input")?).context("a tool")?;
        let outcome = match used(&tool) {
            Ok((text, peer)) => Outcome::Done { text, peer },
            Err(error) => Outcome::Failed { errno: error.raw_os_error().unwrap_or_default() },
        };
        writeln!(out, "{}", serde_json::to_string(&outcome)?).context("standard output")?;
        out.flush().context("standard output")?;
    }
    Ok(())
}

fn used(tool: &Tool) -> io::Result<(String, Option<SocketAddr>)> {
    match tool {
        Tool::Get { server, path } => get(*server, path),
        Tool::Read(path) => Ok((fs::read_to_string(path)?, None)),
        Tool::Write(path, text) => fs::write(path, text).map(|()| ("written".to_owned(), None)),
        Tool::Start(words) => {
            let Some((program, arguments)) = words.split_first() else {
                return Err(Errno::EINVAL.into());
            };
            let output = Command::new(program).args(arguments).output()?;
            Ok((String::from_utf8_lossy(&output.stdout).into_owned(), None))
        }
    }
}

/// The body of the answer, and the peer.
fn get(server: SocketAddr, path: &str) -> io::Result<(String, Option<SocketAddr>)> {
    let mut stream = TcpStream::connect(server)?;
    let peer = stream.peer_addr()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((body.to_owned(), Some(peer)))
}
