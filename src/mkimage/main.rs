//! The host's image tool: builds a board's disk image, runs it in QEMU, tests it there.
//!
//! Everything a board is made of is read from `board-configs/` and `image/`; this tool drives Debian's tools and knows
//! the order of the steps. It never needs root, loop devices or mounts, and it changes nothing outside its directories.
//! Start with [`recipe`], then [`board`]; [`machine`] is QEMU, [`trial`] the board test, [`pair`] that of two boards.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use board::Board;
use clap::{Args, Parser, Subcommand};

mod archive;
mod board;
mod boot_files;
mod budget;
mod bundle;
mod card;
mod cpio;
mod crates;
mod cut_disk;
mod data_partition;
mod debug_trial;
mod disks;
mod first_boot;
mod flash;
mod hang;
mod host_port;
mod imager;
mod kernel_modules;
mod kubectl;
mod lock;
mod machine;
mod memory;
mod moved_uboot;
mod ota_board;
mod ota_trial;
mod owner;
mod packages;
mod packed;
mod pair;
mod parts;
mod progress;
mod random;
mod recipe;
mod release;
mod reproduce;
mod root_tree;
mod run;
mod sbom;
mod screen;
mod served;
mod show;
mod slot_files;
mod soak;
mod sources;
mod switch;
mod time_server;
mod tools;
mod trial;
mod variants;
mod wifi_trial;
mod writer;

#[derive(Parser)]
#[command(about = "Builds, runs and tests board images")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the boards.
    Boards(board::ListArgs),
    /// Build a disk image.
    Image(ImageArgs),
    /// Run an image in QEMU, wait until its node is Ready, run a pod and stay until interrupted.
    Run(RunArgs),
    /// Run the board test on an image.
    Test(TestArgs),
    /// Test a board from its first start on a larger card: settings, growth, manifests, clock, plugged devices, two networks, damage, a hang, factory reset.
    TestFirstBoot(TestArgs),
    /// Test what the debug variant of an emulated board adds: a shell on the console, and SSH.
    TestDebug(TestArgs),
    /// Test Wi-Fi with the wifi-test variant of an emulated board, whose radios are the kernel's.
    TestWifi(TestArgs),
    /// Test two boards on one network: a server and an agent that joins it.
    TestPair(PairArgs),
    /// Make the signed bundle of the image built last, for updates.
    Bundle(bundle::BundleArgs),
    /// Test updates on an emulated board: good, refused, broken and interrupted ones.
    TestOta(ota_trial::OtaArgs),
    /// Cut the power at random points of first starts and of updates.
    SoakBoard(soak::SoakArgs),
    /// Show an update that is committed and one that falls back.
    DemoOta(ota_trial::OtaArgs),
    /// Write an image to a card and read it back; without --dev, list the cards.
    Flash(flash::FlashArgs),
    /// Compare what was measured of boards with their limits.
    Budget(budget::BudgetArgs),
    /// Build an image twice and compare: the same commit has to give the same bytes.
    Reproduce(ReproduceArgs),
    /// Build the images of all boards and pack them for download.
    Images(imager::ImagesArgs),
    /// Write the list of packed images that Raspberry Pi Imager reads.
    ImagerJson(imager::ListArgs),
}

#[derive(Args, Clone)]
struct ImageArgs {
    #[command(flatten)]
    place: Place,
    /// The copepod binary for the board; built with cross/build.sh when not given.
    #[arg(long, requires = "stage1")]
    binary: Option<PathBuf>,
    /// The initramfs' init for the board.
    #[arg(long, requires = "binary")]
    stage1: Option<PathBuf>,
    /// A copepod.yaml to put on the image's boot partition.
    #[arg(long)]
    settings: Option<PathBuf>,
    /// Take the newest packages and write them into the lock file.
    #[arg(long)]
    update_lock: bool,
    #[command(flatten)]
    release: release::ReleaseArgs,
}

#[derive(Args)]
struct ReproduceArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// Also build the programs a second time, from a fresh clone of the last commit.
    #[arg(long)]
    programs: bool,
}

#[derive(Args, Clone)]
struct Place {
    #[arg(long)]
    board: String,
    /// What is added to the board: a file of image/variants, such as `debug`.
    #[arg(long, default_value = board::RELEASE)]
    variant: String,
    /// Where the image and all intermediate files go; `boards/<board>` or `boards/<board>-<variant>` below it.
    #[arg(long, default_value = "build")]
    out: PathBuf,
    /// The project's root.
    #[arg(long, default_value = ".")]
    root: PathBuf,
}

#[derive(Args)]
struct KubectlArgs {
    /// The kubectl to use; else that of the environment's KUBECTL, else the one in PATH.
    #[arg(long)]
    kubectl: Option<PathBuf>,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    place: Place,
    /// The host's port that reaches the board's API server.
    #[arg(long, default_value_t = 6443)]
    forward: u16,
    /// Start from the image as built instead of the disk of the last run.
    #[arg(long)]
    fresh: bool,
    /// End when the pod runs.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    kubectl: KubectlArgs,
}

#[derive(Args)]
struct TestArgs {
    #[command(flatten)]
    place: Place,
    #[arg(long, default_value_t = 16443)]
    forward: u16,
    #[command(flatten)]
    kubectl: KubectlArgs,
    /// Test PID 1 alone: the image holds the stand-in instead of the node.
    #[arg(long)]
    init_only: bool,
}

#[derive(Args)]
struct PairArgs {
    /// The server's board.
    #[command(flatten)]
    place: Place,
    /// The board of an agent, once for each; one of the server's kind when there is none.
    #[arg(long)]
    agent_board: Vec<String>,
    /// How long the boards idle while their writes are counted.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    idle_seconds: u64,
    #[arg(long, default_value_t = 16446)]
    forward: u16,
    #[command(flatten)]
    kubectl: KubectlArgs,
}

impl KubectlArgs {
    fn program(&self) -> PathBuf {
        let given = self.kubectl.clone().or_else(|| std::env::var_os("KUBECTL").map(PathBuf::from));
        given.unwrap_or_else(|| PathBuf::from("kubectl"))
    }
}

impl Place {
    fn dir(&self) -> PathBuf {
        self.dir_of(&self.board)
    }

    fn dir_of(&self, board: &str) -> PathBuf {
        self.out.join("boards").join(self.name_of(board))
    }

    /// What the image calls its board: it takes updates of this name only.
    fn name(&self) -> String {
        self.name_of(&self.board)
    }

    fn name_of(&self, board: &str) -> String {
        match self.variant.as_str() {
            board::RELEASE => board.to_owned(),
            variant => format!("{board}-{variant}"),
        }
    }

    fn read_board(&self) -> Result<Board> {
        Board::variant(&self.root, &self.board, &self.variant)
    }
}

fn main() -> ExitCode {
    match work(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mkimage: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn work(command: Command) -> Result<()> {
    match command {
        Command::Boards(args) => board::list(&PathBuf::from("."), &args),
        Command::Image(args) => recipe::build(&args),
        Command::Run(args) => run::run(&args),
        Command::Test(args) => trial::run(&args),
        Command::TestFirstBoot(args) => first_boot::run(&args),
        Command::TestDebug(args) => debug_trial::run(&args),
        Command::TestWifi(args) => wifi_trial::run(&args),
        Command::TestPair(args) => pair::run(&args),
        Command::Bundle(args) => bundle::build(&args),
        Command::TestOta(args) => ota_trial::test(&args),
        Command::SoakBoard(args) => soak::run(&args),
        Command::DemoOta(args) => ota_trial::demo(&args),
        Command::Flash(args) => flash::run(&args),
        Command::Budget(args) => budget::check(&args),
        Command::Reproduce(args) => reproduce::check(&args),
        Command::Images(args) => imager::images(&args),
        Command::ImagerJson(args) => imager::list(&args),
    }
}
