//! The binary: the only place that exits.

fn main() -> std::process::ExitCode {
    pgaa_agent::cli::main()
}
