//! `cargo xtask demo`: from a fresh machine to a container's output, with the real `docker` client.
//!
//! The machine is called `demo` and lives in a `CORACLE_HOME` of its own under `target/`, so that nothing of the
//! user's is touched; the docker client gets a configuration folder of its own for the same reason.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::build::{self, Product};
use crate::terminal::{say, say_command};
use crate::{command, paths, setup};

/// What may be said after `cargo xtask demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave the machine running at the end
    #[arg(long)]
    keep: bool,
}

const MACHINE: &str = "demo";

/// How long a web server in a container may take until it serves.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `cargo xtask demo`.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure()?;
    let docker = setup::docker_client()?;
    let product = build::product()?;
    let demo = Demo::prepare(product, docker)?;

    say("");
    demo.coracle(&["start", "--name", MACHINE, "--share", &demo.site.display().to_string()])?;
    let shown = demo.show_containers();
    if args.keep && shown.is_ok() {
        demo.explain();
        return Ok(());
    }
    // Also after a failure: no machine is left behind.
    let stopped = demo.coracle(&["stop", "--name", MACHINE]);
    shown?;
    stopped?;
    say(
        "\nThat was a container in a machine of its own. `cargo xtask demo --keep` leaves the machine running.",
    );
    Ok(())
}

struct Demo {
    product: Product,
    docker: PathBuf,
    home: PathBuf,
    docker_config: PathBuf,
    /// A folder of this computer that the machine has, too.
    site: PathBuf,
}

impl Demo {
    fn prepare(product: Product, docker: PathBuf) -> Result<Self> {
        let folder = paths::target().join("demo");
        let (docker_config, site) = (folder.join("docker"), folder.join("site"));
        let demo = Self { product, docker, docker_config, site, home: folder };
        for folder in [&demo.docker_config, &demo.site] {
            fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        }
        Ok(demo)
    }

    fn show_containers(&self) -> Result<()> {
        self.docker(&["version"])?;
        self.import_busybox()?;
        self.docker(&["images"])?;
        let greeting = "Hello from a container in a Coracle machine";
        let run = ["run", "--rm", "--network", "none", "busybox", "echo", greeting];
        let printed = self.docker_output(&run)?;
        say(&printed);
        ensure!(printed == greeting, "the container printed `{printed}` instead of `{greeting}`");
        self.write_page(greeting)?;
        let site = format!("{}:/site:ro", self.site.display());
        let serve = ["busybox", "httpd", "-f", "-h", "/site", "-p", "80"];
        let run = ["run", "-d", "--name", "web", "-p", "127.0.0.1::80", "-v", &site];
        self.docker(&[&run[..], &serve].concat())?;
        self.docker(&["ps"])?;
        self.docker(&["exec", "web", "uname", "-a"])?;
        let address = self.docker_output(&["port", "web", "80"])?;
        say_command(format_args!("GET http://{address}/"));
        let page = page(&address)?;
        say(&page);
        ensure!(page == greeting, "the container's page says `{page}` instead of `{greeting}`");
        let edited = "And this was written on the host while the container ran";
        self.write_page(edited)?;
        say_command(format_args!("GET http://{address}/"));
        let page = fetch(address.parse()?)?;
        say(&page);
        ensure!(page == edited, "the container's page says `{page}` instead of `{edited}`");
        self.show_events(&site)?;
        self.docker(&["rm", "-f", "web", "watcher"])
    }

    /// A program in a container hears of what is written on the host.
    fn show_events(&self, site: &str) -> Result<()> {
        let watch =
            ["inotifywait", "-m", "-e", "close_write", "--format", "a container heard: %e %w%f", "/site"];
        let run = ["run", "-d", "--name", "watcher", "--network", "none", "-v", site, "busybox"];
        self.docker(&[&run[..], &watch].concat())?;
        self.await_log("watcher", "Watches established.")?;
        self.write_page("And of this a container heard")?;
        let heard = self.await_log("watcher", "a container heard: CLOSE_WRITE,CLOSE /site/index.html")?;
        say(heard);
        Ok(())
    }

    /// Waits until a container has printed this line.
    fn await_log<'t>(&self, container: &str, line: &'t str) -> Result<&'t str> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let logs = self.docker_command(&["logs", container]).output().context("starting docker")?;
            let logs = [logs.stdout, logs.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            if logs.iter().any(|text| text.contains(line)) {
                return Ok(line);
            }
            ensure!(Instant::now() < deadline, "{container} did not print `{line}`, but: {}", logs.concat());
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn write_page(&self, text: &str) -> Result<()> {
        let page = self.site.join("index.html");
        say_command(format_args!("echo {text} > {}", page.display()));
        fs::write(&page, format!("{text}\n")).with_context(|| format!("writing {}", page.display()))
    }

    /// Gives the machine an image without a registry: programs of this machine in a tar archive.
    fn import_busybox(&self) -> Result<()> {
        let archive = busybox_archive(Path::new("/bin/busybox"), &[Path::new("/usr/bin/inotifywait")])?;
        let arguments = ["import", "--change", "CMD [\"sh\"]", "-", "busybox"];
        let mut import = self.docker_command(&arguments);
        say_command(format_args!(
            "tar of /bin/busybox and its links, and inotifywait | {}",
            shown("docker", &arguments)
        ));
        let mut child = import.stdin(Stdio::piped()).spawn().context("starting docker")?;
        let mut input = child.stdin.take().context("docker has no standard input")?;
        // A client that failed has closed its end; its own message and status say more than our broken pipe.
        let sent = input.write_all(&archive);
        drop(input);
        let status = child.wait().context("waiting for docker")?;
        if !status.success() {
            bail!("`docker import` failed: {status}");
        }
        sent.context("sending the archive to docker")
    }

    fn explain(&self) {
        say("\nThe machine is running. To go on with it in this shell:");
        for (name, value) in self.environment() {
            say(format_args!("  export {name}={value}"));
        }
        say("  docker run -it --rm busybox sh");
        say("To stop it, and to remove it with everything in it:");
        let coracle = self.product.coracle.display();
        say(format_args!("  {coracle} stop --name {MACHINE}"));
        say(format_args!("  {coracle} delete --force --name {MACHINE}"));
    }

    fn environment(&self) -> [(&'static str, String); 3] {
        let socket = self.home.join(MACHINE).join("docker.sock");
        [
            ("CORACLE_HOME", self.home.display().to_string()),
            ("DOCKER_HOST", format!("unix://{}", socket.display())),
            ("DOCKER_CONFIG", self.docker_config.display().to_string()),
        ]
    }

    fn coracle(&self, arguments: &[&str]) -> Result<()> {
        say_command(shown("coracle", arguments));
        command::run(Command::new(&self.product.coracle).args(arguments).envs(self.environment()))
    }

    fn docker(&self, arguments: &[&str]) -> Result<()> {
        say_command(shown("docker", arguments));
        command::run(&mut self.docker_command(arguments))
    }

    fn docker_output(&self, arguments: &[&str]) -> Result<String> {
        say_command(shown("docker", arguments));
        command::output(&mut self.docker_command(arguments))
    }

    fn docker_command(&self, arguments: &[&str]) -> Command {
        let mut docker = Command::new(&self.docker);
        docker.args(arguments).envs(self.environment());
        // A context of the user's would win over the socket.
        docker.env_remove("DOCKER_CONTEXT").env_remove("DOCKER_TLS_VERIFY");
        docker
    }
}

/// What a web server at `address` on this computer has at its root.
fn page(address: &str) -> Result<String> {
    let address: SocketAddr = address.parse().with_context(|| format!("{address:?} is no address"))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        // The port is open before the server in the container listens.
        match fetch(address) {
            Ok(page) => return Ok(page),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn fetch(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").with_context(|| format!("{address} answers {answer:?}"))?;
    Ok(body.trim().to_owned())
}

/// A command with its program's plain name.
fn shown(program: &str, arguments: &[&str]) -> String {
    command::line(Command::new(program).args(arguments))
}

/// A tar archive of a minimal root: the program, a link for each of its applets, the usual folders, and others with the libraries
/// that they need.
fn busybox_archive(busybox: &Path, others: &[&Path]) -> Result<Vec<u8>> {
    let program = fs::read(busybox).with_context(|| format!("reading {}", busybox.display()))?;
    let applets = command::output(Command::new(busybox).arg("--list"))?;
    let mut archive = tar::Builder::new(Vec::new());
    for folder in ["bin/", "etc/", "proc/", "root/", "sys/", "tmp/"] {
        append(
            &mut archive,
            folder,
            tar::EntryType::Directory,
            if folder == "tmp/" { 0o1777 } else { 0o755 },
            &[],
        )?;
    }
    append(&mut archive, "bin/busybox", tar::EntryType::Regular, 0o755, &program)?;
    append(&mut archive, "etc/passwd", tar::EntryType::Regular, 0o644, b"root:x:0:0:root:/root:/bin/sh\n")?;
    append(&mut archive, "etc/group", tar::EntryType::Regular, 0o644, b"root:x:0:\n")?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        archive.append_link(&mut header, format!("bin/{applet}"), "busybox").context("archiving a link")?;
    }
    for other in others {
        let listed = command::output(Command::new("ldd").arg(other))?;
        let libraries = listed.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new);
        for file in libraries.chain([*other]) {
            let content = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
            let name = file.strip_prefix("/").unwrap_or(file).to_string_lossy();
            append(&mut archive, &name, tar::EntryType::Regular, 0o755, &content)?;
        }
    }
    archive.into_inner().context("finishing the archive")
}

fn append(
    archive: &mut tar::Builder<Vec<u8>>,
    path: &str,
    kind: tar::EntryType,
    mode: u32,
    content: &[u8],
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(u64::try_from(content.len()).context("a file is too large for an archive")?);
    archive.append_data(&mut header, path, content).with_context(|| format!("archiving {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_holds_a_shell() {
        let busybox = Path::new("/bin/busybox");
        if !busybox.is_file() {
            say("SKIP: there is no /bin/busybox on this machine");
            return;
        }
        let bytes = busybox_archive(busybox, &[]).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut shell = None;
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            if entry.path().unwrap() == Path::new("bin/sh") {
                shell = entry.link_name().unwrap().map(|target| target.into_owned());
            }
        }
        assert_eq!(shell, Some("busybox".into()));
    }
}
