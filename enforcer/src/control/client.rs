//! The other end of the sockets: what the command line uses.

use super::api::Failure;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    io,
    path::{Path, PathBuf},
};
use tokio::net::UnixStream;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no daemon behind the socket.
    #[error("no daemon answers at `{}`", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The socket is not for the caller.
    #[error("`{}` is not for this process", path.display())]
    Refused {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke: whom the daemon does not serve it tells so, so it has ended.
    #[error("the daemon at `{}` ended before it had answered", path.display())]
    Closed {
        /// The socket.
        path: PathBuf,
        /// What happened.
        source: hyper::Error,
    },
    /// What came is not what was expected: another version answers.
    #[error("the daemon's answer cannot be understood: is it of another version?")]
    Answer(#[source] serde_json::Error),
    /// The daemon says no.
    #[error(transparent)]
    Failure(Box<Failure>),
}

/// A client of one socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Of the socket at a path. Nothing is tried yet.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Asks for something.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    /// Has something done.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Error> {
        self.call(Method::POST, path, serde_json::to_vec(body).map_err(Error::Answer)?.into()).await
    }

    /// Has something replaced.
    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Error> {
        self.call(Method::PUT, path, serde_json::to_vec(body).map_err(Error::Answer)?.into()).await
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, Error> {
        let response = self.send(method, path, body).await?;
        let bytes = response.into_body().collect().await.map_err(|source| self.closed(source))?.to_bytes();
        serde_json::from_slice(&bytes).map_err(Error::Answer)
    }

    /// Reads lines for as long as they come. The first is empty and says that from then on none is missed.
    pub async fn lines(&self, path: &str) -> Result<Lines, Error> {
        let response = self.send(Method::GET, path, Bytes::new()).await?;
        Ok(Lines { body: response.into_body(), buffer: Vec::new(), client: self.clone() })
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, Error> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| self.unreachable(source))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|source| self.closed(source))?;
        tokio::spawn(async move {
            // What goes wrong with the connection is told to whoever waits for the answer.
            let _ = connection.await;
        });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "enforcer")
            .header(CONTENT_TYPE, "application/json");
        let request = request.body(Full::new(body)).map_err(|error| {
            let source = io::Error::new(io::ErrorKind::InvalidInput, error);
            Error::Unreachable { path: self.socket.clone(), source }
        })?;
        let response = sender.send_request(request).await.map_err(|source| self.closed(source))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let bytes = response.into_body().collect().await.map_err(|source| self.closed(source))?.to_bytes();
        let failure = serde_json::from_slice::<Failure>(&bytes).unwrap_or_else(|_| {
            // Not by a handler: a body that is not what it expects.
            Failure::new(super::api::FailureKind::Failed, String::from_utf8_lossy(&bytes))
        });
        Err(Error::Failure(Box::new(failure)))
    }

    fn unreachable(&self, source: io::Error) -> Error {
        let path = self.socket.clone();
        match source.kind() {
            io::ErrorKind::PermissionDenied => Error::Refused { path, source },
            _ => Error::Unreachable { path, source },
        }
    }

    fn closed(&self, source: hyper::Error) -> Error {
        Error::Closed { path: self.socket.clone(), source }
    }
}

/// Lines as they come.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
    client: Client,
}

impl Lines {
    /// The next line without its end; nothing when there is no more.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
                line.pop();
                return Ok(Some(line));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(source)) => return Err(self.client.closed(source)),
                None => return Ok(None),
            }
        }
    }
}

/// A piece of a path or of a query, with nothing in it that means something there.
#[must_use]
pub fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Client, Error, escape};
    use std::{
        io::{Read as _, Write as _},
        os::unix::net::UnixListener,
    };

    /// Lines from a daemon that says this, and ends.
    fn lines_of(said: &'static [u8]) -> Vec<Result<Option<Vec<u8>>, Error>> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let daemon = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]).unwrap();
            stream.write_all(said).unwrap();
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let came = runtime.block_on(async {
            let mut lines = match Client::new(&socket).lines("/events").await {
                Ok(lines) => lines,
                Err(error) => return vec![Err(error)],
            };
            let mut came = vec![lines.next().await];
            while matches!(came.last(), Some(Ok(Some(_)))) {
                came.push(lines.next().await);
            }
            came
        });
        daemon.join().unwrap();
        came
    }

    #[test]
    fn a_daemon_that_dies_between_two_lines_has_ended_and_refuses_nothing() {
        let begun = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\none\n\r\n";
        let came = lines_of(begun);
        assert!(matches!(came.as_slice(), [Ok(Some(line)), Err(Error::Closed { .. })] if line == b"one"));
        assert!(matches!(lines_of(b"").as_slice(), [Err(Error::Closed { .. })]));
        let whole = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\none\n\r\n0\r\n\r\n";
        assert!(matches!(lines_of(whole).as_slice(), [Ok(Some(_)), Ok(None)]));
    }

    #[test]
    fn what_means_something_in_a_path_is_escaped() {
        assert_eq!(escape("a-b_c.d~9"), "a-b_c.d~9");
        assert_eq!(escape("a/b?c=d&e ä"), "a%2Fb%3Fc%3Dd%26e%20%C3%A4");
    }
}
