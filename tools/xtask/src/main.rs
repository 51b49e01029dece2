//! Tasks of the workspace. `cargo xtask docs` rewrites what is generated; with `--check` it only says
//! what is stale.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use hearth::config::render;

#[derive(Parser)]
#[command(about = "Tasks of the workspace")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Write the generated pages of docs/.
    Docs {
        /// Change nothing; fail if a page is stale.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    let Task::Docs { check } = Cli::parse().task;
    match docs(check) {
        Ok(stale) if check && !stale.is_empty() => {
            for page in stale {
                eprintln!("stale: {} (run `cargo xtask docs`)", page.display());
            }
            ExitCode::FAILURE
        }
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Compares each generated page with its file and, unless only checking, writes those that differ.
/// Returns their paths.
fn docs(check: bool) -> io::Result<Vec<PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let pages = [("docs/reference/configuration.md", render::reference())];
    let mut stale = Vec::new();
    for (name, text) in pages {
        let path = root.join(name);
        if fs::read_to_string(&path).is_ok_and(|found| found == text) {
            continue;
        }
        if !check {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(&path, text)?;
        }
        stale.push(PathBuf::from(name));
    }
    Ok(stale)
}
