use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::http::Server;
use tests::machine::Machine;
use tests::process::Program;

use crate::table::{Figure, Limit, Value, median};

/// Starts, and bare boots, that are counted.
const STARTS: usize = 5;

pub(crate) fn run() -> Result<Vec<Figure>> {
    let machine = Machine::new()?;
    let first = start(&machine)?;
    let emulator = Emulator::of(&machine)?;
    machine.ok(["stop"])?;
    let (mut starts, mut boots) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        boots.push(emulator.boot()?);
        starts.push(start(&machine)?);
        machine.ok(["stop"])?;
    }
    let bare = Value::time(median(boots));
    let figure = |name: &str, time: Duration, limit: Option<Limit>, samples: usize| Figure {
        name: name.to_owned(),
        ours: Value::time(time),
        peer: Some(("bare boot", bare)),
        limit,
        samples,
    };
    Ok(vec![
        figure("coracle start until docker version", median(starts), Some(Limit::Ratio(2.5)), STARTS),
        figure("the first start, which formats the disk", first, None, 1),
    ])
}

/// Starts the machine; the time until a request for the version is answered.
fn start(machine: &Machine) -> Result<Duration> {
    let begun = Instant::now();
    machine.start()?;
    Server::Unix(machine.socket()).get("/version").send()?.expect(200)?;
    Ok(begun.elapsed())
}

/// How a machine runs its emulator, without the machine's devices.
struct Emulator {
    program: PathBuf,
    arguments: Vec<String>,
    root: PathBuf,
}

impl Emulator {
    /// Takes the arguments from a machine that runs: CPU, memory, accelerator, kernel and clock are then the same.
    fn of(machine: &Machine) -> Result<Self> {
        let pid = machine.namespace().process(machine.pid("emulator_pid")?)?.pid.as_raw_nonzero();
        let line =
            std::fs::read(format!("/proc/{pid}/cmdline")).context("reading the emulator's arguments")?;
        let line = String::from_utf8(line)?;
        let mut words = line.split_terminator('\0');
        let program =
            std::fs::read_link(format!("/proc/{pid}/exe")).context("reading the emulator's path")?;
        words.next();
        let mut arguments = Vec::new();
        let mut root = None;
        while let Some(word) = words.next() {
            match word {
                // What leads to the machine process, and what only its devices need.
                "-chardev" | "-netdev" | "-device" | "-serial" | "-sandbox" | "-mon" => drop(words.next()),
                "-kernel" => {
                    let kernel = words.next().context("no kernel")?;
                    root = Some(PathBuf::from(kernel).with_file_name("rootfs.erofs"));
                    arguments.extend([word.to_owned(), kernel.to_owned()]);
                }
                "-append" => {
                    let append = words.next().context("no kernel command line")?;
                    let (kept, _) = append.split_once("console=").unwrap_or((append, ""));
                    // The first program ends at once; the kernel has no other and stops, which ends the emulator.
                    let bare = "root=/dev/vda ro rootfstype=erofs init=/bin/true panic=-1 reboot=t quiet";
                    arguments.extend([word.to_owned(), format!("{kept}{bare}")]);
                }
                other => arguments.push(other.to_owned()),
            }
        }
        Ok(Self { program, arguments, root: root.context("the emulator was given no kernel")? })
    }

    /// Boots the kernel to its first program; the time until the emulator has ended.
    fn boot(&self) -> Result<Duration> {
        let drive = format!("file={},format=raw,if=none,id=root,readonly=on", self.root.display());
        let program = Program::new(&self.program).args(&self.arguments).args([
            "-serial",
            "none",
            "-drive",
            &drive,
            "-device",
            "virtio-blk-device,drive=root",
        ]);
        let begun = Instant::now();
        let ended = program.output()?;
        let time = begun.elapsed();
        ensure!(ended.code() == 0, "the bare boot failed: {ended}");
        Ok(time)
    }
}
