//! The servers that the agent talks to, on addresses of the loopback network. They count their requests, so that the
//! story can tell who was reached.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// The port of all of them, as in `policies/demo.toml`.
const PORT: u16 = 4780;

/// A request that takes longer is not one of the demo's.
const PATIENCE: Duration = Duration::from_secs(10);

/// One server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

impl Server {
    /// Starts one at 127.10.0.`host` that always says `answer`. It ends with the process.
    fn start(host: u8, answer: &'static str) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::new(127, 10, 0, host), PORT));
        let listener = TcpListener::bind(address).with_context(|| format!("listen at {address}"))?;
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counted.fetch_add(1, Ordering::Relaxed);
                // A client that goes away in the middle is its own business.
                let _ = serve(&stream, answer);
            }
        });
        Ok(Self { address, requests })
    }

    /// How many requests have come.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

fn serve(mut stream: &TcpStream, answer: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    for line in BufReader::new(stream).lines() {
        if line?.is_empty() {
            break;
        }
    }
    let length = answer.len();
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{answer}")
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Servers {
    /// The agent's model.
    pub(crate) model: Server,
    /// A service with a quota.
    pub(crate) search: Server,
    /// The database that must not be touched.
    pub(crate) production: Server,
    /// Its copy.
    pub(crate) replica: Server,
    /// Where money is spent.
    pub(crate) payments: Server,
    /// Somewhere on the Internet that no rule names.
    pub(crate) elsewhere: Server,
}

impl Servers {
    /// Starts them.
    pub(crate) fn start() -> Result<Self> {
        Ok(Self {
            model: Server::start(1, "a plan: search, then look into the orders")?,
            search: Server::start(2, "three hits")?,
            production: Server::start(3, "this is PRODUCTION: 9120 orders")?,
            replica: Server::start(4, "this is the replica: 9120 orders")?,
            payments: Server::start(5, "paid")?,
            elsewhere: Server::start(6, "thank you for the data")?,
        })
    }
}
