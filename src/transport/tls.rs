//! TLS 1.3 below ZMTP: on the same port as plain ZMTP, because the first byte tells which of the two a peer speaks
//! (0x16 begins a TLS handshake record, RFC 8446 5.1; 0xFF a ZMTP greeting).
//!
//! What is trusted and shown is not decided here: it is in the rustls configurations, which are asked for at each
//! handshake, so that a change of keys reaches the next connection.

use std::io;

#[cfg(feature = "tls")]
use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::Stream;

#[cfg(feature = "tls")]
pub(crate) use with_rustls::{Acceptor, Connector, note_refused};

/// The content type of a handshake record: what TLS begins with.
pub(crate) const FIRST_BYTE: u8 = 0x16;

/// Who is at the other end, as far as it was proven.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) enum Proof {
    /// Nothing is proven.
    #[default]
    None,
    /// The certificates of a TLS peer that holds the first one's key, that first, in DER; verified by the rustls
    /// configuration in force.
    #[cfg(feature = "tls")]
    Certificates(Vec<Bytes>),
    /// The lasting public key of a CURVE peer, proven by ZMTP's own handshake.
    Curve([u8; 32]),
}

/// An accepted connection, once its first byte has told what it is.
pub(crate) enum First {
    /// TLS, with its handshake done.
    Tls(Stream, Proof),
    /// Something else, in all likelihood ZMTP; nothing is lost of it.
    Plain(Stream),
}

/// Without the feature `tls` nobody can make one.
#[cfg(not(feature = "tls"))]
#[derive(Clone, Debug)]
pub(crate) enum Acceptor {}

/// Without the feature `tls` nobody can make one.
#[cfg(not(feature = "tls"))]
#[derive(Clone, Debug)]
pub(crate) enum Connector {}

#[cfg(not(feature = "tls"))]
impl Acceptor {
    async fn handshake(&self, _: Stream) -> io::Result<(Stream, Proof)> {
        match *self {}
    }
}

#[cfg(not(feature = "tls"))]
impl Connector {
    pub(crate) async fn connect(&self, _: Stream) -> io::Result<(Stream, Proof)> {
        match *self {}
    }
}

impl Acceptor {
    /// Waits for the first byte, and for the whole handshake if it is that of TLS. Not cancel safe: what was read is
    /// lost with the connection.
    pub(crate) async fn accept(&self, stream: Stream) -> io::Result<First> {
        // Room for the one byte to be looked at. All later reads ask for more than that, and so go past it.
        let mut stream = BufReader::with_capacity(1, stream);
        match stream.fill_buf().await?.first() {
            None => Err(io::ErrorKind::UnexpectedEof.into()),
            Some(&FIRST_BYTE) => {
                self.handshake(Box::new(stream)).await.map(|(stream, proof)| First::Tls(stream, proof))
            }
            Some(_) => Ok(First::Plain(Box::new(stream))),
        }
    }
}

/// A connection's error in words that say what to look at; TLS tells of a refusal by an alert without any.
pub(crate) fn explain(error: &io::Error) -> String {
    #[cfg(feature = "tls")]
    if let Some(text) = with_rustls::explain(error) {
        return text;
    }
    match error.kind() {
        // Also what rustls makes of a connection that ends without a goodbye.
        io::ErrorKind::UnexpectedEof => "the peer closed the connection".into(),
        _ => error.to_string(),
    }
}

#[cfg(feature = "tls")]
mod with_rustls {
    use std::cell::RefCell;
    use std::fmt;
    use std::io;
    use std::sync::Arc;

    use bytes::Bytes;
    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::{ClientConfig, ServerConfig};

    use super::{Proof, Stream};
    use crate::date::date;

    /// What a listener shows and demands: the configuration for the handshake that begins now.
    #[derive(Clone)]
    pub(crate) struct Acceptor(pub(crate) Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>);

    /// What a dial shows and demands.
    #[derive(Clone)]
    pub(crate) struct Connector(pub(crate) Arc<dyn Fn() -> Arc<ClientConfig> + Send + Sync>);

    impl fmt::Debug for Acceptor {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Acceptor")
        }
    }

    impl fmt::Debug for Connector {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Connector")
        }
    }

    tokio::task_local! {
        /// Whom the verifier refuses in the handshake under way: rustls forgets the certificate of a refused peer.
        static REFUSED: RefCell<Option<String>>;
    }

    /// For the log: who a refused peer says that it is.
    pub(crate) fn note_refused(who: String) {
        // Outside of a listener's handshake nobody asks.
        let _ = REFUSED.try_with(|refused| refused.replace(Some(who)));
    }

    /// A refusal, and whom it met.
    #[derive(Debug, thiserror::Error)]
    #[error("{error} (it says that it is {who})")]
    struct Refused {
        who: String,
        error: io::Error,
    }

    /// What rustls holds of encrypted output before a write waits: a batch, so that none is cut in two.
    const BUFFER: usize = 256 * 1024;

    impl Acceptor {
        pub(super) async fn handshake(&self, stream: Stream) -> io::Result<(Stream, Proof)> {
            let accept = tokio_rustls::TlsAcceptor::from((self.0)()).accept(stream);
            let accept = async {
                accept.await.map_err(|error| match REFUSED.with(RefCell::take) {
                    Some(who) => io::Error::new(error.kind(), Refused { who, error }),
                    None => error,
                })
            };
            let mut stream = REFUSED.scope(RefCell::default(), accept).await?;
            stream.get_mut().1.set_buffer_limit(Some(BUFFER));
            let proof = proof(stream.get_ref().1.peer_certificates());
            Ok((Box::new(stream), proof))
        }
    }

    impl Connector {
        /// Not cancel safe: the connection is lost.
        pub(crate) async fn connect(&self, stream: Stream) -> io::Result<(Stream, Proof)> {
            // Who answers is judged by the name in its certificate that the configuration asks for, not by an address, so
            // that this one is neither sent nor looked at.
            let nobody = ServerName::try_from("ripstop.invalid").map_err(io::Error::other)?;
            let mut stream = tokio_rustls::TlsConnector::from((self.0)()).connect(nobody, stream).await?;
            stream.get_mut().1.set_buffer_limit(Some(BUFFER));
            let proof = proof(stream.get_ref().1.peer_certificates());
            Ok((Box::new(stream), proof))
        }
    }

    /// `None`: it is no error of TLS.
    pub(super) fn explain(error: &io::Error) -> Option<String> {
        use rustls::{
            AlertDescription as Alert, CertificateError as Wrong, Error, OtherError, PeerIncompatible,
        };
        let error = error.get_ref()?;
        if let Some(Refused { who, error }) = error.downcast_ref() {
            return Some(format!("{} (it says that it is {who})", super::explain(error)));
        }
        let error = error.downcast_ref::<Error>()?;
        Some(match error {
            Error::AlertReceived(alert) => match alert {
                Alert::CertificateRequired => {
                    "the peer wants a certificate, and this side showed none".into()
                }
                Alert::CertificateExpired => {
                    "the peer refused our certificate: it has expired, or is not valid yet by the peer's clock".into()
                }
                Alert::CertificateRevoked => "the peer refused our certificate: it was revoked".into(),
                Alert::UnknownCA => {
                    "the peer refused our certificate: it does not trust the CA that issued it".into()
                }
                Alert::CertificateUnknown => {
                    "the peer refused our certificate: it is not for this fabric, or not for the service that was dialled; \
                     its log says more"
                        .into()
                }
                Alert::BadCertificate | Alert::UnsupportedCertificate | Alert::AccessDenied => {
                    format!("the peer refused our certificate ({alert:?}); its log says why")
                }
                Alert::ProtocolVersion => "the peer does not speak TLS 1.3".into(),
                other => format!("the peer ended the handshake ({other:?})"),
            },
            Error::NoCertificatesPresented => "the peer showed no certificate".into(),
            Error::InvalidCertificate(wrong) => match wrong {
                Wrong::ExpiredContext { not_after, .. } => {
                    format!("the peer's certificate expired on {}", at(*not_after))
                }
                Wrong::NotValidYetContext { not_before, .. } => {
                    format!("the peer's certificate is not valid before {}", at(*not_before))
                }
                Wrong::UnknownIssuer => "the peer's certificate was issued by another CA".into(),
                Wrong::Revoked => "the peer's certificate was revoked".into(),
                Wrong::Other(OtherError(why)) => format!("the peer: {why}"),
                other => format!("the peer's certificate: {other}"),
            },
            Error::PeerIncompatible(
                PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::Tls13RequiredForQuic,
            ) => "the peer does not speak TLS 1.3".into(),
            Error::InvalidMessage(_) => "the peer does not speak TLS".into(),
            Error::General(text) => text.clone(),
            other => other.to_string(),
        })
    }

    fn at(time: rustls::pki_types::UnixTime) -> String {
        let since = std::time::Duration::from_secs(time.as_secs());
        date(
            std::time::SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(std::time::SystemTime::UNIX_EPOCH),
        )
    }

    fn proof(certificates: Option<&[CertificateDer<'static>]>) -> Proof {
        match certificates {
            Some(chain) if !chain.is_empty() => {
                Proof::Certificates(chain.iter().map(|der| Bytes::copy_from_slice(der)).collect())
            }
            _ => Proof::None,
        }
    }
}
