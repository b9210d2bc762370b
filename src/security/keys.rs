//! A node's keys and whom it trusts, as loaded.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, TrustAnchor};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::files::{self, Places, wrong};
use super::trust::{Dialled, Lists, Members, Trust, identity_of};
use super::{Identity, Refusal, SecurityError};
use crate::config::SecurityConfig;

/// What a node shows and whom it believes: its own certificate and key, the trust anchors and the revocation lists.
/// They don't change; [`KeyStore`](super::KeyStore) has the newest.
///
/// ```no_run
/// use ripstop::{config::SecurityConfig, security::Keys};
/// let config = SecurityConfig { dir: Some("keys/pricing".into()), ..SecurityConfig::default() };
/// let keys = Keys::load(&config, "".as_ref())?;
/// println!("{}, until {:?}", keys.identity(), keys.expires());
/// # Ok::<(), ripstop::security::SecurityError>(())
/// ```
pub struct Keys {
    identity: Identity,
    expires: SystemTime,
    chain: Vec<CertificateDer<'static>>,
    pub(super) trust: Arc<Trust>,
    server: Arc<ServerConfig>,
    /// For any member; copied for each service.
    client: ClientConfig,
    #[cfg(feature = "curve")]
    curve: Curve,
    /// Of everything that was read.
    print: u64,
    /// Of our own certificate and the trust anchors.
    standing: u64,
}

impl Keys {
    /// Reads all files. Relative paths begin at `base`, the directory of `ripstop.toml`.
    ///
    /// # Errors
    /// [`SecurityError`] names the file and what to do: one that is missing, unreadable, readable by others though it holds
    /// a private key, or no PEM; a key that is not the certificate's; a certificate that no CA in `ca` has issued or that
    /// does not name a service.
    ///
    /// ```
    /// use ripstop::{config::SecurityConfig, security::Keys};
    /// let config = SecurityConfig { dir: Some("no/such/place".into()), ..SecurityConfig::default() };
    /// assert!(Keys::load(&config, "".as_ref()).unwrap_err().to_string().contains("no/such/place/node.pem"));
    /// ```
    pub fn load(config: &SecurityConfig, base: &Path) -> Result<Self, SecurityError> {
        Self::read(&Places::new(config, base)?)
    }

    pub(super) fn read(places: &Places) -> Result<Self, SecurityError> {
        let mut print = DefaultHasher::new();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chain = files::certificates(&places.cert)?;
        let anchors = files::certificates(&places.ca)?;
        let lists = files::revocation_lists(&places.crl)?;
        let key = files::private_key(&places.key)?;
        (&chain, &anchors).hash(&mut print);
        let standing = print.finish();
        (&lists, key.secret_der()).hash(&mut print);

        let first = chain.first().ok_or_else(|| wrong(&places.cert, "has no certificate"))?;
        let identity = identity_of(first).map_err(|refusal| wrong(&places.cert, refusal.to_string()))?;
        let Identity::Service { fabric, .. } = &identity else {
            return Err(wrong(&places.cert, format!("is for {identity}, and a node is a service")));
        };
        let algorithms = provider.signature_verification_algorithms;
        let ends = anchors.iter().map(|der| not_after(der).unwrap_or(SystemTime::UNIX_EPOCH)).collect();
        let cas = anchors;
        let anchors = cas.iter().map(anchor).collect::<Result<Vec<_>, _>>();
        let anchors = anchors.map_err(|reason| wrong(&places.ca, reason))?;
        let lists = Lists::new(&lists, &cas, &anchors, &algorithms);
        let lists = lists.map_err(|reason| wrong(places.crl(), reason))?;
        let trust = Trust { anchors, ends, lists, algorithms, fabric: fabric.clone() };
        let trust = Arc::new(trust);
        let expires = chain.iter().filter_map(not_after).min().unwrap_or(SystemTime::UNIX_EPOCH);
        let own = CertifiedKey::from_der(chain.clone(), key, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                wrong(&places.key, format!("is not the key of {}", places.cert.display()))
            }
            other => wrong(&places.key, other.to_string()),
        })?;
        let own = Arc::new(SingleCertAndKey::from(own));
        #[cfg(feature = "curve")]
        let curve = Curve::read(places, &mut print)?;
        let server = Arc::new(server_config(&provider, &trust, &own)?);
        let client = client_config(provider, &trust, own)?;
        Ok(Self {
            identity,
            expires,
            chain,
            trust,
            server,
            client,
            print: print.finish(),
            standing,
            #[cfg(feature = "curve")]
            curve,
        })
    }

    /// Whether our own certificate is one that the members of this fabric let in now.
    ///
    /// # Errors
    /// [`Refusal`]: what they would say.
    ///
    /// ```no_run
    /// # fn f(keys: &ripstop::security::Keys) {
    /// if let Err(refusal) = keys.check_own(std::time::SystemTime::now()) {
    ///     println!("the others will refuse us: {refusal}");
    /// }
    /// # }
    /// ```
    pub fn check_own(&self, now: SystemTime) -> Result<(), Refusal> {
        self.trust.check_node(&self.chain, now)
    }

    /// The service that our certificate names.
    ///
    /// ```no_run
    /// # fn f(keys: &ripstop::security::Keys) {
    /// println!("this is {}", keys.identity());
    /// # }
    /// ```
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// When our certificate, or one between it and its CA, runs out; the earliest counts.
    ///
    /// ```no_run
    /// # fn f(keys: &ripstop::security::Keys) {
    /// let left = keys.expires().duration_since(std::time::SystemTime::now());
    /// # }
    /// ```
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    /// For listeners: TLS 1.3 only, a member's certificate required, no tickets and no resumption, which would skip the
    /// certificate check; X25519MLKEM768 is the preferred key exchange.
    ///
    /// ```no_run
    /// # fn f(keys: &ripstop::security::Keys) {
    /// assert_eq!(keys.server_config().send_tls13_tickets, 0);
    /// # }
    /// ```
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// For dialling an instance of `service`, or any member: as [`server_config`](Self::server_config), and the server's
    /// certificate has to name that service, whatever the address.
    ///
    /// ```no_run
    /// # fn f(keys: &ripstop::security::Keys) {
    /// let for_pricing_only = keys.client_config(Some("pricing"));
    /// # }
    /// ```
    pub fn client_config(&self, service: Option<&str>) -> Arc<ClientConfig> {
        let mut config = self.client.clone();
        if let Some(service) = service {
            let judge = Dialled { trust: self.trust.clone(), service: Some(service.to_owned()) };
            config.dangerous().set_certificate_verifier(Arc::new(judge));
        }
        Arc::new(config)
    }

    /// Whose certificates these are: the SPIFFE ID in the first. TLS has verified them.
    ///
    /// # Errors
    /// [`Refusal::NoIdentity`], [`Refusal::WrongFabric`].
    ///
    /// ```no_run
    /// # fn f(keys: &ripstop::security::Keys, chain: &[rustls::pki_types::CertificateDer<'_>]) {
    /// let who = keys.identify(chain);
    /// # }
    /// ```
    pub fn identify(&self, chain: &[CertificateDer<'_>]) -> Result<Identity, Refusal> {
        self.trust.identify(chain)
    }

    /// Whether a peer with these certificates would be let in at this time.
    ///
    /// # Errors
    /// [`Refusal`]: expired, revoked, its CA is not trusted any more.
    ///
    /// ```no_run
    /// # fn f(keys: &ripstop::security::Keys, chain: &[rustls::pki_types::CertificateDer<'_>]) {
    /// let still = keys.recheck(chain, std::time::SystemTime::now()).is_ok();
    /// # }
    /// ```
    pub fn recheck(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<(), Refusal> {
        self.trust.check(chain, now).map(drop)
    }

    /// What this node proves to be to those who speak CURVE; `None`: nobody comes in that way.
    ///
    /// ```no_run
    /// # fn f(keys: &ripstop::security::Keys) {
    /// if let Some(pair) = keys.curve_keys() {
    ///     println!("clients dial with the server key {}", pair.public());
    /// }
    /// # }
    /// ```
    #[cfg(feature = "curve")]
    pub fn curve_keys(&self) -> Option<&Arc<crate::zmtp::curve::KeyPair>> {
        self.curve.own.as_ref()
    }

    /// Under which name this CURVE key is enrolled, such as `curve:reports`.
    ///
    /// ```no_run
    /// # fn f(keys: &ripstop::security::Keys, key: ripstop::zmtp::curve::PublicKey) {
    /// let name = keys.enrolled(&key);
    /// # }
    /// ```
    #[cfg(feature = "curve")]
    pub fn enrolled(&self, key: &crate::zmtp::curve::PublicKey) -> Option<Identity> {
        Identity::curve(self.curve.names.name_of(key.as_bytes())?).ok()
    }

    /// Changes with our own certificate and with the CAs that are trusted: what connections stand on.
    pub(crate) fn standing(&self) -> u64 {
        self.standing
    }

    /// The same files make the same print.
    pub(super) fn print(&self) -> u64 {
        self.print
    }
}

/// Who we are to those who speak CURVE, and who they are to us.
#[cfg(feature = "curve")]
struct Curve {
    own: Option<Arc<crate::zmtp::curve::KeyPair>>,
    names: super::CurveNames,
}

#[cfg(feature = "curve")]
impl Curve {
    fn read(places: &Places, print: &mut impl Hasher) -> Result<Self, SecurityError> {
        let own = match places.curve_key.there()? {
            Some(path) => super::read_curve_key(path)?,
            None => None,
        };
        let names = match places.curve_names.there()? {
            Some(path) => super::CurveNames::open(path)?,
            None => super::CurveNames::default(),
        };
        if let Some(own) = &own {
            own.public().as_bytes().hash(print);
        }
        names.iter().for_each(|(name, key)| (name, key.as_bytes()).hash(print));
        Ok(Self { own: own.map(Arc::new), names })
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("identity", &self.identity).finish_non_exhaustive()
    }
}

pub(super) fn server_config(
    provider: &Arc<CryptoProvider>,
    trust: &Arc<Trust>,
    own: &Arc<SingleCertAndKey>,
) -> Result<ServerConfig, SecurityError> {
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(unusable)?
        .with_client_cert_verifier(Arc::new(Members(trust.clone())))
        .with_cert_resolver(own.clone());
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

pub(super) fn client_config(
    provider: Arc<CryptoProvider>,
    trust: &Arc<Trust>,
    own: Arc<SingleCertAndKey>,
) -> Result<ClientConfig, SecurityError> {
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(unusable)?
        // Called so because it replaces the usual judge, who knows of DNS names only; this one asks for more.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Dialled { trust: trust.clone(), service: None }))
        .with_client_cert_resolver(own);
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

fn unusable(error: rustls::Error) -> SecurityError {
    SecurityError::Setup { reason: format!("TLS 1.3 cannot be used: {error}") }
}

fn anchor(der: &CertificateDer<'static>) -> Result<TrustAnchor<'static>, String> {
    let anchor = webpki::anchor_from_trusted_cert(der)
        .map_err(|error| format!("a CA certificate is broken: {error}"))?;
    Ok(anchor.to_owned())
}

pub(crate) fn not_after(der: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}
