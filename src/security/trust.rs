//! Whom this node believes to be who: certificate chains held against its trust anchors, revocation lists and fabric.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, ServerName, SignatureVerificationAlgorithm, TrustAnchor,
    UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use webpki::{
    BorrowedCertRevocationList, CertRevocationList, EndEntityCert, ExpirationPolicy,
    ExtendedKeyUsageValidator, KeyPurposeIdIter, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder,
    UnknownStatusPolicy, VerifiedPath,
};
use x509_parser::prelude::{CertificateRevocationList, FromDer, ParsedExtension, X509Certificate};

use super::{Identity, Refusal};
use crate::transport::tls::note_refused;

/// What proves a peer to be a member of the fabric.
#[derive(Debug)]
pub(super) struct Trust {
    pub(super) anchors: Vec<TrustAnchor<'static>>,
    /// When each of them is over, which webpki leaves to us.
    pub(super) ends: Vec<SystemTime>,
    pub(super) lists: Lists,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    /// Empty while the node's own certificate, which says it, is not known.
    pub(super) fabric: String,
}

/// What was revoked: whoever is on any list of its issuer. An issuer without a list here has revoked nothing; a list past
/// its next update still counts, since an old list that shuts somebody out is better than none.
#[derive(Debug, Default)]
pub(super) struct Lists {
    lists: Vec<CertRevocationList<'static>>,
    /// The earliest.
    pub(super) next_update: Option<SystemTime>,
    /// The public keys of the trusted CAs that have signed one.
    pub(super) of: HashSet<Vec<u8>>,
    /// How many are of none of them: of a CA that one of them has certified, or of one that has nothing to say here.
    pub(super) strays: usize,
}

impl Lists {
    /// Of CAs given as certificates and as what was made of them. One that names such a CA and was not signed by it is
    /// damaged or forged, and an error: it would shut nobody out.
    pub(super) fn new(
        ders: &[CertificateRevocationListDer<'_>],
        cas: &[CertificateDer<'_>],
        anchors: &[TrustAnchor<'_>],
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<Self, String> {
        let cas = cas.iter().zip(anchors);
        let cas: Vec<_> =
            cas.filter_map(|(der, anchor)| Some((X509Certificate::from_der(der).ok()?.1, anchor))).collect();
        let mut made = Self::default();
        for der in ders {
            let none = |error: &dyn std::fmt::Display| format!("has a broken revocation list: {error}");
            let list = BorrowedCertRevocationList::from_der(der).and_then(|list| list.to_owned());
            made.lists.push(list.map_err(|error| none(&error))?.into());
            let (_, list) = CertificateRevocationList::from_der(der).map_err(|error| none(&error))?;
            let named: Vec<_> = cas.iter().filter(|(ca, _)| names(&list, ca)).collect();
            match named.iter().find(|(ca, _)| has_signed(ca, &list, algorithms)) {
                Some((_, anchor)) => {
                    made.of.insert(anchor.subject_public_key_info.to_vec());
                }
                None if named.is_empty() => made.strays += 1,
                None => return Err(none(&"the CA that it names has not signed it")),
            }
            // Before 1970: long over.
            let next = list
                .next_update()
                .map(|next| u64::try_from(next.timestamp()).unwrap_or(0))
                .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
            made.next_update = made.next_update.into_iter().chain(next).min();
        }
        Ok(made)
    }

    /// Holds a path that is good otherwise against every list of its issuers: webpki by itself looks into the first list
    /// of a name only, though a CA may have several, and though a new CA may bear the name of the one before it.
    fn check(
        &self,
        path: &VerifiedPath<'_>,
        algorithms: &WebPkiSupportedAlgorithms,
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let issuers: Vec<_> = std::iter::once(path.end_entity().issuer())
            .chain(path.intermediate_certificates().map(|certificate| certificate.issuer()))
            .collect();
        let between: Vec<_> = path.intermediate_certificates().map(|certificate| certificate.der()).collect();
        for list in &self.lists {
            let named = issuers.iter().filter(|issuer| **issuer == list.issuer()).count();
            if named == 0 {
                continue;
            }
            let list = [list];
            let Ok(options) = RevocationOptionsBuilder::new(&list) else { continue };
            let options = options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(ExpirationPolicy::Ignore)
                .build();
            // Of this path and no other.
            let anchor = std::slice::from_ref(path.anchor());
            let checked = path
                .end_entity()
                .verify_for_usage(algorithms.all, anchor, &between, now, AnyUse, Some(options), None)
                .map(drop);
            match checked {
                // It is of another CA of that name. With several issuers of that name in the path it might be of one that was
                // not reached, so that nobody can say that nothing was revoked.
                Err(webpki::Error::InvalidCrlSignatureForPublicKey) if named == 1 => {}
                Err(error) if is_of_another_key(&error) && named == 1 => {}
                checked => checked?,
            }
        }
        Ok(())
    }
}

/// Whether a list says that it is of this CA: by its name, and by its key where both say which.
fn names(list: &CertificateRevocationList<'_>, ca: &X509Certificate<'_>) -> bool {
    let theirs = list.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref(),
        _ => None,
    });
    let own = ca.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id),
        _ => None,
    });
    list.issuer().as_raw() == ca.subject().as_raw()
        && theirs.zip(own).is_none_or(|(theirs, own)| theirs.0 == own.0)
}

fn has_signed(
    ca: &X509Certificate<'_>,
    list: &CertificateRevocationList<'_>,
    algorithms: &WebPkiSupportedAlgorithms,
) -> bool {
    let (key, signature) = (&ca.public_key().subject_public_key.data, &list.signature_value.data);
    // Whichever fits the key: another one refuses it.
    let signed = |algorithm: &&dyn SignatureVerificationAlgorithm| {
        algorithm.verify_signature(key, list.tbs_cert_list.as_ref(), signature).is_ok()
    };
    algorithms.all.iter().any(signed)
}

/// Whether a list can't have been signed by the key that it was tried with, because that is of another kind.
fn is_of_another_key(error: &webpki::Error) -> bool {
    matches!(error, webpki::Error::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_))
}

/// Whatever a certificate may be used for.
struct AnyUse;

impl ExtendedKeyUsageValidator for AnyUse {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

impl Trust {
    /// Whose certificate this is, if it is good for our fabric now. Its use was looked at when the connection began.
    pub(super) fn check(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Identity, Refusal> {
        self.verify(chain, unix(now), AnyUse)?;
        self.identify(chain)
    }

    /// Whether this is a certificate for a node: each dials and is dialled.
    pub(super) fn check_node(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<(), Refusal> {
        self.check(chain, now)?;
        let now = unix(now);
        self.verify(chain, now, KeyUsage::server_auth())?;
        self.verify(chain, now, KeyUsage::client_auth())
    }

    /// Who the first certificate says that its holder is. The chain was verified before.
    pub(super) fn identify(&self, chain: &[CertificateDer<'_>]) -> Result<Identity, Refusal> {
        let identity = identity_of(chain.first().ok_or(Refusal::NoCertificate)?)?;
        match &identity {
            Identity::Service { fabric, .. } if *fabric != self.fabric => {
                Err(Refusal::WrongFabric { theirs: fabric.clone(), ours: self.fabric.clone() })
            }
            _ => Ok(identity),
        }
    }

    pub(super) fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
        usage: impl ExtendedKeyUsageValidator,
    ) -> Result<(), Refusal> {
        let (first, intermediates) = chain.split_first().ok_or(Refusal::NoCertificate)?;
        let certificate = EndEntityCert::try_from(first).map_err(|error| refusal(&error))?;
        // What webpki leaves to us, or does with the first list only.
        let judge = |path: &VerifiedPath<'_>| {
            // A CA that was renewed with the same key is there twice, and good until the later end.
            let ends = self.anchors.iter().zip(&self.ends);
            let end = ends.filter(|(anchor, _)| *anchor == path.anchor()).map(|(_, end)| unix(*end)).max();
            match end {
                Some(end) if end >= now => self.lists.check(path, &self.algorithms, now),
                Some(not_after) => Err(webpki::Error::CertExpired { time: now, not_after }),
                None => Err(webpki::Error::UnknownIssuer),
            }
        };
        certificate
            .verify_for_usage(
                self.algorithms.all,
                &self.anchors,
                intermediates,
                now,
                usage,
                None,
                Some(&judge),
            )
            .map(drop)
            .map_err(|error| refusal(&error))
    }
}

/// The SPIFFE ID in a certificate: exactly one, as the X.509-SVID specification has it.
pub(super) fn identity_of(certificate: &CertificateDer<'_>) -> Result<Identity, Refusal> {
    let parsed = EndEntityCert::try_from(certificate).map_err(|error| refusal(&error))?;
    let mut names = parsed.valid_uri_names();
    let none = |reason: &str| Refusal::NoIdentity { reason: reason.into() };
    let name =
        names.next().ok_or_else(|| none("no URI among its names, such as spiffe://shop/service/pricing"))?;
    if names.next().is_some() {
        return Err(none("it has more than one URI among its names"));
    }
    name.parse().map_err(|error| Refusal::NoIdentity { reason: format!("{name}: {error}") })
}

pub(super) fn unix(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

fn time(time: UnixTime) -> SystemTime {
    let since = Duration::from_secs(time.as_secs());
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn refusal(error: &webpki::Error) -> Refusal {
    use webpki::Error as Wrong;
    match error {
        Wrong::CertExpired { not_after, .. } => Refusal::Expired { on: time(*not_after) },
        Wrong::CertNotValidYet { not_before, .. } => Refusal::NotYetValid { before: time(*not_before) },
        Wrong::CertRevoked => Refusal::Revoked,
        // The second: a CA of the same name, but with another key.
        Wrong::UnknownIssuer | Wrong::InvalidSignatureForPublicKey => Refusal::UnknownIssuer,
        Wrong::RequiredEkuNotFoundContext(_) | Wrong::EmptyEkuExtension => {
            let reason = "its extended key usage should have both serverAuth and clientAuth, or not be there";
            Refusal::Usage { reason: reason.into() }
        }
        Wrong::CaUsedAsEndEntity => Refusal::Usage { reason: "it is the certificate of a CA".into() },
        Wrong::InvalidCrlSignatureForPublicKey
        | Wrong::IssuerNotCrlSigner
        | Wrong::UnsupportedCrlSignatureAlgorithmContext(_)
        | Wrong::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_) => {
            Refusal::Broken { reason: format!("the revocation list of its CA cannot be checked: {error}") }
        }
        other => Refusal::Broken { reason: other.to_string() },
    }
}

/// In the words of TLS, so that the peer hears by an alert what is wrong, as far as alerts can tell.
fn alert(refusal: Refusal, now: UnixTime) -> Error {
    Error::InvalidCertificate(match refusal {
        Refusal::NoCertificate => return Error::NoCertificatesPresented,
        Refusal::Expired { on } => CertificateError::ExpiredContext { time: now, not_after: unix(on) },
        Refusal::NotYetValid { before } => {
            CertificateError::NotValidYetContext { time: now, not_before: unix(before) }
        }
        Refusal::Revoked => CertificateError::Revoked,
        Refusal::UnknownIssuer => CertificateError::UnknownIssuer,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    })
}

/// Judges who dials us: any member of the fabric.
#[derive(Debug)]
pub(super) struct Members(pub(super) Arc<Trust>);

impl ClientCertVerifier for Members {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A node has one certificate: there is nothing to choose from.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain = [std::slice::from_ref(end_entity), intermediates].concat();
        let checked =
            self.0.verify(&chain, now, KeyUsage::client_auth()).and_then(|()| self.0.identify(&chain));
        checked.map(|_| ClientCertVerified::assertion()).map_err(|refusal| {
            if let Ok(who) = identity_of(end_entity) {
                note_refused(who.to_string());
            }
            alert(refusal, now)
        })
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.algorithms.supported_schemes()
    }
}

/// Judges who answers our dial: an instance of the service that was asked for, at whatever address.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) trust: Arc<Trust>,
    /// `None`: any member.
    pub(super) service: Option<String>,
}

impl ServerCertVerifier for Dialled {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = [std::slice::from_ref(end_entity), intermediates].concat();
        let checked = self.trust.verify(&chain, now, KeyUsage::server_auth());
        let checked =
            checked.and_then(|()| self.trust.identify(&chain)).and_then(|identity| match &self.service {
                Some(wanted) if wanted != identity.name() => {
                    Err(Refusal::WrongService { theirs: identity.name().to_owned(), wanted: wanted.clone() })
                }
                _ => Ok(()),
            });
        checked.map(|()| ServerCertVerified::assertion()).map_err(|refusal| alert(refusal, now))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.trust.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }
}

/// Both configurations are for TLS 1.3 only, so that nobody gets here.
fn no_tls12() -> Error {
    Error::General("TLS 1.2 is not spoken here".into())
}
