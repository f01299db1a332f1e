//! The command behind `cargo bench --package benches`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use benches::Args;
use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    if !args.by_cargo_bench() {
        // `cargo test --all-targets` runs the program too.
        println!("no benchmark is run: that is for `cargo bench --package benches`");
        return ExitCode::SUCCESS;
    }
    match benches::run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
