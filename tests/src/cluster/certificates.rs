//! The keys of a control plane that lives for minutes: an authority, the API server's certificate, and the
//! key that signs service account tokens.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// The files that the components are given. All are PEM.
#[derive(Debug)]
pub(super) struct Certificates {
    /// The certificate of the authority, for clients.
    pub(super) authority: PathBuf,
    /// The API server's certificate.
    pub(super) server: PathBuf,
    /// The API server's private key.
    pub(super) server_key: PathBuf,
    /// The private key that signs service account tokens.
    pub(super) token_key: PathBuf,
    /// The public key that checks them.
    pub(super) token_public_key: PathBuf,
}

impl Certificates {
    /// Makes new keys in `folder`. The server's certificate is good for `addresses`.
    pub(super) fn make(folder: &Path, addresses: &[IpAddr]) -> Result<Self> {
        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::CommonName, "svclb test authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let authority_key = KeyPair::generate().context("make the key of the authority")?;
        let authority_certificate =
            authority.self_signed(&authority_key).context("sign the authority's certificate")?;

        let names = addresses.iter().map(ToString::to_string).chain([
            "localhost".to_owned(),
            "kubernetes".to_owned(),
            "kubernetes.default".to_owned(),
            "kubernetes.default.svc".to_owned(),
        ]);
        let mut server = CertificateParams::new(names.collect::<Vec<_>>())
            .context("list the names of the API server's certificate")?;
        server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        let server_key = KeyPair::generate().context("make the key of the API server")?;
        let server_certificate = server
            .signed_by(&server_key, &Issuer::new(authority, authority_key))
            .context("sign the API server's certificate")?;

        let token_key = KeyPair::generate().context("make the key of service account tokens")?;
        let write = |name: &str, content: String| -> Result<PathBuf> {
            let path = folder.join(name);
            fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
            Ok(path)
        };
        Ok(Self {
            authority: write("authority.crt", authority_certificate.pem())?,
            server: write("apiserver.crt", server_certificate.pem())?,
            server_key: write("apiserver.key", server_key.serialize_pem())?,
            token_key: write("tokens.key", token_key.serialize_pem())?,
            token_public_key: write("tokens.pub", token_key.public_key_pem())?,
        })
    }
}
