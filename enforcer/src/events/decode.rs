//! From the bytes of a ring to a decision with its names, and from there to a line.

use crate::{
    agents::{
        AgentId, AgentRecord, PolicyNumber, Purpose,
        names::Names,
        policy::{PolicyRecord, RuleRecord},
    },
    approvals::RequestId,
    kernel::clock::Wall,
};
use enforcer_common::{
    action::{Access, ActionKind, Protocol},
    event::{Event, flag},
    grant::RequestKey,
    verdict::{Reason, Verdict},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use zerocopy::FromBytes as _;

/// A decision as it was made, with the names that its numbers had then.
#[derive(Clone, Debug)]
pub struct Decided {
    /// The record.
    pub event: Event,
    /// The path of the object, if it has one.
    pub path: Box<[u8]>,
    /// When.
    pub time: Timestamp,
    /// The agent.
    pub agent: Option<Arc<AgentRecord>>,
    /// The policy.
    pub policy: Option<Arc<PolicyRecord>>,
}

impl Decided {
    /// Decodes a record; nothing where it is not one.
    #[must_use]
    pub fn decode(bytes: &[u8], names: &Names, wall: &Wall) -> Option<Self> {
        let (event, rest) = Event::read_from_prefix(bytes).ok()?;
        let path = rest.get(..usize::from(event.path_bytes))?;
        Some(Self::new(event, path, names, wall))
    }

    /// A record with its path.
    #[must_use]
    pub fn new(event: Event, path: &[u8], names: &Names, wall: &Wall) -> Self {
        Self {
            time: wall.at(event.time_ns),
            agent: names.agent(AgentId(event.agent)),
            policy: names.policy(PolicyNumber(event.policy)),
            path: path.into(),
            event,
        }
    }

    /// The agent's number.
    #[must_use]
    pub fn agent_id(&self) -> AgentId {
        AgentId(self.event.agent)
    }

    /// Whether it may yet be taken back.
    #[must_use]
    pub fn is_tentative(&self) -> bool {
        self.event.flags & flag::TENTATIVE != 0
    }

    /// Whether it takes another one back.
    #[must_use]
    pub fn is_void(&self) -> bool {
        self.event.flags & flag::VOID != 0
    }

    /// Whether it is the canary's, of which nobody is told.
    #[must_use]
    pub fn is_canary(&self) -> bool {
        self.agent.as_ref().is_some_and(|agent| agent.purpose == Purpose::Canary)
    }

    /// What became of the action; what a later version may have added is taken for a block.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        Verdict::from_number(self.event.verdict).unwrap_or(Verdict::Block)
    }

    /// The rule that decided.
    #[must_use]
    pub fn rule(&self) -> Option<&RuleRecord> {
        self.policy.as_ref()?.rule(self.event.rule)
    }

    /// What a request for this is called, where there is one.
    #[must_use]
    pub fn request(&self) -> Option<RequestKey> {
        let asks = self.verdict() == Verdict::Escalate && self.event.object != [0; 2];
        asks.then_some(RequestKey {
            agent: self.event.agent,
            rule: self.event.rule_content,
            object: self.event.object,
        })
    }

    /// The line that tells of it.
    #[must_use]
    pub fn view(&self) -> EventView<'_> {
        let event = &self.event;
        let kind = ActionKind::from_number(event.kind);
        let socket = event.reason == Reason::ControlSocket as u8;
        let network = !socket && matches!(kind, Some(ActionKind::Connect | ActionKind::Send));
        let named = |agent: &Arc<AgentRecord>| Cow::Owned(agent.name.clone());
        let rule = self.rule().filter(|rule| !rule.is_default);
        let action = kind.map_or("unknown", ActionKind::word);
        let endpoint = network.then(|| endpoint(event));
        let path = (!network && !socket).then(|| text(&self.path));
        let object = match (&endpoint, &path) {
            _ if socket => Cow::Borrowed("the control socket"),
            (Some((address, protocol)), _) => Cow::Owned(format!("{protocol} {address}")),
            (None, Some(path)) => path.clone(),
            (None, None) => Cow::Borrowed(""),
        };
        EventView {
            time: self.time,
            id: format!("{:x}", event.id),
            agent: self.agent.as_ref().map_or_else(|| Cow::Owned(format!("agent-{}", event.agent)), named),
            agent_id: event.agent,
            policy: self.policy.as_ref().map(|policy| Cow::Borrowed(policy.name.as_str())),
            action: action.into(),
            verdict: self.verdict().word().into(),
            reason: Reason::from_number(event.reason).map_or("unknown", Reason::word).into(),
            rule: rule.map(|rule| Cow::Borrowed(rule.name.as_str())),
            message: rule.and_then(|rule| rule.message.as_deref()).map(Cow::Borrowed),
            audit: event.flags & flag::AUDIT != 0,
            object,
            path,
            address: endpoint.map(|(address, _)| address.ip()),
            port: endpoint.map(|(address, _)| address.port()),
            protocol: endpoint.map(|(_, protocol)| protocol.into()),
            access: Access(event.access).words().map(Cow::Borrowed).collect(),
            pid: event.tgid,
            tid: event.tid,
            uid: event.uid,
            comm: comm(event),
            request: self.request().map(|key| RequestId::of(&key)),
        }
    }
}

fn endpoint(event: &Event) -> (SocketAddr, &'static str) {
    let protocol = match event.protocol {
        number if number == Protocol::Tcp as u8 => Protocol::Tcp,
        number if number == Protocol::Udp as u8 => Protocol::Udp,
        _ => Protocol::Other,
    };
    (SocketAddr::new(event.address.into(), event.port), protocol.word())
}

/// The name of the acting task.
fn comm(event: &Event) -> Cow<'_, str> {
    let end = event.comm.iter().position(|byte| *byte == 0).unwrap_or(event.comm.len());
    text(event.comm.get(..end).unwrap_or_default())
}

/// Bytes that the agent chose, as text that says what they are: what is not UTF-8 is written `\xNN`, and a backslash
/// twice, so that no two names look alike.
pub(crate) fn text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\\') => Cow::Borrowed(text),
        _ => {
            let mut out = String::with_capacity(bytes.len() + 8);
            for chunk in bytes.utf8_chunks() {
                out.push_str(&chunk.valid().replace('\\', "\\\\"));
                for byte in chunk.invalid() {
                    out.push_str(&format!("\\x{byte:02x}"));
                }
            }
            Cow::Owned(out)
        }
    }
}

/// A decision as people and programs are told of it: a line of `tail --json`, of the file of events, and what the
/// lines for people are made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventView<'a> {
    /// When.
    pub time: Timestamp,
    /// What names it while the programs are loaded.
    pub id: String,
    /// The agent.
    pub agent: Cow<'a, str>,
    /// The agent's number.
    pub agent_id: u64,
    /// The policy.
    pub policy: Option<Cow<'a, str>>,
    /// What was attempted.
    pub action: Cow<'a, str>,
    /// What became of it.
    pub verdict: Cow<'a, str>,
    /// Why.
    pub reason: Cow<'a, str>,
    /// The rule that decided.
    pub rule: Option<Cow<'a, str>>,
    /// What the rule says to the agent.
    pub message: Option<Cow<'a, str>>,
    /// Whether the verdict was only noted.
    pub audit: bool,
    /// What was acted on.
    pub object: Cow<'a, str>,
    /// The path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Cow<'a, str>>,
    /// The address of the other end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Cow<'a, str>>,
    /// The kinds of access.
    pub access: Vec<Cow<'a, str>>,
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// The user.
    pub uid: u32,
    /// The name of the thread.
    pub comm: Cow<'a, str>,
    /// What the request is called, when it waits for a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Decided, EventView, text};
    use crate::{
        agents::names::Names,
        kernel::clock::{Wall, now_ns},
    };
    use enforcer_common::{
        action::{Access, ActionKind, Protocol},
        address::Address,
        event::Event,
        verdict::{Reason, Verdict},
    };
    use std::net::IpAddr;
    use zerocopy::IntoBytes as _;

    /// A refused open of agent 7.
    pub(crate) fn event() -> Event {
        Event {
            time_ns: now_ns(),
            id: 0x0001_0000_0000_002a,
            agent: 7,
            rule_content: 0,
            object: [0; 2],
            deadline_ns: 0,
            thread_start_ns: 0,
            address: Address([0; 16]),
            comm: *b"python3\0\0\0\0\0\0\0\0\0",
            policy: 3,
            rule: 0,
            tgid: 100,
            tid: 101,
            uid: 1000,
            port: 0,
            path_bytes: 0,
            kind: ActionKind::Open as u8,
            access: Access::READ.with(Access::WRITE).0,
            protocol: 0,
            verdict: Verdict::Block as u8,
            reason: Reason::Rule as u8,
            flags: 0,
            zero: [0; 2],
        }
    }

    /// A record as it lies in a ring.
    fn record(mut event: Event, path: &[u8]) -> Vec<u8> {
        event.path_bytes = path.len() as u16;
        let mut bytes = event.as_bytes().to_vec();
        bytes.extend_from_slice(path);
        // Rings are read in units of 8 bytes.
        bytes.resize(bytes.len().next_multiple_of(8), 0xff);
        bytes
    }

    fn json(event: Event, path: &[u8]) -> serde_json::Value {
        let decided = Decided::decode(&record(event, path), &Names::default(), &Wall::now()).unwrap();
        serde_json::to_value(decided.view()).unwrap()
    }

    #[test]
    fn a_path_is_told_with_its_access() {
        let json = json(event(), b"/etc/shadow");
        assert_eq!(json["action"], "open");
        assert_eq!(json["object"], "/etc/shadow");
        assert_eq!(json["path"], "/etc/shadow");
        assert_eq!(json["access"], serde_json::json!(["read", "write"]));
        assert_eq!(json["id"], "100000000002a");
        assert_eq!((&json["agent"], &json["comm"]), (&"agent-7".into(), &"python3".into()));
        assert!(json.get("address").is_none() && json.get("request").is_none());
    }

    #[test]
    fn an_endpoint_is_told_in_one_piece_and_in_parts() {
        let connect = Event {
            kind: ActionKind::Connect as u8,
            access: 0,
            address: Address::from("10.0.3.1".parse::<IpAddr>().unwrap()),
            port: 5432,
            protocol: Protocol::Tcp as u8,
            ..event()
        };
        let four = json(connect, b"");
        assert_eq!(four["object"], "tcp 10.0.3.1:5432");
        assert_eq!((&four["address"], &four["port"]), (&"10.0.3.1".into(), &5432.into()));
        assert!(four.get("path").is_none());
        let six = Event {
            address: "::1".parse::<IpAddr>().unwrap().into(),
            protocol: Protocol::Udp as u8,
            ..connect
        };
        assert_eq!(json(six, b"")["object"], "udp [::1]:5432");
    }

    #[test]
    fn the_control_socket_is_no_address() {
        let refused = Event {
            kind: ActionKind::Connect as u8,
            reason: Reason::ControlSocket as u8,
            access: 0,
            ..event()
        };
        let json = json(refused, b"");
        assert_eq!(json["object"], "the control socket");
        assert!(json.get("address").is_none() && json.get("path").is_none());
    }

    #[test]
    fn a_request_is_named_where_one_waits() {
        let waits = Event { verdict: Verdict::Escalate as u8, object: [1, 2], rule_content: 9, ..event() };
        assert_eq!(json(waits, b"/a")["request"].as_str().map(str::len), Some(12));
        // In audit mode none is filed.
        assert!(json(Event { object: [0; 2], ..waits }, b"/a").get("request").is_none());
    }

    #[test]
    fn what_the_agent_chose_cannot_pass_for_something_else() {
        assert_eq!(text(b"/a\xff\\b"), "/a\\xff\\\\b");
        assert_eq!(text("/ä\n".as_bytes()), "/ä\n");
    }

    #[test]
    fn a_line_can_be_read_again() {
        let decided = Decided::decode(&record(event(), b"/a\"\n"), &Names::default(), &Wall::now()).unwrap();
        let line = serde_json::to_string(&decided.view()).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<EventView<'_>>(&line).unwrap(), decided.view());
    }

    #[test]
    fn half_a_record_is_none() {
        let whole = record(event(), b"/etc/shadow");
        for end in [0, 8, 127, 128, 136] {
            assert!(Decided::decode(&whole[..end], &Names::default(), &Wall::now()).is_none(), "{end}");
        }
    }
}
