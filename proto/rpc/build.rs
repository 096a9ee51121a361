//! Compiles the services in pure Rust. The messages of `op.proto` are those of `cfs-model`.

const OPERATIONS: [&str; 18] = [
    "InodeKind",
    "Time",
    "Attributes",
    "Create",
    "Mkdir",
    "Symlink",
    "Link",
    "Unlink",
    "Rmdir",
    "Rename",
    "Write",
    "Truncate",
    "SetAttr",
    "SetXattr",
    "RemoveXattr",
    "StreamPosition",
    "Forget",
    "Op",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../cfs/v1");
    let services = ["producer", "peer", "governor", "inspect", "admin", "control", "enrollment", "debug"]
        .map(|name| format!("cfs/v1/{name}.proto"));
    let files = protox::compile(services, [".."])?;
    let mut builder = tonic_prost_build::configure().bytes(".");
    for name in OPERATIONS {
        builder = builder.extern_path(format!(".cfs.v1.{name}"), format!("::cfs_model::op::{name}"));
    }
    builder.compile_fds(files)?;
    Ok(())
}
