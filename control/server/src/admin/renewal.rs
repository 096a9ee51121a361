//! `cfs admin tls renew-certificates` and `rotate-ca`, at the site whose certificates are replaced.

use std::sync::Arc;

use cfs_model::SiteName;
use cfs_rpc::ca::CA_CERTIFICATE;
use cfs_rpc::identity::Role;
use cfs_rpc::private_file;
use cfs_rpc::renewal::{self, Delivery};
use cfs_rpc::v1;
use cfs_rpc::v1::admin_reply::Kind as Reply;

use super::{Out, failure, forward};
use crate::control::{Control, blocking};

/// Makes a key for each role that this site has, and answers with requests for signatures.
pub(super) async fn prepare(control: &Arc<Control>, request: &v1::AdminRequest, asked: &v1::RenewalRequest, out: &Out) {
    let what = format!("renew the certificates of {}", asked.site);
    if elsewhere(control, request, &asked.site, &what, out).await {
        return;
    }
    let (dir, own) = (control.config.tls_dir().to_owned(), control.tls.identity());
    let made = blocking(move || {
        let ca = dir.join(CA_CERTIFICATE);
        let authorities =
            private_file::read(&ca).map_err(|source| renewal::Error::File { action: "read", path: ca, source })?;
        let authorities = String::from_utf8_lossy(&authorities).into_owned();
        Ok::<_, renewal::Error>((renewal::prepare(&dir, &own, &renewal::roles(&dir))?, authorities))
    });
    match made.await {
        Ok(Ok((requests, authorities))) => {
            let requests = requests.into_iter().map(Into::into).collect();
            let answer = v1::SigningRequests { site: control.site().to_string(), requests, authorities };
            out.send(Reply::SigningRequests(answer)).await;
            out.done(v1::Done::default()).await;
        }
        Ok(Err(error)) => out.failed(failure("TLS", &what, error.to_string(), next(control))).await,
        Err(error) => out.failed(failure("TLS", &what, error.to_string(), next(control))).await,
    }
}

/// Installs what came, and takes it over at once; the shipper does within seconds.
pub(super) async fn install(control: &Arc<Control>, request: &v1::AdminRequest, asked: &v1::InstallRequest, out: &Out) {
    let what = format!("install certificates at {}", asked.site);
    if elsewhere(control, request, &asked.site, &what, out).await {
        return;
    }
    let delivery = match delivery(asked) {
        Ok(delivery) => delivery,
        Err(why) => return out.failed(failure("TLS", &what, why, next(control))).await,
    };
    let (dir, own) = (control.config.tls_dir().to_owned(), control.tls.identity());
    let (tls, now) = (control.tls.clone(), control.clock.wall());
    let installed = blocking(move || {
        renewal::install(&dir, &own, &delivery, now).map_err(|error| error.to_string())?;
        tls.reload().map_err(|error| error.to_string())
    });
    let installed = installed.await.unwrap_or_else(|error| Err(error.to_string()));
    match installed {
        Ok(_) => {
            let roles: Vec<&str> = asked.certificates.iter().map(|certificate| certificate.role.as_str()).collect();
            tracing::info!(by = request.operator, roles = roles.join(", "), "certificates were installed");
            let text = format!("installed at {}", control.site());
            out.done(v1::Done { text, ..v1::Done::default() }).await;
        }
        Err(why) => out.failed(failure("TLS", &what, why, next(control))).await,
    }
}

fn delivery(asked: &v1::InstallRequest) -> Result<Delivery, String> {
    let most = usize::try_from(private_file::MAX_BYTES).unwrap_or(usize::MAX);
    let bytes = asked.authorities.len() + asked.certificates.iter().map(|one| one.pem.len()).sum::<usize>();
    if bytes > most || asked.certificates.len() > Role::ALL.len() {
        return Err(format!("what came is larger than {most} bytes"));
    }
    Ok(Delivery {
        certificates: renewal::issued(&asked.certificates).map_err(|error| error.to_string())?,
        authorities: asked.authorities.clone(),
        endorsement: asked.endorsement.to_vec(),
    })
}

/// Hands on what is for another site; returns whether it did.
async fn elsewhere(control: &Arc<Control>, request: &v1::AdminRequest, site: &str, what: &str, out: &Out) -> bool {
    if site == control.site().as_str() {
        return false;
    }
    let handed = match SiteName::new(site) {
        Ok(site) if control.others().contains_key(&site) => forward(control, &site, request, out).await,
        Ok(site) => Err(format!("{site} is neither enrolled nor in the configuration of {}", control.site())),
        Err(error) => Err(error.to_string()),
    };
    if let Err(why) = handed {
        let next = format!("on {site}: systemctl status claudefs-control");
        out.failed(failure("UNREACHABLE", what, why, next)).await;
    }
    true
}

fn next(control: &Control) -> String {
    format!("on {}: cfs admin tls status", control.site())
}
