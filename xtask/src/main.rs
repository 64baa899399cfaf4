//! Builds, tests and measures Coracle: every command a developer or a build server needs, as `cargo xtask <command>`.
//!
//! Each command starts with what it depends on, so any of them works on a fresh clone: `demo` and `test` call
//! [`setup`], the product comes from [`build`], the guest's kernel and root file system from [`image`].

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod app;
mod bench;
mod build;
mod check;
mod command;
mod debian;
mod demo;
mod digest;
mod dist;
mod docker_py;
mod file_servers;
mod fuzz;
mod image;
mod networks;
mod npm_project;
mod paths;
mod peer;
mod setup;
mod terminal;
mod test;

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Builds, tests and measures Coracle",
    version
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install the Debian packages and the docker client that the other commands need
    Setup(setup::Args),
    /// Build the guest's kernel and root file system
    Image,
    /// Build the product, release mode, into target/coracle
    Build(build::Args),
    /// Make a Debian package of the product with the desktop app
    Dist(dist::Args),
    /// Check formatting, lints, style rules and documentation
    Check,
    /// Run every test
    Test(test::Args),
    /// Give parsers of a guest's bytes inputs that nobody has thought of
    Fuzz(fuzz::Args),
    /// Measure the product
    Bench(bench::Args),
    /// Build everything, start a machine and run a container in it
    Demo(demo::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Setup(args) => setup::run(&args),
        Task::Image => image::run(),
        Task::Build(args) => build::run(&args),
        Task::Dist(args) => dist::run(&args),
        Task::Check => check::run(),
        Task::Test(args) => test::run(args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Bench(args) => bench::run(args),
        Task::Demo(args) => demo::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
