//! `--watch`: the same output again and again.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use cfs_rpc::v1::{StatusReply, StatusRequest};

use crate::output::{self, Document, Format};
use crate::{Context, client};

/// The flag.
#[derive(Debug, Clone, clap::Args)]
pub struct Watch {
    /// Print again every SECONDS until interrupted
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
        value_parser = clap::value_parser!(u32).range(1..=86_400))]
    watch: Option<u32>,
}

impl Watch {
    /// Whether it was given.
    pub(super) const fn is_on(&self) -> bool {
        self.watch.is_some()
    }
}

/// Prints what `look` finds: once, or as often as the flag says.
///
/// # Errors
/// Those of `look`; while watching, they are reported and it is tried again.
pub(super) async fn show<D: Document>(
    context: &Context,
    watch: &Watch,
    look: impl AsyncFn() -> anyhow::Result<D>,
) -> anyhow::Result<ExitCode> {
    let Some(seconds) = watch.watch else {
        output::print(context.format(), &look().await?)?;
        return Ok(ExitCode::SUCCESS);
    };
    let clear = context.format() == Format::Table && std::io::stdout().is_terminal();
    let mut ticks = tokio::time::interval(Duration::from_secs(u64::from(seconds)));
    loop {
        ticks.tick().await;
        let found = look().await;
        if clear {
            anstream::print!("\x1b[H\x1b[2J");
        }
        match found {
            Ok(document) => output::print(context.format(), &document)?,
            Err(error) => anstream::eprintln!("error: {error:#}"),
        }
        if context.format() == Format::Table && !clear {
            anstream::println!();
        }
    }
}

/// What the shipper of the site of `context` says.
pub(super) async fn shipper_status(context: &Context) -> anyhow::Result<StatusReply> {
    let mut inspect = client::inspect(context).await?;
    let reply = inspect.status(StatusRequest::default()).await;
    Ok(reply.map_err(client::failed("report its status"))?.into_inner())
}
