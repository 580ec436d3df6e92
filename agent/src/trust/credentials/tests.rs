//! The credentials over restarts, renewals and crashes.

use super::*;
use crate::trust::Authority;
use pgaa_core::ids::Name;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;
use uuid::Uuid;

const NODE: NodeId = NodeId(Uuid::from_u128(8));
const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(7));
const DAY_MS: i64 = 86_400_000;

struct Host {
    directory: TempDir,
    clocks: Clocks,
    authority: Authority,
}

impl Host {
    fn new() -> Host {
        let clocks = Clocks::start();
        let name = Name::new("shop").unwrap();
        let authority = Authority::create(CLUSTER, &name, clocks.wall()).unwrap();
        Host {
            directory: tempfile::tempdir().unwrap(),
            clocks,
            authority,
        }
    }

    fn open(&self) -> Credentials {
        Credentials::open(self.directory.path(), NODE, self.clocks).unwrap()
    }

    fn issue(&self, credentials: &Credentials, days_ago: i64) -> CertificateDer<'static> {
        let at = Wall(self.clocks.wall().0 - days_ago * DAY_MS);
        let csr = credentials.csr().unwrap();
        self.authority.issue(&csr, CLUSTER, NODE, at).unwrap()
    }

    fn ca(&self) -> Vec<CertificateDer<'static>> {
        vec![self.authority.ca_der().clone()]
    }
}

#[test]
fn the_files_exist_from_the_first_boot_and_the_key_is_private() {
    let host = Host::new();
    let credentials = host.open();
    assert!(credentials.cluster().is_none());
    assert!(!credentials.needs_renewal(Wall(i64::MAX)));
    let files = credentials.files();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (mode(&files.key), mode(&files.certificate), mode(&files.ca)),
        (0o600, 0o644, 0o644)
    );
    let again = host.open();
    assert_eq!(
        again.current().fingerprint,
        credentials.current().fingerprint
    );
}

#[test]
fn an_installed_certificate_is_in_force_and_survives_a_restart() {
    let host = Host::new();
    let credentials = host.open();
    let mut changes = credentials.follow();
    let before = credentials.current();
    credentials
        .install(CLUSTER, host.issue(&credentials, 0), host.ca())
        .unwrap();
    assert!(changes.has_changed().unwrap());
    assert_eq!(*changes.borrow_and_update(), 1);
    assert_eq!(credentials.cluster(), Some(CLUSTER));
    assert_ne!(credentials.current().fingerprint, before.fingerprint);
    let again = host.open();
    assert_eq!(again.cluster(), Some(CLUSTER));
    assert_eq!(
        again.current().fingerprint,
        credentials.current().fingerprint
    );
}

#[test]
fn renewal_is_due_at_two_thirds_and_an_expired_member_is_still_one() {
    let host = Host::new();
    let credentials = host.open();
    let now = host.clocks.wall();
    credentials
        .install(CLUSTER, host.issue(&credentials, 0), host.ca())
        .unwrap();
    assert!(!credentials.needs_renewal(now));
    assert!(!credentials.needs_renewal(Wall(now.0 + 59 * DAY_MS)));
    assert!(credentials.needs_renewal(Wall(now.0 + 60 * DAY_MS)));
    let expired = host.issue(&credentials, 100);
    let refused = credentials.install(CLUSTER, expired.clone(), host.ca());
    assert!(matches!(
        refused,
        Err(CredentialsError::Unproven(Unproven::Expired))
    ));
    Stored {
        certificate: expired,
        ca: host.ca(),
    }
    .write(credentials.files())
    .unwrap();
    let back = host.open();
    assert_eq!(back.cluster(), Some(CLUSTER));
    assert!(back.needs_renewal(now));
}

#[test]
fn only_this_nodes_certificate_for_this_key_is_installed() {
    let host = Host::new();
    let credentials = host.open();
    let before = credentials.current().fingerprint;
    let other_host = Host::new();
    let other_key = other_host.open();
    let own = host.issue(&credentials, 0);
    let cases = [
        (CLUSTER, host.issue(&other_key, 0), host.ca()),
        (ClusterId(Uuid::from_u128(9)), own.clone(), host.ca()),
        (CLUSTER, own.clone(), other_host.ca()),
        (CLUSTER, own.clone(), vec![]),
        (CLUSTER, own.clone(), vec![own.clone()]),
        (CLUSTER, CertificateDer::from(vec![0x30, 0]), host.ca()),
    ];
    for (at, (cluster, certificate, ca)) in cases.into_iter().enumerate() {
        assert!(
            credentials.install(cluster, certificate, ca).is_err(),
            "case {at}"
        );
    }
    assert_eq!(credentials.current().fingerprint, before);
    assert_eq!(host.open().current().fingerprint, before);
}

#[test]
fn a_crash_between_the_two_files_leaves_a_node_that_can_enrol() {
    let host = Host::new();
    let credentials = host.open();
    let ca = pem::encode(&pem::Pem::new(
        "CERTIFICATE",
        host.authority.ca_der().as_ref(),
    ));
    durable::write(&credentials.files().ca, ca.as_bytes(), 0o644).unwrap();
    let back = host.open();
    assert!(back.cluster().is_none());
    back.install(CLUSTER, host.issue(&back, 0), host.ca())
        .unwrap();
    assert_eq!(host.open().cluster(), Some(CLUSTER));
}

#[test]
fn a_crash_while_the_ca_is_replaced_leaves_a_member() {
    let host = Host::new();
    let credentials = host.open();
    credentials
        .install(CLUSTER, host.issue(&credentials, 0), host.ca())
        .unwrap();
    let name = Name::new("shop").unwrap();
    let next = Authority::create(CLUSTER, &name, host.clocks.wall()).unwrap();
    let both = [next.ca_der(), host.authority.ca_der()]
        .map(|ca| pem::encode(&pem::Pem::new("CERTIFICATE", ca.as_ref())))
        .concat();
    durable::write(&credentials.files().ca, both.as_bytes(), 0o644).unwrap();
    let back = host.open();
    assert_eq!(back.cluster(), Some(CLUSTER));
    let csr = back.csr().unwrap();
    let renewed = next.issue(&csr, CLUSTER, NODE, host.clocks.wall()).unwrap();
    let ca = vec![next.ca_der().clone(), host.authority.ca_der().clone()];
    back.install(CLUSTER, renewed, ca).unwrap();
}

#[test]
fn damage_is_named() {
    let host = Host::new();
    let files = host.open().files().clone();
    for path in [&files.ca, &files.certificate, &files.key] {
        let good = durable::read(path).unwrap().unwrap();
        durable::write(path, b"nonsense", 0o600).unwrap();
        let error = Credentials::open(host.directory.path(), NODE, host.clocks)
            .err()
            .unwrap();
        assert!(
            matches!(&error, CredentialsError::Damaged(p) if p == path),
            "{error}"
        );
        durable::write(path, &good, 0o600).unwrap();
    }
    let error = {
        durable::remove(&files.key).unwrap();
        Credentials::open(host.directory.path(), NODE, host.clocks)
            .err()
            .unwrap()
    };
    assert!(matches!(error, CredentialsError::Damaged(_)), "{error}");
}

#[test]
fn openssl_takes_the_files_in_strict_mode() {
    let host = Host::new();
    let credentials = host.open();
    credentials
        .install(CLUSTER, host.issue(&credentials, 0), host.ca())
        .unwrap();
    let files = credentials.files();
    let verified = std::process::Command::new("openssl")
        .args(["verify", "-x509_strict", "-purpose", "sslserver"])
        .args(["-verify_hostname", &names::host_name(NODE), "-CAfile"])
        .arg(&files.ca)
        .arg(&files.certificate)
        .output()
        .expect("openssl is installed beside PostgreSQL");
    assert!(
        verified.status.success(),
        "{}",
        String::from_utf8_lossy(&verified.stderr)
    );
}
