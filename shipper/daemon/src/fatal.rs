//! The end of the process.

/// Says why, and ends the process at once, without unwinding and without any further write.
///
/// A write or fsync of the journal that failed is never retried: the kernel may have dropped the pages, so a second
/// fsync could succeed without them. The next start recovers what is really on disk.
pub(crate) fn fatal(what: &str, error: &dyn std::fmt::Display) -> ! {
    tracing::error!(error = %error, "{what}; the shipper ends now and recovers at its next start");
    eprintln!("cfs-shipper: FATAL: {what}: {error}");
    std::process::abort()
}
