//! Certificates from anybody who connects, before their signature is checked: no name is read
//! that we would not write.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgaa_agent::trust::PeerName;
use pgaa_agent::trust::names::{common_name, parse, peer_name};

fuzz_target!(|der: &[u8]| {
    let Ok(certificate) = parse(der) else {
        return;
    };
    let Ok(name) = peer_name(&certificate) else {
        return;
    };
    assert_eq!(PeerName::parse(&name.to_string()), Some(name));
    let node = name.node.to_string();
    assert_eq!(common_name(certificate.subject()), Some(node.as_str()));
});
