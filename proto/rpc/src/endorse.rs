//! An authority's word for the authorities that sites are to trust: whoever may replace them could be every site.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Ahead of what is signed, so that a signature means nothing else.
const PURPOSE: &[u8] = b"claudefs authorities v1\n";
/// Most authorities whose word is tried.
const MAX_AUTHORITIES: usize = 8;

/// What an authority signs.
pub(crate) fn message(authorities: &[u8]) -> Vec<u8> {
    [PURPOSE, authorities].concat()
}

/// Whether one of the authorities in `trusted` (PEM) has signed `authorities`.
pub(crate) fn vouched_for(trusted: &[u8], authorities: &[u8], signature: &[u8]) -> bool {
    let message = message(authorities);
    let ders = CertificateDer::pem_slice_iter(trusted).take(MAX_AUTHORITIES);
    ders.filter_map(Result::ok).any(|der| {
        let Ok((_, certificate)) = x509_parser::parse_x509_certificate(&der) else { return false };
        let key = certificate.public_key().subject_public_key.data.as_ref();
        let algorithm = &ring::signature::ECDSA_P256_SHA256_ASN1;
        ring::signature::UnparsedPublicKey::new(algorithm, key).verify(&message, signature).is_ok()
    })
}
