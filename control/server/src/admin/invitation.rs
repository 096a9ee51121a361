//! `cfs admin replication invite`, and what becomes of the token: the site that is asked has the leader note that it was used,
//! and only then the site with the authority's key signs.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cfs_control_core::{Kind, caps};
use cfs_model::SiteName;
use cfs_rpc::ca::{Authority, CA_CERTIFICATE, Validity};
use cfs_rpc::clock::OsRandomness;
use cfs_rpc::identity::{Identity, Role};
use cfs_rpc::join::{Token, digest};
use cfs_rpc::private_file;
use cfs_rpc::v1;
use cfs_rpc::v1::admin_reply::Kind as Reply;
use cfs_rpc::v1::admin_request::Kind as Ask;
use tokio_stream::StreamExt;

use super::{Leaders, Out, Right, failure, forward, serve};
use crate::control::{Control, blocking};
use crate::lead::Lead;

/// What was committed is applied at the signing site within this.
const APPLIED_LIMIT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);
const NO_SIGNER: &str = "no control process can read the authority's key";

/// Sites whose control processes can sign, this one first.
pub(super) fn signers(control: &Control) -> Vec<String> {
    let own = control.signs().then(|| control.site().to_string());
    let others = control.contacts.answers().into_iter().filter(|reply| reply.signs).map(|reply| reply.site);
    own.into_iter().chain(others).collect()
}

/// Makes an invitation, at the leader.
pub(super) async fn invite(control: &Arc<Control>, request: &v1::AdminRequest, asked: &v1::InviteRequest, out: &Out) {
    let what = format!("invite {}", asked.site);
    let mut leaders = Leaders::of(request);
    while let Some(lead) = leaders.next(control, request, &what, out).await {
        match invitation(control, &lead, request, asked, &what).await {
            Ok(answer) => {
                out.send(Reply::Invite(answer)).await;
                return out.done(v1::Done::default()).await;
            }
            Err(NotInvited::Refused(failed)) => return out.failed(failed).await,
            Err(NotInvited::Moved(why)) => leaders.moved(why),
        }
    }
}

enum NotInvited {
    Refused(v1::Failed),
    /// Another site leads, or will in a moment: nothing was done.
    Moved(String),
}

async fn invitation(
    control: &Control,
    lead: &Lead,
    request: &v1::AdminRequest,
    asked: &v1::InviteRequest,
    what: &str,
) -> Result<v1::InviteAnswer, NotInvited> {
    let refuse = |code: &str, why: String, next: &str| NotInvited::Refused(failure(code, what, why, next));
    let site = SiteName::new(&asked.site);
    let site = site.map_err(|error| refuse("UNKNOWN_SITE", error.to_string(), "give a site's name"))?;
    if signers(control).is_empty() {
        let next = "put the authority's directory `ca` beside the configuration of one site, owned by the service's user; or issue \
                    certificates by hand: cfs admin tls issue";
        return Err(refuse("NO_SIGNER", NO_SIGNER.to_owned(), next));
    }
    let pin = control.tls.current().authority_pin();
    let pin = pin.ok_or_else(|| refuse("TLS", "the authority has no pin".to_owned(), "cfs admin tls status"))?;
    let secret = Token::new_secret(&OsRandomness);
    let secret = secret.map_err(|error| refuse("RANDOM", error.to_string(), "try again"))?;
    let token = Token {
        cluster: control.config.cluster.id.to_string(),
        site: site.to_string(),
        via: control.site().to_string(),
        address: control.as_member().control,
        pin,
        secret,
    };
    let secret =
        token.secret_bytes().ok_or_else(|| refuse("RANDOM", "the secret does not read".into(), "try again"))?;
    let now_ms = control.wall_ms();
    let until_ms = now_ms.saturating_add(asked.ttl_ms);
    let kind = Kind::Invite { hash: digest(&secret), site, now_ms, until_ms };
    match lead.commit(&request.operator, kind).await {
        Ok(_) => Ok(v1::InviteAnswer {
            token: token.to_string(),
            site: token.site.clone(),
            until_ms: i64::try_from(until_ms).unwrap_or(i64::MAX),
            pin: token.pin.clone(),
            via: token.via.clone(),
            address: token.address.clone(),
        }),
        Err(undone) if undone.moved => Err(NotInvited::Moved(undone.why)),
        Err(undone) => {
            let limit =
                format!("a site that is not enrolled, for {} minutes at most", caps::MAX_INVITATION_MS / 60_000);
            let next = format!("invite {limit}; `cfs admin tls issue` is for sites that are");
            Err(refuse("REFUSED", undone.why, &next))
        }
    }
}

/// Notes that a token is used, at the leader. It is good once.
pub(super) async fn note(
    control: &Arc<Control>,
    request: &v1::AdminRequest,
    asked: &v1::UseInvitationRequest,
    out: &Out,
) {
    let what = format!("use the invitation of {}", asked.site);
    let site = match SiteName::new(&asked.site) {
        Ok(site) => site,
        Err(error) => return out.failed(failure("REFUSED", &what, error.to_string(), "")).await,
    };
    let mut leaders = Leaders::of(request);
    while let Some(lead) = leaders.next(control, request, &what, out).await {
        let (hash, used_for) = (asked.hash.clone(), asked.used_for.clone());
        let redeem = Kind::Redeem { hash, site: site.clone(), now_ms: control.wall_ms(), what: used_for };
        match lead.commit(&request.operator, redeem).await {
            Ok(_) => return out.done(v1::Done::default()).await,
            Err(undone) if undone.moved => leaders.moved(undone.why),
            Err(undone) => return out.failed(failure("REFUSED", &what, undone.why, "")).await,
        }
    }
}

/// Signs what a used token vouches for, at the site with the authority's key: for that site, those requests, and no others.
pub(super) async fn sign(control: &Arc<Control>, request: &v1::AdminRequest, asked: &v1::SignRequest, out: &Out) {
    let what = format!("sign for {}", asked.site);
    if asked.signer != control.site().as_str() {
        let handed = match SiteName::new(&asked.signer) {
            Ok(signer) => forward(control, &signer, request, out).await,
            Err(error) => Err(error.to_string()),
        };
        if let Err(why) = handed {
            out.failed(failure("UNREACHABLE", &what, why, "")).await;
        }
        return;
    }
    match sign_here(control, asked).await {
        Ok(signed) => {
            out.send(Reply::Signed(signed)).await;
            out.done(v1::Done::default()).await;
        }
        Err(why) => out.failed(failure("REFUSED", &what, why, "")).await,
    }
}

async fn sign_here(control: &Arc<Control>, asked: &v1::SignRequest) -> Result<v1::RedeemReply, String> {
    let site = SiteName::new(&asked.site).map_err(|error| error.to_string())?;
    let used_for = used_for(&asked.requests);
    let vouched = || {
        let state = control.state();
        let known = state.invitations.get(&asked.hash);
        known.is_some_and(|known| known.site == site && known.used_for.as_ref() == Some(&used_for))
    };
    let began = tokio::time::Instant::now();
    while !vouched() {
        if began.elapsed() > APPLIED_LIMIT {
            return Err("no invitation vouches for these requests".into());
        }
        tokio::time::sleep(PAUSE).await;
    }
    let (dir, cluster, now) = (control.authority_dir(), control.config.cluster.id, control.clock.wall());
    let (requests, trusted) = (asked.requests.clone(), control.config.tls_dir().join(CA_CERTIFICATE));
    let signing = move || -> Result<v1::RedeemReply, String> {
        let authority = Authority::load(&dir).map_err(|error| error.to_string())?;
        let authorities = private_file::read(&trusted).map_err(|error| format!("{}: {error}", trusted.display()))?;
        let certificates = signed(&authority, cluster, &site, &requests, now)?;
        Ok(v1::RedeemReply { certificates, authorities: String::from_utf8_lossy(&authorities).into_owned() })
    };
    blocking(signing).await.unwrap_or_else(|error| Err(error.to_string()))
}

fn signed(
    authority: &Authority,
    cluster: cfs_model::ClusterId,
    site: &SiteName,
    requests: &[v1::SigningRequest],
    now: SystemTime,
) -> Result<Vec<v1::IssuedCertificate>, String> {
    let one = |request: &v1::SigningRequest| {
        let role: Role = request.role.parse().map_err(|error: cfs_rpc::identity::Error| error.to_string())?;
        let identity = Identity { cluster, site: site.clone(), role };
        let pem = authority.sign(&request.pem, &identity, Validity::lasting(now, Validity::LEAF));
        Ok(v1::IssuedCertificate { role: role.to_string(), pem: pem.map_err(|error| error.to_string())? })
    };
    requests.iter().map(one).collect()
}

/// What a token is noted to be used for: exactly these requests.
fn used_for(requests: &[v1::SigningRequest]) -> String {
    let mut text = String::new();
    for request in requests {
        // Lengths, so that no two lists are one text.
        text.push_str(&format!("{} {} {}\n{}", request.role, request.role.len(), request.pem.len(), request.pem));
    }
    format!("signing requests {}", digest(text.as_bytes()))
}

/// A site without certificates brings a token. `Err`: what was wrong; the token is unused then, unless signing itself failed.
pub(crate) async fn redeem(control: &Arc<Control>, asked: v1::RedeemRequest) -> Result<v1::RedeemReply, String> {
    if asked.cluster != control.config.cluster.id.to_string() {
        return Err("the token is another cluster's".into());
    }
    let mut roles: Vec<&str> = asked.requests.iter().map(|request| request.role.as_str()).collect();
    roles.sort_unstable();
    roles.dedup();
    let known = roles.iter().all(|role| role.parse::<Role>().is_ok());
    if !known || roles.len() != asked.requests.len() || roles.is_empty() {
        return Err("one request for each role is needed".into());
    }
    let signer = signers(control).into_iter().next().ok_or(NO_SIGNER)?;
    let operator = format!("invitation of {}", asked.site);
    let ask = |kind| v1::AdminRequest { operator: operator.clone(), hops: 0, kind: Some(kind) };
    let hash = digest(&asked.secret);
    let (site, used_for) = (asked.site.clone(), used_for(&asked.requests));
    let note = v1::UseInvitationRequest { hash: hash.clone(), site: site.clone(), used_for };
    answer(control, ask(Ask::UseInvitation(note))).await?;
    let sign = v1::SignRequest { hash, site, requests: asked.requests, signer };
    match answer(control, ask(Ask::Sign(sign))).await? {
        Some(reply) => Ok(reply),
        None => Err("the signing site sent no certificates".into()),
    }
}

/// Does what is asked here or where it belongs.
async fn answer(control: &Arc<Control>, request: v1::AdminRequest) -> Result<Option<v1::RedeemReply>, String> {
    let mut replies = serve(control.clone(), request, Right::Change);
    let mut signed = None;
    while let Some(reply) = replies.next().await {
        match reply.map_err(|status| status.message().to_owned())?.kind {
            Some(Reply::Failed(failed)) => return Err(failed.why),
            Some(Reply::Signed(reply)) => signed = Some(reply),
            _ => {}
        }
    }
    Ok(signed)
}
