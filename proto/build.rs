//! Compiles the .proto files with protox, so that no protoc is needed on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILES: &[&str] = &[
        "metapb.proto",
        "flotilla.proto",
        "errorpb.proto",
        "pdpb.proto",
        "keyspacepb.proto",
        "kvrpcpb.proto",
        "tikvpb.proto",
    ];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let services = std::env::var_os("CARGO_FEATURE_SERVICES").is_some();
    tonic_prost_build::configure()
        .build_client(services)
        .build_server(services)
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
