//! TLS for client connections: system roots or `--cacert`, client certificates, and the test switch that trusts anyone.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

#[derive(Debug, Clone, Default)]
pub struct Files {
    pub cert: String,
    pub key: String,
    pub cacert: String,
    pub skip_verify: bool,
}

impl Files {
    pub fn is_empty(&self) -> bool {
        self.cert.is_empty() && self.key.is_empty() && self.cacert.is_empty() && !self.skip_verify
    }

    pub fn config(&self) -> Result<Arc<ClientConfig>, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?;
        let builder = if self.skip_verify {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(TrustAnyone(provider)))
        } else {
            let mut roots = RootCertStore::empty();
            if self.cacert.is_empty() {
                for cert in rustls_native_certs::load_native_certs().certs {
                    // A broken system root only matters to servers that need it.
                    let _ = roots.add(cert);
                }
            } else {
                for cert in certificates(&self.cacert)? {
                    roots.add(cert).map_err(|e| e.to_string())?;
                }
            }
            builder.with_root_certificates(roots)
        };
        let mut config = match (self.cert.as_str(), self.key.as_str()) {
            ("", "") => builder.with_no_client_auth(),
            (cert, key) if cert.is_empty() || key.is_empty() => {
                return Err(format!(
                    "KeyFile and CertFile must both be present[key: {key}, cert: {cert}]"
                ));
            }
            (cert, key) => {
                let key =
                    PrivateKeyDer::from_pem_file(key).map_err(|e| format!("open {key}: {e}"))?;
                builder
                    .with_client_auth_cert(certificates(cert)?, key)
                    .map_err(|e| e.to_string())?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| format!("open {path}: {e}"))
}

/// `--insecure-skip-tls-verify`: signatures are still checked, the certificate is not.
#[derive(Debug)]
struct TrustAnyone(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAnyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
