use super::*;
use crate::clock::OsRandomness;

fn token() -> Token {
    Token {
        cluster: ClusterId([1; 16]).to_string(),
        site: "site-c".into(),
        via: "site-a".into(),
        address: "site-a:9501".into(),
        pin: "ab".repeat(32),
        secret: Token::new_secret(&OsRandomness).expect("random bytes"),
    }
}

#[test]
fn a_token_reads_back_and_hides_its_secret() {
    let token = token();
    let text = token.to_string();
    assert!(text.starts_with("cfs1.") && !text.contains(&token.secret), "{text}");
    assert_eq!(text.parse::<Token>(), Ok(token.clone()));
    assert_eq!(format!("  {text}\n").parse::<Token>(), Ok(token.clone()));
    assert!(!format!("{token:?}").contains(&token.secret));
    assert_ne!(Token::new_secret(&OsRandomness).expect("random bytes"), token.secret);
}

/// No cut, flip or nonsense panics, or is read as another token.
#[test]
fn damaged_tokens_are_refused_or_read_whole() {
    let good = token();
    let text = good.to_string();
    for at in 0..text.len() {
        assert_eq!(text[..at].parse::<Token>(), Err(NoToken), "cut at {at}");
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        let flipped = String::from_utf8(bytes).expect("ASCII");
        // A flip within a field may read; it is no other site's secret then.
        let _ = flipped.parse::<Token>();
    }
    for bad in ["", "cfs1.", "cfs2.abc", "cfs1.e30", &"x".repeat(5000), &format!("cfs1.{}", "A".repeat(5000))] {
        assert_eq!(bad.parse::<Token>(), Err(NoToken), "{bad:.20}");
    }
    for broken in [
        Token { site: "Not A Site".into(), ..good.clone() },
        Token { via: String::new(), ..good.clone() },
        Token { cluster: "x".into(), ..good.clone() },
        Token { secret: "short".into(), ..good.clone() },
    ] {
        assert_eq!(broken.to_string().parse::<Token>(), Err(NoToken));
    }
}

#[test]
fn a_pin_is_of_the_key() {
    let (one, other) = (crate::test_site::Cluster::new(), crate::test_site::Cluster::new());
    let der = |cluster: &crate::test_site::Cluster| {
        CertificateDer::from_pem_slice(cluster.authority.cert_pem().as_bytes()).expect("a certificate")
    };
    assert_eq!(pin(&der(&one)).expect("a pin").len(), 64);
    assert_ne!(pin(&der(&one)), pin(&der(&other)));
    assert_eq!(pin(b"nonsense"), None);
}
