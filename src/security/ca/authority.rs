//! One CA certificate with its key, and what it signs.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber, string::Ia5String,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::disk::wrong;
use super::index::{Record, whole};
use crate::security::SecurityError;

pub(super) struct Authority {
    pub(super) pem: String,
    /// 32 hex digits.
    pub(super) serial: String,
    pub(super) to: SystemTime,
    pub(super) issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one, signed by itself.
    pub(super) fn new(fabric: &str, from: SystemTime, to: SystemTime) -> Result<Self, SecurityError> {
        let key = KeyPair::generate().map_err(unmade)?;
        let serial = random_serial()?;
        let hex = hex(&serial);
        let mut params = params(serial, from, to);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // The name differs from that of any other CA of the fabric, so that each finds its own revocation list while two are
        // valid during a rotation. 64 characters are the most that a common name has (RFC 5280, appendix A.1).
        let short: String = fabric.chars().take(48).collect();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("{short} CA {}", hex.get(..8).unwrap_or_default()));
        // A signing certificate's SPIFFE ID has no path (X509-SVID, section 3.2).
        params.subject_alt_names = vec![SanType::URI(uri(&format!("spiffe://{fabric}"))?)];
        let certificate = params.self_signed(&key).map_err(unmade)?;
        Ok(Self { pem: certificate.pem(), serial: hex, to, issuer: Issuer::new(params, key) })
    }

    /// One of a file, with whichever of the keys is its own.
    pub(super) fn read(
        certificate: &CertificateDer<'_>,
        at: &Path,
        keys: &[(PathBuf, Zeroizing<String>)],
    ) -> Result<Self, SecurityError> {
        let read = parse(certificate, at)?;
        let public = read.public_key().subject_public_key.data.as_ref();
        let mut own = None;
        for (path, key) in keys {
            let key = KeyPair::from_pem(key)
                .map_err(|error| wrong(path, format!("has no private key that can be used: {error}")))?;
            if key.public_key_raw() == public {
                own = Some(key);
            }
        }
        let Some(key) = own else {
            let names: Vec<_> = keys.iter().map(|(path, _)| path.display().to_string()).collect();
            return Err(wrong(at, format!("has a certificate whose key is not in {}", names.join(" or "))));
        };
        let to = u64::try_from(read.validity().not_after.timestamp()).unwrap_or(0);
        let to = SystemTime::UNIX_EPOCH + Duration::from_secs(to);
        let serial = hex(read.raw_serial());
        let issuer = Issuer::from_ca_cert_der(certificate, key).map_err(|error| unread(at, &error))?;
        Ok(Self { pem: to_pem(certificate), serial, to, issuer })
    }

    pub(super) fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.issuer.key().serialize_pem())
    }

    /// A certificate for a service, and its key.
    pub(super) fn sign(
        &self,
        id: &str,
        service: &str,
        from: SystemTime,
        to: SystemTime,
    ) -> Result<(String, String, Zeroizing<String>), SecurityError> {
        let key = KeyPair::generate().map_err(unmade)?;
        let serial = random_serial()?;
        let hex = hex(&serial);
        let mut params = params(serial, from, to);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Every node dials and is dialled.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.distinguished_name.push(DnType::CommonName, service.chars().take(64).collect::<String>());
        params.subject_alt_names = vec![SanType::URI(uri(id)?)];
        let certificate = params.signed_by(&key, &self.issuer).map_err(unmade)?;
        Ok((hex, certificate.pem(), Zeroizing::new(key.serialize_pem())))
    }

    /// The list of those of `records` that it signed and that are revoked.
    pub(super) fn revocation_list(
        &self,
        records: &[Record],
        number: u64,
        now: SystemTime,
    ) -> Result<String, SecurityError> {
        let revoked = records.iter().filter(|record| record.issuer == self.serial);
        let revoked = revoked.filter_map(|record| Some((unhex(&record.serial)?, record.revoked?)));
        let list = CertificateRevocationListParams {
            this_update: calendar(now),
            // Nothing renews it by the clock: it is complete until the next revocation, and no longer of use than its CA.
            next_update: calendar(self.to.max(now + Duration::from_secs(1))),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked
                .map(|(serial, at)| RevokedCertParams {
                    serial_number: serial.into(),
                    revocation_time: calendar(at),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).and_then(|list| list.pem()).map_err(unmade)
    }
}

/// Certificates of a PEM text.
pub(super) fn certificates(text: &str, at: &Path) -> Result<Vec<CertificateDer<'static>>, SecurityError> {
    let found = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>();
    found.map_err(|error| wrong(at, error.to_string()))
}

pub(super) fn serial_of(certificate: &CertificateDer<'_>, at: &Path) -> Result<String, SecurityError> {
    Ok(hex(parse(certificate, at)?.raw_serial()))
}

fn parse<'a>(certificate: &'a CertificateDer<'_>, at: &Path) -> Result<X509Certificate<'a>, SecurityError> {
    X509Certificate::from_der(certificate).map(|(_, read)| read).map_err(|error| unread(at, &error))
}

fn unread(at: &Path, error: &dyn std::fmt::Display) -> SecurityError {
    wrong(at, format!("this certificate can't be read: {error}"))
}

fn to_pem(certificate: &CertificateDer<'_>) -> String {
    let pem = pem::Pem::new("CERTIFICATE", certificate.as_ref());
    pem::encode_config(&pem, pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF))
}

fn params(serial: [u8; 16], from: SystemTime, to: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = calendar(from);
    params.not_after = calendar(to);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    params
}

/// Random and positive, and always of the same length, since its first byte is neither zero nor has its highest bit set.
fn random_serial() -> Result<[u8; 16], SecurityError> {
    let mut serial = [0; 16];
    getrandom::fill(&mut serial)
        .map_err(|error| SecurityError::Setup { reason: format!("no random numbers to be had: {error}") })?;
    serial[0] = serial[0] & 0x3f | 0x40;
    Ok(serial)
}

fn calendar(time: SystemTime) -> time::OffsetDateTime {
    whole(time).into()
}

fn uri(text: &str) -> Result<Ia5String, SecurityError> {
    Ia5String::try_from(text).map_err(unmade)
}

fn unmade(error: rcgen::Error) -> SecurityError {
    SecurityError::Setup { reason: format!("this can't be made: {error}") }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = |at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(digits).collect()
}
