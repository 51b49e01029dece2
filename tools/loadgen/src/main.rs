//! `hearth-loadgen`: measures a Matrix homeserver through the client-server API alone, so that different servers compare.
//!
//! It shares a machine with the server that it measures, so it runs on one thread, keeps one connection per virtual client and
//! reads of a response only the fields that it needs. Every loop ends by itself, by time or by count.

mod client;
mod connection;
mod histogram;
mod options;
mod paths;
mod process;
mod register;
mod report;
mod scan;
mod scenarios;
mod schedule;
mod serve;
mod socket;
mod world;

use std::process::ExitCode;

use clap::Parser as _;

use crate::connection::Target;
use crate::options::Options;
use crate::report::Report;
use crate::serve::Served;
use crate::world::{Failure, World};

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), Failure> {
    let served = match &options.serve {
        Some(binary) => Some(Served::start(binary, options.serve_in.as_deref()).await?),
        None => None,
    };
    let url = served.as_ref().map_or(options.url.as_str(), Served::url);
    let target = Target::parse(url).map_err(Failure::Server)?;
    let report = Report {
        machine: process::machine(),
        target: target.authority().to_owned(),
        seed: options.seed,
        command: std::env::args().skip(1).collect(),
        rows: Vec::new(),
    };
    println!("{}; seed {}", report.machine, report.seed);
    let server_pid = options.server_pid.or_else(|| served.as_ref().and_then(Served::pid));
    let mut world = World::new(target, options, report, server_pid);
    let result = tokio::select! {
        result = run_plan(&mut world) => result,
        interrupted = tokio::signal::ctrl_c() => match interrupted {
            Ok(()) => Err(Failure::Server("interrupted".to_owned())),
            Err(error) => Err(Failure::Server(format!("cannot wait for Ctrl-C: {error}"))),
        },
    };
    println!("\n{}", world.report.table());
    if let Some(path) = &world.options.json {
        let written = world.report.write_json(path);
        written.map_err(|error| {
            Failure::Server(format!("cannot write {}: {error}", path.display()))
        })?;
    }
    result
}

async fn run_plan(world: &mut World) -> Result<(), Failure> {
    if let Some(usage) = world.usage().server {
        let row = report::Row::new("start", "server at start");
        world.report.add(row.metric(
            "server memory",
            "MiB",
            report::as_f64(usage.resident_bytes) / 1024.0 / 1024.0,
        ));
    }
    for scenario in world.options.plan() {
        scenarios::run(world, scenario).await?;
    }
    Ok(())
}
