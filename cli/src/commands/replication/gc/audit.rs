//! What becomes of audit records beyond their retention.

use std::io::{self, Write};

use cfs_config::ByteSize;
use cfs_rpc::v1::PruneAuditRequest;
use serde::Serialize;

use crate::output::Document;
use crate::{Context, client};

/// What was removed of the audit trail.
#[derive(Debug, Serialize)]
pub(super) struct Collected {
    audit_segments: u64,
    audit_records: u64,
    audit_bytes_freed: u64,
    audit_bytes_left: u64,
    audit_retention_s: u64,
    audit_retention_bytes: u64,
}

impl Document for Collected {
    const SCHEMA: &'static str = "cfs.gc/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "Audit trail: {} records in {} segments removed, {} bytes freed, {} bytes left",
            self.audit_records, self.audit_segments, self.audit_bytes_freed, self.audit_bytes_left
        )?;
        writeln!(
            out,
            "Retention: {}, {}; change it with cfs admin replication config --audit-retention",
            cfs_config::Period(self.audit_retention_s),
            ByteSize(self.audit_retention_bytes)
        )
    }
}

/// Removes what is beyond the retention now.
///
/// # Errors
/// When the shipper cannot be reached or cannot remove anything.
pub(super) async fn collect(context: &Context) -> anyhow::Result<Collected> {
    let mut inspect = client::inspect(context).await?;
    let reply = inspect.prune_audit(PruneAuditRequest {}).await.map_err(client::failed("prune the audit trail"))?;
    let reply = reply.into_inner();
    Ok(Collected {
        audit_segments: reply.segments,
        audit_records: reply.records,
        audit_bytes_freed: reply.bytes,
        audit_bytes_left: reply.bytes_left,
        audit_retention_s: reply.retention_s,
        audit_retention_bytes: reply.retention_bytes,
    })
}
