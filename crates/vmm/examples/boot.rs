//! Boots a kernel with a root disk, and connects standard input and output to a socket port of the guest.
//!
//! ```text
//! cargo run -p vmm --example boot -- VMLINUX ROOT.IMG PORT [MORE KERNEL PARAMETERS]
//! ```
//!
//! For work on this crate without the rest: any init that listens on the port will do. The guest's console is in
//! `./console.log`.

use std::error::Error;
use std::io::{self, Write as _};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use vmm::{Accel, Disk, Vm, VmConfig, VsockConfig};

/// How long the guest may take until it listens.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(kernel), Some(root), Some(port)) = (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err("usage: boot VMLINUX ROOT.IMG PORT [KERNEL PARAMETERS]".into());
    };
    let port = port.parse()?;
    let parameters: Vec<String> = arguments.collect();
    let runtime_dir = std::env::temp_dir().join(format!("vmm-boot-{}", std::process::id()));
    let vm = Vm::start(VmConfig {
        cpus: 2,
        memory_mib: 512,
        kernel: kernel.into(),
        cmdline: format!("console=ttyS0 root=/dev/vda ro {}", parameters.join(" ")),
        disks: vec![Disk { path: root.into(), read_only: true, id: "root".into() }],
        vsock: Some(VsockConfig { guest_cid: 3 }),
        net: None,
        files: None,
        console_log: "console.log".into(),
        runtime_dir: runtime_dir.clone(),
        accel: Accel::Auto,
    })?;
    let info = vm.info();
    writeln!(io::stderr(), "{}, process {}", info.accelerator, info.pid)?;

    let start = Instant::now();
    let mut stream = loop {
        match vm.vsock().connect(port, BOOT_TIMEOUT) {
            Ok(stream) => break stream,
            // Its kernel is up, its init is not.
            Err(error)
                if error.kind() == io::ErrorKind::ConnectionRefused && start.elapsed() < BOOT_TIMEOUT =>
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => {
                let end = vm.try_wait().map(|reason| format!(": {reason}")).unwrap_or_default();
                return Err(format!("no connection to port {port}: {error}{end}").into());
            }
        }
    };
    writeln!(io::stderr(), "connected after {:?}", start.elapsed())?;

    let mut input = stream.try_clone()?;
    std::thread::spawn(move || {
        // Either end may go first; the other direction tells.
        let _ = io::copy(&mut io::stdin(), &mut input);
        let _ = input.shutdown(Shutdown::Write);
    });
    io::copy(&mut stream, &mut io::stdout())?;
    vm.kill();
    writeln!(io::stderr(), "{}", vm.wait())?;
    std::fs::remove_dir_all(runtime_dir)?;
    Ok(())
}
