//! Addresses, ports and redirects as a policy writes them.
//!
//! What is stored is canonical: no host bits, and an IPv4 address in IPv6 clothes (`::ffff:a.b.c.d`) is the
//! IPv4 address, because that is where its packets go. What is written otherwise is refused with the
//! spelling that was probably meant.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net, Ipv4Subnets, Ipv6Net};

use super::diagnostics::{Fault, quote};

/// Subnets that a suggestion lists at most.
const MAX_SUGGESTED_NETS: usize = 8;

/// A network, and whether it was written in the notation of the other family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) net: IpNet,
    pub(crate) was_mapped: bool,
}

/// Reads an address or a CIDR.
pub(crate) fn parse_network(text: &str) -> Result<Network, Fault> {
    let net = match text.parse::<IpNet>() {
        Ok(net) => net,
        Err(_) => IpNet::from(text.parse::<IpAddr>().map_err(|_| explain_network(text))?),
    };
    if net != net.trunc() {
        return Err(Fault::new(format!("{} has bits beyond its prefix length", quote(text))).with_help(
            format!(
                "write `\"{}\"` for the network, or `\"{}\"` for the one address",
                shown(&canonical(net.trunc())),
                net.addr().to_canonical()
            ),
        ));
    }
    let canonical = canonical(net);
    if canonical.addr().is_unspecified() && canonical.prefix_len() == canonical.max_prefix_len() {
        let (loopback, all) =
            if canonical.addr().is_ipv4() { ("127.0.0.1", "0.0.0.0/0") } else { ("::1", "::/0") };
        return Err(Fault::new(format!(
            "nothing is sent to {}: the kernel sends it to loopback",
            quote(text)
        ))
        .with_help(format!("write `\"{all}\"` for every address, or `\"{loopback}\"` for loopback")));
    }
    Ok(Network { net: canonical, was_mapped: canonical != net })
}

/// The network, or the IPv4 one that it is another notation of.
fn canonical(net: IpNet) -> IpNet {
    unmapped(net).unwrap_or(net)
}

/// A network as people write it: the address alone if it is only one.
pub(crate) fn shown(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

/// The IPv4 network that lies in a `::ffff:0:0/96` one.
fn unmapped(net: IpNet) -> Option<IpNet> {
    let IpNet::V6(net) = net else { return None };
    let v4 = net.addr().to_ipv4_mapped()?;
    let length = net.prefix_len().checked_sub(96)?;
    Ipv4Net::new(v4, length).ok().map(IpNet::V4)
}

fn explain_network(text: &str) -> Fault {
    let fault = Fault::new(format!("{} is not an address or a CIDR", quote(text)));
    let trimmed = text.trim();
    if let Some(most) = longest_prefix(trimmed) {
        return Fault::new(format!("the prefix length of {} is over {most}", quote(text)))
            .with_help(format!("write a prefix length from 0 to {most}, or the address alone"));
    }
    match meant_networks(trimmed) {
        Some(nets) => fault.with_help(format!("write {}", list(&nets))),
        None if let Ok(socket) = trimmed.parse::<SocketAddr>() => fault
            .with_help(format!("write `to = [\"{}\"]` and `ports = [{}]`", socket.ip(), socket.port())),
        None if trimmed.contains("://") => {
            fault.with_help("write the address alone, and its port in `ports`")
        }
        None if is_domain(trimmed) => Fault::new(format!("{} is a name, and `to` takes addresses", quote(text)))
            .with_help("names come through `domains`, which is not there yet: write the addresses it has, such as `\"192.0.2.7\"`"),
        None => fault.with_help("write an address or a CIDR, such as `\"10.0.0.0/8\"`, `\"192.0.2.7\"` or `\"2001:db8::/32\"`"),
    }
}

/// The longest prefix of the address's family, if the text is an address with another number for a prefix.
fn longest_prefix(text: &str) -> Option<u8> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    length.chars().all(|c| c.is_ascii_digit()).then_some(if address.is_ipv4() { 32 } else { 128 })
}

/// The networks that a text in another spelling stands for.
fn meant_networks(text: &str) -> Option<Vec<String>> {
    let lower = text.to_ascii_lowercase();
    match lower.as_str() {
        "localhost" | "loopback" => return Some(vec!["127.0.0.0/8".to_owned(), "::1".to_owned()]),
        "any" | "all" | "*" | "*.*.*.*" | "0/0" | "world" => {
            return Some(vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()]);
        }
        _ => {}
    }
    [spaced, with_netmask, with_stars, as_range, with_scope, bracketed, with_zeros]
        .iter()
        .find_map(|reading| reading(&lower))
}

fn spaced(text: &str) -> Option<Vec<String>> {
    let dense: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    (dense.parse::<IpNet>().is_ok() || dense.parse::<IpAddr>().is_ok()).then(|| vec![dense])
}

/// `10.0.0.0/255.255.255.0`
fn with_netmask(text: &str) -> Option<Vec<String>> {
    let (address, mask) = text.split_once('/')?;
    let net = IpNet::with_netmask(address.parse().ok()?, mask.parse().ok()?).ok()?;
    Some(vec![net.trunc().to_string()])
}

/// `10.0.*.*` or `10.0.*`
fn with_stars(text: &str) -> Option<Vec<String>> {
    let parts: Vec<_> = text.split('.').collect();
    let fixed: Vec<u8> = parts.iter().map_while(|part| part.parse().ok()).collect();
    let rest_is_stars = parts.iter().skip(fixed.len()).all(|part| *part == "*");
    if fixed.is_empty() || fixed.len() == parts.len() || parts.len() > 4 || !rest_is_stars {
        return None;
    }
    let mut octets = [0; 4];
    octets.iter_mut().zip(&fixed).for_each(|(octet, fixed)| *octet = *fixed);
    let length = u8::try_from(fixed.len() * 8).ok()?;
    Some(vec![format!("{}/{length}", Ipv4Addr::from(octets))])
}

/// `10.0.0.1-10.0.0.9` or `10.0.0.1-9`
fn as_range(text: &str) -> Option<Vec<String>> {
    let (first, last) = text.split_once('-')?;
    let first: Ipv4Addr = first.trim().parse().ok()?;
    let last = last.trim();
    let last: Ipv4Addr = last.parse().ok().or_else(|| {
        let [a, b, c, _] = first.octets();
        Some(Ipv4Addr::new(a, b, c, last.parse().ok()?))
    })?;
    let nets: Vec<_> =
        Ipv4Subnets::new(first, last, 0).take(MAX_SUGGESTED_NETS + 1).map(|net| shown(&net.into())).collect();
    (first <= last && nets.len() <= MAX_SUGGESTED_NETS).then_some(nets)
}

/// `fe80::1%eth0`
fn with_scope(text: &str) -> Option<Vec<String>> {
    let (address, _) = text.split_once('%')?;
    address.parse::<Ipv6Addr>().ok().map(|address| vec![address.to_string()])
}

/// `[::1]`
fn bracketed(text: &str) -> Option<Vec<String>> {
    let address: Ipv6Addr = text.strip_prefix('[')?.strip_suffix(']')?.parse().ok()?;
    Some(vec![address.to_string()])
}

/// `010.000.000.001`
fn with_zeros(text: &str) -> Option<Vec<String>> {
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    let octets: Vec<u8> = address.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let octets: [u8; 4] = octets.try_into().ok()?;
    let address = Ipv4Addr::from(octets);
    Some(vec![if length.is_empty() { address.to_string() } else { format!("{address}/{length}") }])
}

fn list(nets: &[String]) -> String {
    let quoted: Vec<_> = nets.iter().map(|net| format!("`\"{net}\"`")).collect();
    match quoted.as_slice() {
        [init @ .., last] if !init.is_empty() => format!("{} and {last}", init.join(", ")),
        _ => quoted.concat(),
    }
}

fn is_domain(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text).trim_end_matches('.');
    name.chars().any(|c| c.is_ascii_alphabetic())
        && name.split('.').all(|label| {
            !label.is_empty() && label.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_')
        })
}

/// Reads a port or a range of ports from a string.
pub(crate) fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, Fault> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) => check_ports(first, last),
        _ => Err(explain_ports(text)),
    }
}

/// A range of ports that is neither empty nor begins with 0.
pub(crate) fn check_ports(first: u16, last: u16) -> Result<RangeInclusive<u16>, Fault> {
    if first == 0 {
        let fault = Fault::new("port 0 is not a port that anything can be sent to");
        return Err(match last {
            0 => fault.with_help("write a number from 1 to 65535, or leave `ports` out for all of them"),
            1 => fault.with_help("write `1`"),
            _ => fault.with_help(format!("write `\"1-{last}\"`")),
        });
    }
    if first > last {
        return Err(Fault::new(format!("the range `{first}-{last}` ends before it begins"))
            .with_help(format!("write `\"{last}-{first}\"`")));
    }
    Ok(first..=last)
}

fn explain_ports(text: &str) -> Fault {
    let fault = Fault::new(format!("{} is not a port or a range of ports", quote(text)));
    let dense =
        text.replace([' ', '\t'], "").replace("..=", "-").replace("..", "-").replace([':', '\u{2013}'], "-");
    let known = match text.to_ascii_lowercase().as_str() {
        "http" => Some(80),
        "https" => Some(443),
        "ssh" => Some(22),
        "dns" | "domain" => Some(53),
        "smtp" => Some(25),
        "postgres" | "postgresql" => Some(5432),
        "mysql" => Some(3306),
        "redis" => Some(6379),
        _ => None,
    };
    if let Some(port) = known {
        fault.with_help(format!("write `{port}`"))
    } else if dense != text && parse_ports(&dense).is_ok() {
        fault.with_help(format!("write `\"{dense}\"`"))
    } else if matches!(text, "any" | "all" | "*") {
        fault.with_help("leave `ports` out for all of them")
    } else {
        fault.with_help("write a number from 1 to 65535, or a range such as `\"8000-8100\"`")
    }
}

/// Reads the address and port that a connection is sent to instead.
pub(crate) fn parse_redirect(text: &str) -> Result<SocketAddr, Fault> {
    let replica: SocketAddr = text.parse().map_err(|_| explain_redirect(text))?;
    let replica = SocketAddr::new(replica.ip().to_canonical(), replica.port());
    if replica.port() == 0 {
        return Err(Fault::new("a redirect needs a port, and 0 is none").with_help(format!(
            "write the port that the replica listens on, such as `\"{}\"`",
            join(replica.ip(), "15432")
        )));
    }
    if replica.ip().is_unspecified() {
        let loopback: IpAddr =
            if replica.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        return Err(Fault::new(format!("{} is no address to connect to", quote(&replica.ip().to_string())))
            .with_help(format!("write `\"{}\"`", SocketAddr::new(loopback, replica.port()))));
    }
    Ok(replica)
}

fn explain_redirect(text: &str) -> Fault {
    let fault = Fault::new(format!("{} is not an address with a port", quote(text)));
    if let Ok(address) = text.parse::<IpAddr>() {
        return fault.with_help(format!("write the port too, such as `\"{}\"`", join(address, "15432")));
    }
    match text.rsplit_once(':') {
        Some(("localhost", port)) => {
            fault.with_help(format!("write `\"127.0.0.1:{port}\"` or `\"[::1]:{port}\"`"))
        }
        Some((host, port)) if let Ok(address) = host.parse::<Ipv6Addr>() => {
            fault.with_help(format!("write `\"{}\"`", join(address.into(), port)))
        }
        Some((host, port)) if is_domain(host) && port.parse::<u16>().is_ok() => {
            fault.with_help(format!("write the address of {} instead of its name", quote(host)))
        }
        _ => {
            fault.with_help("write an address and a port, such as `\"127.0.0.1:15432\"` or `\"[::1]:15432\"`")
        }
    }
}

fn join(address: IpAddr, port: &str) -> String {
    match address {
        IpAddr::V4(address) => format!("{address}:{port}"),
        IpAddr::V6(address) => format!("[{address}]:{port}"),
    }
}

/// The networks that hold a network: itself, and each shorter prefix.
pub(crate) fn supernets(net: IpNet) -> impl Iterator<Item = IpNet> {
    std::iter::successors(Some(net), IpNet::supernet)
}

/// All addresses, of both families.
pub(crate) fn everywhere() -> [IpNet; 2] {
    [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(fault: &Fault, message: &str, help: &str) {
        assert_eq!(fault.to_string(), message);
        assert_eq!(fault.help(), Some(help));
    }

    #[test]
    fn networks_are_canonical() {
        for (text, net, was_mapped) in [
            ("10.0.0.0/8", "10.0.0.0/8", false),
            ("192.0.2.7", "192.0.2.7/32", false),
            ("2001:DB8::/32", "2001:db8::/32", false),
            ("::1", "::1/128", false),
            ("::ffff:10.0.0.1", "10.0.0.1/32", true),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8", true),
            ("::ffff:0:0/96", "0.0.0.0/0", true),
            ("::/0", "::/0", false),
        ] {
            let network = parse_network(text).unwrap();
            assert_eq!((network.net.to_string().as_str(), network.was_mapped), (net, was_mapped), "{text}");
        }
    }

    #[test]
    fn other_spellings_of_networks_get_the_right_one() {
        for (text, help) in [
            ("10.0.0.1/24", "write `\"10.0.0.0/24\"` for the network, or `\"10.0.0.1\"` for the one address"),
            ("localhost", "write `\"127.0.0.0/8\"` and `\"::1\"`"),
            ("any", "write `\"0.0.0.0/0\"` and `\"::/0\"`"),
            ("10.0.0.0/255.255.255.0", "write `\"10.0.0.0/24\"`"),
            ("10.0.*.*", "write `\"10.0.0.0/16\"`"),
            ("10.0.0.1-10.0.0.2", "write `\"10.0.0.1\"` and `\"10.0.0.2\"`"),
            (
                "::ffff:10.0.0.1/100",
                "write `\"0.0.0.0/4\"` for the network, or `\"10.0.0.1\"` for the one address",
            ),
            ("10.0.0.0-255", "write `\"10.0.0.0/24\"`"),
            ("fe80::1%eth0", "write `\"fe80::1\"`"),
            ("[::1]", "write `\"::1\"`"),
            ("10.0.0.0/33", "write a prefix length from 0 to 32, or the address alone"),
            ("10.0.0.0 / 8", "write `\"10.0.0.0/8\"`"),
            ("010.0.0.1", "write `\"10.0.0.1\"`"),
            ("0.0.0.0", "write `\"0.0.0.0/0\"` for every address, or `\"127.0.0.1\"` for loopback"),
            ("::", "write `\"::/0\"` for every address, or `\"::1\"` for loopback"),
            ("10.0.0.1:443", "write `to = [\"10.0.0.1\"]` and `ports = [443]`"),
            ("https://example.com", "write the address alone, and its port in `ports`"),
        ] {
            assert_eq!(parse_network(text).unwrap_err().help(), Some(help), "{text}");
        }
    }

    #[test]
    fn names_are_not_addresses() {
        refused(
            &parse_network("*.example.com").unwrap_err(),
            "`*.example.com` is a name, and `to` takes addresses",
            "names come through `domains`, which is not there yet: write the addresses it has, such as `\"192.0.2.7\"`",
        );
    }

    #[test]
    fn ports_and_ranges_are_read() {
        assert_eq!(parse_ports("443").unwrap(), 443..=443);
        assert_eq!(parse_ports("8000-8100").unwrap(), 8000..=8100);
        assert_eq!(parse_ports("1-65535").unwrap(), 1..=65535);
    }

    #[test]
    fn bad_ports_say_what_to_write() {
        for (text, help) in [
            ("0-80", "write `\"1-80\"`"),
            ("0", "write a number from 1 to 65535, or leave `ports` out for all of them"),
            ("90-80", "write `\"80-90\"`"),
            ("https", "write `443`"),
            ("8000..8100", "write `\"8000-8100\"`"),
            ("8000 - 8100", "write `\"8000-8100\"`"),
            ("*", "leave `ports` out for all of them"),
            ("70000", "write a number from 1 to 65535, or a range such as `\"8000-8100\"`"),
            ("-1", "write a number from 1 to 65535, or a range such as `\"8000-8100\"`"),
        ] {
            assert_eq!(parse_ports(text).unwrap_err().help(), Some(help), "{text}");
        }
    }

    #[test]
    fn redirects_are_read_and_canonical() {
        for (text, replica) in [
            ("127.0.0.1:15432", "127.0.0.1:15432"),
            ("[::1]:80", "[::1]:80"),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
        ] {
            assert_eq!(parse_redirect(text).unwrap().to_string(), replica);
        }
    }

    #[test]
    fn bad_redirects_say_what_to_write() {
        for (text, help) in [
            ("127.0.0.1", "write the port too, such as `\"127.0.0.1:15432\"`"),
            ("::1:80", "write the port too, such as `\"[::1:80]:15432\"`"),
            ("fe80:0:0:0:0:0:0:1:80", "write `\"[fe80::1]:80\"`"),
            ("localhost:80", "write `\"127.0.0.1:80\"` or `\"[::1]:80\"`"),
            ("db.example:80", "write the address of `db.example` instead of its name"),
            ("127.0.0.1:0", "write the port that the replica listens on, such as `\"127.0.0.1:15432\"`"),
            ("0.0.0.0:80", "write `\"127.0.0.1:80\"`"),
            ("x", "write an address and a port, such as `\"127.0.0.1:15432\"` or `\"[::1]:15432\"`"),
        ] {
            assert_eq!(parse_redirect(text).unwrap_err().help(), Some(help), "{text}");
        }
    }
}
