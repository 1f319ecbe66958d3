//! Addresses of machines: 10.0.0.1 and up.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::Host;

/// The address of a machine.
pub fn address(host: Host) -> IpAddr {
    let host = u32::try_from(host + 1).expect("few machines");
    IpAddr::V4(Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + host))
}

/// Whose address it is.
pub(super) fn host_at(address: SocketAddr) -> Option<Host> {
    let IpAddr::V4(address) = address.ip() else { return None };
    let host = u32::from(address).checked_sub(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + 1)?;
    Some(host as Host)
}
