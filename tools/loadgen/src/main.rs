//! `hearth-loadgen`: measures a Matrix homeserver through the client-server API alone, so that different servers compare.
//!
//! It shares a machine with the server that it measures, so it runs on one thread, keeps one connection per virtual client and
//! reads of a response only the fields that it needs. Every loop ends by itself, by time or by count.

mod client;
mod connection;
mod gateway;
mod histogram;
mod nginx;
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
    let mut served = serve(&options).await?;
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
        result = run_plan(&mut world, &mut served) => result,
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

/// Starts the server that is measured, if the generator is to do that.
async fn serve(options: &Options) -> Result<Option<Served>, Failure> {
    match &options.serve {
        Some(binary) => Served::start(binary, options.serve_in.as_deref()).await.map(Some),
        None => Ok(None),
    }
}

async fn run_plan(world: &mut World, served: &mut Option<Served>) -> Result<(), Failure> {
    if let Some(usage) = world.usage().server {
        let row = report::Row::new("start", "server at start");
        let memory = report::as_f64(usage.resident_bytes) / 1024.0 / 1024.0;
        world.report.add(row.metric("server memory", "MiB", memory));
    }
    for scenario in world.options.plan() {
        if scenario.starts_servers() {
            // It would share the processors.
            drop(served.take());
        } else if served.is_none() || scenario.wants_fresh_server() {
            // The old one ends first: both together would share the processors.
            drop(served.take());
            *served = serve(&world.options).await?;
            if let Some(served) = served {
                world.move_to(Target::parse(served.url()).map_err(Failure::Server)?, served.pid());
            }
        }
        scenarios::run(world, scenario).await?;
    }
    Ok(())
}
