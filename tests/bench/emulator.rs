use std::path::PathBuf;

use anyhow::{Context, Result};
use tests::machine::Machine;
use tests::process::Program;

/// How a machine runs its emulator, without the machine's devices.
pub(crate) struct Emulator {
    program: PathBuf,
    arguments: Vec<String>,
    /// The kernel's command line, as far as it is about the emulator.
    kernel_line: String,
    root: PathBuf,
}

impl Emulator {
    /// Takes the arguments from a machine that runs: CPU, memory, accelerator, kernel and clock are then the same.
    pub(crate) fn of(machine: &Machine) -> Result<Self> {
        let pid = machine.namespace().process(machine.pid("emulator_pid")?)?.pid.as_raw_nonzero();
        let line =
            std::fs::read(format!("/proc/{pid}/cmdline")).context("reading the emulator's arguments")?;
        let line = String::from_utf8(line)?;
        let mut words = line.split_terminator('\0');
        let program =
            std::fs::read_link(format!("/proc/{pid}/exe")).context("reading the emulator's path")?;
        words.next();
        let (mut arguments, mut kernel_line, mut root) = (Vec::new(), String::new(), None);
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
                    append.split_once("console=").unwrap_or((append, "")).0.clone_into(&mut kernel_line);
                }
                other => arguments.push(other.to_owned()),
            }
        }
        Ok(Self { program, arguments, kernel_line, root: root.context("the emulator was given no kernel")? })
    }

    /// The emulator with the machine's root, on a device of its own in the last slot, and `init` as the first program.
    /// When that ends, so does the emulator. `serial` is where its console is.
    pub(crate) fn program(&self, init: &str, serial: &str) -> Program {
        let console = if serial == "none" { "" } else { "console=ttyS0 " };
        let line = format!(
            "{}{console}root=/dev/vda ro rootfstype=erofs panic=-1 reboot=t quiet init={init}",
            self.kernel_line
        );
        let drive = format!("file={},format=raw,if=none,id=root,readonly=on", self.root.display());
        let device = format!("virtio-blk-device,drive=root,bus=virtio-mmio-bus.{LAST_SLOT}");
        let own = ["-append", &line, "-serial", serial, "-drive", &drive, "-device", &device];
        Program::new(&self.program).args(&self.arguments).args(own)
    }
}

/// Where the emulator has the guest's first device; the next ones come below it.
pub(crate) const LAST_SLOT: u8 = 7;
