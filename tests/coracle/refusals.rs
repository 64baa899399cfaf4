//! What the `coracle` command says to input that it cannot use: one clear line, an exit code that is not zero, and
//! nothing lost.

use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, ensure};
use tests::case::Outcome;
use tests::machine::Machine;
use tests::process::Output;
use tests::product_cases;

product_cases! {
    unknown_key_in_the_configuration,
    configuration_that_is_no_toml,
    values_out_of_range,
    home_that_is_too_long,
    home_that_cannot_be_written,
    no_emulator,
    no_image,
    damaged_image,
    disk_that_cannot_be_read,
    disk_that_is_none,
    no_space_for_the_disk,
    names_that_are_none,
    machines_that_do_not_exist,
    options_that_do_not_exist,
    stale_lock,
}

/// Fails unless the command ended with an error that takes a line or two and contains each of `words`, and left no
/// process behind.
fn expect_refusal(machine: &Machine, output: Output, words: &[&str]) -> Outcome {
    ensure!(output.code() != 0, "accepted: {output}");
    let said = output.stderr();
    let lines = said.lines().filter(|line| !line.trim().is_empty()).count();
    ensure!((1..=2).contains(&lines), "{lines} lines: {output}");
    for word in words {
        ensure!(said.contains(word), "no {word:?} in: {output}");
    }
    ensure!(!said.contains("panicked") && !said.contains("os error 2)\n\n"), "{output}");
    machine.expect_no_process()
}

/// A home whose machine `default` has this configuration and a data disk that must survive.
fn with_config(text: &str) -> anyhow::Result<Machine> {
    let machine = Machine::new()?;
    std::fs::create_dir(machine.home().join("default")).context("making a machine's folder")?;
    std::fs::write(machine.file("config.toml"), text)?;
    Ok(machine)
}

fn unknown_key_in_the_configuration() -> Outcome {
    let machine = with_config("cpus = 2\ncolour = \"red\"\n")?;
    let file = machine.file("config.toml");
    expect_refusal(&machine, machine.coracle(["start"]).output()?, &["colour", &file.to_string_lossy()])?;
    ensure!(std::fs::read_to_string(file)?.contains("colour"), "the file was changed");
    Ok(())
}

fn configuration_that_is_no_toml() -> Outcome {
    for text in ["cpus = = 2", "\u{0}", "cpus = \"two\"", "[[["] {
        let machine = with_config(text)?;
        expect_refusal(&machine, machine.coracle(["start"]).output()?, &["config.toml"])
            .context(format!("{text:?}"))?;
    }
    Ok(())
}

fn values_out_of_range() -> Outcome {
    let machine = Machine::new()?;
    for (option, value) in [
        ("--cpus", "0"),
        ("--cpus", "many"),
        ("--memory", "1"),
        ("--memory", "900T"),
        ("--disk", "1K"),
        ("--disk", "lots"),
        ("--accel", "magic"),
    ] {
        let output = machine.coracle(["start", option, value]).output()?;
        ensure!(output.code() != 0, "{option} {value} was accepted: {output}");
        ensure!(
            output.stderr().contains(value) || output.stderr().contains(option.trim_start_matches('-')),
            "{output}"
        );
        machine.expect_no_process()?;
    }
    Ok(())
}

fn home_that_is_too_long() -> Outcome {
    let machine = Machine::new()?;
    let long = machine.home().join("long".repeat(30));
    let output = machine.coracle(["start"]).env("CORACLE_HOME", &long).output()?;
    expect_refusal(&machine, output, &["too long", "CORACLE_HOME"])?;
    ensure!(!long.join("default/disk.raw").exists(), "something was made all the same");
    Ok(())
}

fn home_that_cannot_be_written() -> Outcome {
    let machine = Machine::new()?;
    for home in ["/proc/nowhere", "/dev/null/home"] {
        let output = machine.coracle(["start"]).env("CORACLE_HOME", home).output()?;
        expect_refusal(&machine, output, &[home])?;
    }
    Ok(())
}

fn no_emulator() -> Outcome {
    let machine = Machine::new()?;
    // A PATH on which everything but the emulator can be found.
    let folder = machine.home().join("bin");
    std::fs::create_dir(&folder)?;
    for program in ["sh", "mkfs.ext4", "e2fsck", "ip"] {
        for place in ["/bin", "/sbin", "/usr/bin", "/usr/sbin"] {
            let found = Path::new(place).join(program);
            if found.exists() {
                let _ = symlink(found, folder.join(program));
            }
        }
    }
    let output = machine.coracle(["start", "--accel", "qemu"]).env("PATH", &folder).output()?;
    expect_refusal(&machine, output, &["qemu"])
}

fn no_image() -> Outcome {
    let machine = Machine::new()?;
    let output = machine.coracle(["start"]).env("CORACLE_IMAGE", "/nowhere/at/all").output()?;
    expect_refusal(&machine, output, &["image", "/nowhere/at/all"])
}

fn damaged_image() -> Outcome {
    let machine = Machine::new()?;
    let folder = machine.home().join("image");
    std::fs::create_dir(&folder)?;
    for file in ["vmlinux", "rootfs.erofs"] {
        std::fs::write(folder.join(file), "")?;
    }
    let output = machine.coracle(["start"]).env("CORACLE_IMAGE", &folder).output()?;
    expect_refusal(&machine, output, &["image", "damaged"])
}

fn disk_that_cannot_be_read() -> Outcome {
    let machine = with_config("")?;
    // A folder where the disk should be: root reads what has no permission for others.
    std::fs::create_dir(machine.file("disk.raw"))?;
    expect_refusal(&machine, machine.coracle(["start"]).output()?, &["disk.raw"])
}

fn disk_that_is_none() -> Outcome {
    let machine = with_config("")?;
    let precious = b"not a file system, and still somebody's data\n".repeat(1000);
    std::fs::write(machine.file("disk.raw"), &precious)?;
    let output = machine.coracle(["start"]).output()?;
    ensure!(output.code() != 0, "{output}");
    let kept = std::fs::read(machine.file("disk.raw"))?;
    ensure!(kept.starts_with(&precious), "the file was overwritten");
    machine.expect_no_process()
}

fn no_space_for_the_disk() -> Outcome {
    let machine = Machine::new()?;
    // A file system of 4 MB on which the home lies, seen by this command alone.
    let script = format!(
        "mount -t tmpfs -o size=4m tmpfs {home} && exec {coracle} start",
        home = machine.home().display(),
        coracle = tests::places::coracle()?.display()
    );
    let home = machine.home().to_string_lossy().into_owned();
    let run = machine.namespace().program("unshare").args(["-m", "sh", "-c", &script]);
    let output = run.env("CORACLE_HOME", &home).env("HOME", &home).output()?;
    expect_refusal(&machine, output, &["space"])
}

fn names_that_are_none() -> Outcome {
    let machine = Machine::new()?;
    for name in ["", "../up", "a/b", ".", "with blank", &"n".repeat(200)] {
        let output = machine.coracle(["start", "--name", name]).output()?;
        ensure!(output.code() != 0 && !output.stderr().trim().is_empty(), "{name:?} was accepted: {output}");
    }
    ensure!(std::fs::read_dir(machine.home())?.next().is_none(), "something was made all the same");
    machine.expect_no_process()
}

fn machines_that_do_not_exist() -> Outcome {
    let machine = Machine::new()?;
    for verb in ["delete", "shell", "logs", "status"] {
        let output = machine.coracle([verb, "--name", "nobody"]).output()?;
        expect_refusal(&machine, output, &["nobody"]).context(verb)?;
    }
    Ok(())
}

fn options_that_do_not_exist() -> Outcome {
    let machine = Machine::new()?;
    let output = machine.coracle(["start", "--turbo"]).output()?;
    ensure!(output.code() == 2 && output.stderr().contains("--turbo"), "{output}");
    let output = machine.coracle(["sail"]).output()?;
    ensure!(output.code() == 2 && output.stderr().contains("sail"), "{output}");
    Ok(())
}

/// A lock file and sockets without a process, as a killed one leaves them.
fn stale_lock() -> Outcome {
    let machine = with_config("")?;
    std::fs::write(machine.file("lock"), "4194303\n")?;
    let socket = std::os::unix::net::UnixListener::bind(machine.file("control.sock"))?;
    drop(socket);
    drop(std::os::unix::net::UnixListener::bind(machine.socket())?);
    machine.start()?;
    machine.ok(["stop"])?;
    machine.expect_no_process()
}
