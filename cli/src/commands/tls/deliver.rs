//! New certificates for a site: over the control processes' connections, or as files to be installed by hand.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use cfs_config::Config;
use cfs_model::SiteName;
use cfs_rpc::ca::{self, Authority, Validity};
use cfs_rpc::certificate::Certificate;
use cfs_rpc::identity::{Identity, Role};
use cfs_rpc::renewal::{self, Delivery};
use cfs_rpc::v1::admin_request::Kind;
use cfs_rpc::v1::{
    CertificatesAnswer, CertificatesQuery, Done, InstallRequest, IssuedCertificate, RenewalRequest, SigningRequests,
};

use super::super::replication::ask;
use super::super::replication::refusal::Refusal;
use crate::Context;

/// A control process that has just got a certificate is reached by the others within this.
const SETTLE: Duration = Duration::from_secs(3);
/// Processes look for new files every 5 s.
pub(super) const RELOADED: Duration = Duration::from_secs(11);
const PAUSE: Duration = Duration::from_millis(500);

/// What sites are to trust, and an authority's word for it.
#[derive(Debug, Clone, Default)]
pub(super) struct Trust {
    pub(super) authorities: String,
    pub(super) endorsement: Vec<u8>,
}

/// A site, and the roles that its processes serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) site: SiteName,
    pub(super) roles: Vec<Role>,
    pub(super) here: bool,
    witness: bool,
}

impl Target {
    /// Roles that the site needs certificates of: one that stores data has producers and operators, a witness only votes.
    const fn needs(&self) -> &'static [Role] {
        if self.witness { &[Role::Control] } else { &Role::ALL }
    }
}

/// The certificates of all sites as the local control process sees them; `None` while it does not run.
pub(super) async fn survey(context: &Context) -> Option<CertificatesAnswer> {
    let asked = ask::query::<CertificatesAnswer>(context, Kind::Certificates(CertificatesQuery {})).await;
    asked.ok().map(|answer| answer.body)
}

/// Every site, this one first: it shows whether the authority is the right one before others are touched.
pub(super) fn targets(config: &Config, survey: Option<&CertificatesAnswer>) -> Vec<Target> {
    let mut roles: BTreeMap<SiteName, Vec<Role>> = BTreeMap::new();
    let mut add = |site: &SiteName, role| roles.entry(site.clone()).or_default().push(role);
    match survey {
        Some(seen) => {
            for served in &seen.served {
                if let (Ok(site), Ok(role)) = (SiteName::new(&served.site), served.role.parse()) {
                    add(&site, role);
                }
            }
        }
        None => {
            for (site, witness) in config.peers.iter().map(|peer| (&peer.name, peer.witness)) {
                add(site, Role::Control);
                if !witness {
                    add(site, Role::Shipper);
                }
            }
            add(&config.site.name, Role::Control);
            if !config.site.witness {
                add(&config.site.name, Role::Shipper);
            }
        }
    }
    let own = &config.site.name;
    let target = |(site, roles): (SiteName, Vec<Role>)| Target {
        here: site == *own,
        witness: !roles.contains(&Role::Shipper),
        site,
        roles,
    };
    let mut targets: Vec<Target> = roles.into_iter().map(target).collect();
    targets.sort_by_key(|target| !target.here);
    targets
}

/// Has a site make keys, signs them and has it install the certificates; returns the new serial numbers.
///
/// # Errors
/// The site is not reached, or refuses; then it goes on with what it has.
pub(super) async fn renew(
    context: &Context,
    config: &Config,
    authority: &Authority,
    trust: &Trust,
    target: &Target,
    running: bool,
) -> anyhow::Result<Vec<(Role, String)>> {
    if !running {
        anyhow::ensure!(
            target.here,
            "the control process of {} does not run, and others are reached through it",
            config.site.name
        );
        return renew_files(config.clone(), authority, trust).await;
    }
    let site = target.site.to_string();
    let asked = patiently(context, || Kind::Renewal(RenewalRequest { site: site.clone() }));
    let requests: SigningRequests = asked.await?;
    let mut certificates = Vec::new();
    for request in &requests.requests {
        let role: Role = request.role.parse()?;
        certificates.push((role, sign(authority, &target.site, role, &request.pem)?));
    }
    let serials = serials(&certificates)?;
    let certificates =
        certificates.into_iter().map(|(role, pem)| IssuedCertificate { role: role.to_string(), pem }).collect();
    let install = InstallRequest {
        site,
        certificates,
        authorities: trust.authorities.clone(),
        endorsement: trust.endorsement.clone().into(),
    };
    ask::query::<Done>(context, Kind::Install(install)).await?;
    Ok(serials)
}

/// Has a site trust other authorities.
///
/// # Errors
/// The site is not reached, or refuses; then it goes on with what it has.
pub(super) async fn trust(context: &Context, trust: &Trust, site: &SiteName) -> anyhow::Result<()> {
    let install = || {
        Kind::Install(InstallRequest {
            site: site.to_string(),
            certificates: Vec::new(),
            authorities: trust.authorities.clone(),
            endorsement: trust.endorsement.clone().into(),
        })
    };
    patiently::<Done>(context, install).await.map(|_| ())
}

/// Asks again for a while when a site is not reached.
async fn patiently<T: ask::Body>(context: &Context, kind: impl Fn() -> Kind) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        match ask::query::<T>(context, kind()).await {
            Ok(answer) => return Ok(answer.body),
            Err(error) => {
                let unreached = error.downcast_ref::<Refusal>().is_some_and(|refusal| &*refusal.code == "UNREACHABLE");
                if !unreached || began.elapsed() > SETTLE {
                    return Err(error);
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The same for this site's own files, while its control process is down.
async fn renew_files(config: Config, authority: &Authority, trust: &Trust) -> anyhow::Result<Vec<(Role, String)>> {
    let own = Identity { cluster: config.cluster.id, site: config.site.name.clone(), role: Role::Control };
    let dir = config.tls_dir().to_owned();
    let (for_keys, holder) = (dir.clone(), own.clone());
    let made = move || renewal::prepare(&for_keys, &holder, &renewal::roles(&for_keys));
    let requests = tokio::task::spawn_blocking(made).await??;
    let mut certificates = Vec::new();
    for request in requests {
        certificates.push((request.role, sign(authority, &own.site, request.role, &request.pem)?));
    }
    let serials = serials(&certificates)?;
    let delivery =
        Delivery { certificates, authorities: trust.authorities.clone(), endorsement: trust.endorsement.clone() };
    let install = move || renewal::install(&dir, &own, &delivery, SystemTime::now());
    tokio::task::spawn_blocking(install).await??;
    Ok(serials)
}

fn sign(authority: &Authority, site: &SiteName, role: Role, request: &str) -> Result<String, ca::Error> {
    let identity = Identity { cluster: authority.cluster(), site: site.clone(), role };
    authority.sign(request, &identity, Validity::lasting(SystemTime::now(), Validity::LEAF))
}

fn serials(certificates: &[(Role, String)]) -> anyhow::Result<Vec<(Role, String)>> {
    let serial = |(role, pem): &(Role, String)| {
        let read = Certificate::all_from_pem(pem.as_bytes(), 1)?;
        Ok((*role, read.into_iter().next().map(|certificate| certificate.serial).unwrap_or_default()))
    };
    certificates.iter().map(serial).collect()
}

/// Writes keys and certificates of all roles that a site needs, which is not reached, into a directory of its own. Blocks.
///
/// # Errors
/// When it exists, or cannot be written.
pub(super) fn bundle(
    authority: &Authority,
    authorities: &str,
    target: &Target,
    dir: &Path,
) -> anyhow::Result<Vec<(Role, String)>> {
    anyhow::ensure!(!dir.exists(), "{} is left of an earlier renewal, and was not replaced", dir.display());
    let mut made = Vec::new();
    for role in target.needs() {
        let identity = Identity { cluster: authority.cluster(), site: target.site.clone(), role: *role };
        let issued = authority.issue(&identity, Validity::lasting(SystemTime::now(), Validity::LEAF))?;
        ca::install(dir, *role, authorities, &issued)?;
        made.push((*role, issued.cert_pem));
    }
    serials(&made)
}

/// Waits until all of these are served; what is not is returned.
pub(super) async fn until_served(context: &Context, wanted: Vec<(SiteName, Role, String)>) -> Vec<(SiteName, Role)> {
    let began = Instant::now();
    loop {
        let seen = survey(context).await.map(|survey| survey.served).unwrap_or_default();
        let is_served = |(site, role, serial): &&(SiteName, Role, String)| {
            seen.iter().any(|s| s.site == site.as_str() && s.role == role.as_str() && s.serial == *serial)
        };
        let missing: Vec<_> =
            wanted.iter().filter(|one| !is_served(one)).map(|(site, role, _)| (site.clone(), *role)).collect();
        if missing.is_empty() || began.elapsed() > RELOADED {
            return missing;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
