//! Compiles `op.proto` in pure Rust.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../cfs/v1/op.proto");
    let files = protox::compile(["cfs/v1/op.proto"], [".."])?;
    prost_build::Config::new().bytes(["."]).compile_fds(files)?;
    Ok(())
}
