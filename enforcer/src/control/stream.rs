//! Events for as long as they are read: one JSON object a line.

use super::{
    api::{EventsQuery, Missed},
    routes::Shared,
};
use crate::events::Told;
use axum::{
    body::{Body, Bytes},
    extract::{Query, State},
    http::header::CONTENT_TYPE,
    response::{IntoResponse as _, Response},
};
use http_body_util::channel::{Channel, Sender};
use std::convert::Infallible;
use tokio::sync::broadcast;

/// Which events a reader wants.
struct Filter {
    agent: Option<String>,
    verdicts: Vec<String>,
}

impl Filter {
    fn new(query: &EventsQuery) -> Self {
        let verdicts =
            query.verdict.as_deref().unwrap_or_default().split(',').filter(|word| !word.is_empty());
        Self { agent: query.agent.clone(), verdicts: verdicts.map(ToOwned::to_owned).collect() }
    }

    fn wants(&self, told: &Told) -> bool {
        let verdict = |word: &String| told.verdict() == Some(word);
        self.agent.as_ref().is_none_or(|wanted| told.is_of(wanted))
            && (self.verdicts.is_empty() || self.verdicts.iter().any(verdict))
    }
}

pub(super) async fn events(State(daemon): Shared, Query(query): Query<EventsQuery>) -> Response {
    let filter = Filter::new(&query);
    let (before, receiver) = if query.since_start {
        daemon.events.listen_from_start()
    } else {
        (Vec::new(), daemon.events.listen())
    };
    let (sender, body) = Channel::<Bytes, Infallible>::new(64);
    let ending = daemon.ending();
    tokio::spawn(async move {
        // It ends when the reader does, or the daemon.
        let _ = send_events(sender, &filter, before, receiver, ending).await;
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::new(body)).into_response()
}

/// The reader is gone.
struct Gone;

async fn send_events(
    mut sender: Sender<Bytes, Infallible>,
    filter: &Filter,
    before: Vec<Told>,
    mut receiver: broadcast::Receiver<Told>,
    ending: impl Future<Output = ()>,
) -> Result<(), Gone> {
    // An empty line says that from here on nothing is missed.
    send(&mut sender, b"\n".to_vec()).await?;
    for told in before.iter().filter(|told| filter.wants(told)) {
        send(&mut sender, told.line()).await?;
    }
    let mut ending = std::pin::pin!(ending);
    loop {
        let received = tokio::select! {
            biased;
            received = receiver.recv() => received,
            () = &mut ending => return Ok(()),
        };
        match received {
            Ok(told) if filter.wants(&told) => send(&mut sender, told.line()).await?,
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                send(&mut sender, line(Missed { missed })).await?;
            }
            Err(broadcast::error::RecvError::Closed) => return Ok(()),
        }
    }
}

async fn send(sender: &mut Sender<Bytes, Infallible>, line: Vec<u8>) -> Result<(), Gone> {
    sender.send_data(line.into()).await.map_err(|_| Gone)
}

fn line(missed: Missed) -> Vec<u8> {
    // A number can always be written as JSON.
    let mut line = serde_json::to_vec(&missed).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::Filter;
    use crate::{
        agents::names::Names,
        control::api::EventsQuery,
        events::{Decided, Told, decode::tests::event, intervention::tests::intervention},
        kernel::clock::Wall,
    };
    use std::sync::Arc;

    #[test]
    fn a_reader_gets_what_it_asked_for() {
        let decided = Decided::new(event(), b"/a", &Names::default(), &Wall::now());
        let decided = Told::Decision(Arc::new(decided));
        let intervened = Told::Intervention(Arc::new(intervention()));
        let asked = |told: &Told, agent: Option<&str>, verdict: Option<&str>| {
            let query = EventsQuery {
                agent: agent.map(Into::into),
                verdict: verdict.map(Into::into),
                since_start: false,
            };
            Filter::new(&query).wants(told)
        };
        let wants = |agent, verdict| asked(&decided, agent, verdict);
        assert!(wants(None, None) && wants(Some("7"), None) && wants(None, Some("throttle,block")));
        assert!(!wants(Some("8"), None) && !wants(None, Some("allow")));
        // What people do has no verdict.
        let wants = |agent, verdict| asked(&intervened, agent, verdict);
        assert!(wants(None, None) && wants(Some("7"), None) && wants(Some("research"), None));
        assert!(!wants(Some("8"), None) && !wants(None, Some("block")));
    }
}
