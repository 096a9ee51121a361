//! The `cfs` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    cfs::main()
}
