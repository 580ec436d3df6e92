//! Generates the gRPC code without a system `protoc`: protox is a compiler in Rust.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "pgaa/v1/pairing.proto",
        "pgaa/v1/mesh.proto",
        "pgaa/v1/control.proto",
    ];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
