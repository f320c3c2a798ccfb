//! What a `[[network]]` rule matches.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::policy::address::{check_ports, parse_network, parse_ports, shown};
use crate::policy::diagnostics::quote;
use crate::policy::model::{Action, NetworkMatch, Protocols};
use crate::policy::section::{Context, Field, Section, Value, report, word};

const TO_EXAMPLE: &str = "[\"10.0.0.0/8\", \"2001:db8::/32\"]";
const PORTS_EXAMPLE: &str = "[443, \"8000-8100\"]";
const PROTOCOLS_EXAMPLE: &str = "[\"tcp\"]";

/// Reads `to`, `ports` and `protocols`; a redirect must fit the addresses.
pub(super) fn matches(
    cx: &mut Context<'_>,
    section: &Section<'_>,
    action: Option<&Action>,
) -> Option<NetworkMatch> {
    let (to, ports, protocols) = (section.field("to"), section.field("ports"), section.field("protocols"));
    if to.is_none() && ports.is_none() && protocols.is_none() {
        if section.misspelt.iter().any(|key| matches!(*key, "to" | "ports" | "protocols")) {
            return None;
        }
        cx.found
            .error(&section.span, "this rule has no condition, so it would match every connection")
            .with_help("write `to = [\"0.0.0.0/0\", \"::/0\"]` if every one is meant, or the addresses and `ports` that are");
        return None;
    }
    let to = to.map_or(Some(Vec::new()), |field| networks(cx, &field));
    let ports = ports.map_or(Some(Vec::new()), |field| port_ranges(cx, &field));
    let protocols = protocols.map_or(Some(Protocols::ALL), |field| protocol_set(cx, &field));
    if let (Some(to), Some(Action::Sandbox { redirect })) = (&to, action) {
        check_redirect(cx, section, *redirect, to);
    }
    Some(NetworkMatch { to: to?, ports: ports?, protocols: protocols? })
}

fn networks(cx: &mut Context<'_>, field: &Field<'_>) -> Option<Vec<IpNet>> {
    let elements = field.elements(cx, TO_EXAMPLE)?;
    let mut networks = Vec::with_capacity(elements.len());
    for element in &elements {
        networks.push(network(cx, element));
    }
    let mut networks: Vec<_> = networks.into_iter().collect::<Option<_>>()?;
    networks.sort_unstable();
    networks.dedup();
    Some(networks)
}

fn network(cx: &mut Context<'_>, element: &Value<'_>) -> Option<IpNet> {
    let Some(text) = element.string() else {
        wrong_element(cx, "to", "a string", element, TO_EXAMPLE);
        return None;
    };
    match parse_network(text) {
        Ok(network) => {
            if network.was_mapped {
                cx.found
                    .warning(&element.span, format!("{} is an IPv4 address in IPv6 notation", quote(text)))
                    .with_help(format!("write `\"{}\"`, which is what it is read as", shown(&network.net)));
            }
            Some(network.net)
        }
        Err(fault) => {
            report(cx, element, &fault);
            None
        }
    }
}

fn port_ranges(cx: &mut Context<'_>, field: &Field<'_>) -> Option<Vec<RangeInclusive<u16>>> {
    let elements = field.elements(cx, PORTS_EXAMPLE)?;
    let mut ranges = Vec::with_capacity(elements.len());
    for element in &elements {
        ranges.push(port_range(cx, element));
    }
    Some(merged(ranges.into_iter().collect::<Option<_>>()?))
}

fn port_range(cx: &mut Context<'_>, element: &Value<'_>) -> Option<RangeInclusive<u16>> {
    let range = match (element.string(), element.integer()) {
        (Some(text), _) => parse_ports(text),
        (None, Some(port)) => match u16::try_from(port) {
            Ok(port) => check_ports(port, port),
            Err(_) => parse_ports(cx.source.slice(element.span.clone())),
        },
        (None, None) => {
            wrong_element(cx, "ports", "a whole number or a string", element, PORTS_EXAMPLE);
            return None;
        }
    };
    range.map_err(|fault| report(cx, element, &fault).severity()).ok()
}

/// Ranges in order, those joined that overlap or touch.
fn merged(mut ranges: Vec<RangeInclusive<u16>>) -> Vec<RangeInclusive<u16>> {
    ranges.sort_unstable_by_key(|range| (*range.start(), *range.end()));
    let mut merged: Vec<RangeInclusive<u16>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if *range.start() <= last.end().saturating_add(1) => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            _ => merged.push(range),
        }
    }
    merged
}

fn protocol_set(cx: &mut Context<'_>, field: &Field<'_>) -> Option<Protocols> {
    let meant = [
        ("any", "leave `protocols` out for both"),
        ("all", "leave `protocols` out for both"),
        ("icmp", "rules are on `tcp` and `udp`"),
        ("quic", "udp"),
        ("http", "tcp"),
        ("https", "tcp"),
    ];
    let mut set = Some(Protocols::NONE);
    for element in field.elements(cx, PROTOCOLS_EXAMPLE)? {
        if element.string().is_none() {
            wrong_element(cx, "protocols", "a string", &element, PROTOCOLS_EXAMPLE);
            set = None;
            continue;
        }
        let one = word(cx, "protocols", &element, &[("tcp", true), ("udp", false)], &meant);
        set = match (set, one) {
            (Some(set), Some(true)) => Some(Protocols { tcp: true, ..set }),
            (Some(set), Some(false)) => Some(Protocols { udp: true, ..set }),
            _ => None,
        };
    }
    set
}

/// Reports an element of another type than the elements of the array have.
pub(super) fn wrong_element(
    cx: &mut Context<'_>,
    name: &str,
    wanted: &str,
    element: &Value<'_>,
    example: &str,
) {
    cx.found
        .error(
            &element.span,
            format!("each of {} must be {wanted}, and this is {}", quote(name), element.kind()),
        )
        .with_help(format!("write them as in `{name} = {example}`"));
}

/// Reports a redirect that is not of the family of all addresses of its rule.
fn check_redirect(cx: &mut Context<'_>, section: &Section<'_>, redirect: SocketAddr, to: &[IpNet]) {
    let (everywhere, family) = if redirect.is_ipv4() { ("0.0.0.0/0", "IPv4") } else { ("::/0", "IPv6") };
    let Some(field) = section.field("to") else {
        cx.found
            .error(&section.span, "a `sandbox` rule needs `to`, because its redirect is of one family only")
            .with_help(format!("write `to = [\"{everywhere}\"]` for every {family} address"));
        return;
    };
    let fits = |net: &IpNet| matches!(net, IpNet::V4(_)) == redirect.is_ipv4();
    if to.iter().all(fits) {
        return;
    }
    let (message, help) = if to.iter().any(fits) {
        (
            format!("`to` has addresses of both families, and the redirect is {family}"),
            "split the rule in two, one for each family, each with a `redirect` of its own",
        )
    } else {
        (
            format!("none of these addresses is {family}, and the redirect is"),
            "write a `redirect` of the family of the addresses",
        )
    };
    cx.found.error(&field.value.span, message).with_help(help);
}
