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

/// Prints what `view` makes of the site's status: once, or as often as the flag says.
///
/// # Errors
/// When the shipper cannot be reached; while watching, that is reported and tried again.
pub(super) async fn show_status<D: Document>(
    context: &Context,
    watch: &Watch,
    view: impl Fn(&StatusReply) -> D,
) -> anyhow::Result<ExitCode> {
    let Some(seconds) = watch.watch else {
        output::print(context.format(), &view(&status(context).await?))?;
        return Ok(ExitCode::SUCCESS);
    };
    let clear = context.format() == Format::Table && std::io::stdout().is_terminal();
    let mut ticks = tokio::time::interval(Duration::from_secs(u64::from(seconds)));
    loop {
        ticks.tick().await;
        if clear {
            anstream::print!("\x1b[H\x1b[2J");
        }
        match status(context).await {
            Ok(reply) => output::print(context.format(), &view(&reply))?,
            Err(error) => anstream::eprintln!("error: {error:#}"),
        }
        if context.format() == Format::Table && !clear {
            anstream::println!();
        }
    }
}

/// What the site of `context` says of itself.
async fn status(context: &Context) -> anyhow::Result<StatusReply> {
    let mut inspect = client::inspect(context).await?;
    let reply = inspect.status(StatusRequest::default()).await;
    Ok(reply.map_err(client::failed("report its status"))?.into_inner())
}
