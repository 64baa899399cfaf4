//! `top`: the processes of a container.

use std::{collections::BTreeSet, fs, path::Path, process::Stdio};

use wire::docker::container::Top;

use super::Containers;
use crate::error::{Context, Error, Result};

/// How long `ps` may take.
const PS_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

impl Containers {
    /// Lists a running container's processes: as `ps -ef` does, or as this machine's `ps` does with
    /// other `arguments`.
    ///
    /// # Errors
    /// A container that does not run, arguments that `ps` does not know, in Docker's words.
    pub(crate) async fn top(&self, name: &str, arguments: &str) -> Result<Top> {
        check_arguments(arguments)?;
        let container = self.get(name)?;
        container.state().check_process(&container.id)?;
        let pids: BTreeSet<u32> = self.0.runtime.processes(&container.id).await?.into_iter().collect();
        let top = match arguments.trim() {
            "" | "-ef" => crate::blocking(move || full_list(&pids)).await?,
            other => run_ps(other, &pids).await?,
        };
        self.emit(&container, "top", &[]);
        Ok(top)
    }
}

/// Refuses to give the PID column another name: it is looked for.
fn check_arguments(arguments: &str) -> Result<()> {
    for word in arguments.split([' ', '\t', ',']) {
        if let Some((column, title)) = word.split_once('=')
            && title.trim().starts_with("PID")
            && column != "pid"
        {
            return Err(Error::system(format!("specifying \"{column}={title}\" is not allowed")));
        }
    }
    Ok(())
}

/// `ps -ef` of these processes, from procfs.
fn full_list(pids: &BTreeSet<u32>) -> Result<Top> {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let clock = Clock::read()?;
    let processes = pids.iter().filter_map(|pid| line(*pid, &users, &clock)).collect();
    let titles = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];
    Ok(Top { titles: titles.map(str::to_owned).to_vec(), processes })
}

/// What it takes to read the times in procfs.
#[derive(Debug, Clone, Copy)]
struct Clock {
    ticks: i64,
    /// Seconds since the Unix epoch.
    boot: i64,
    now: i64,
}

impl Clock {
    fn read() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context(|| "read /proc/stat".to_owned())?;
        let boot = stat
            .lines()
            .find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
            .unwrap_or_default();
        let ticks = i64::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100).max(1);
        Ok(Self { ticks, boot, now: time::OffsetDateTime::now_utc().unix_timestamp() })
    }
}

/// One process's line; `None` when it has ended.
fn line(pid: u32, users: &str, clock: &Clock) -> Option<Vec<String>> {
    let directory = format!("/proc/{pid}");
    let directory = Path::new(&directory);
    let stat = fs::read_to_string(directory.join("stat")).ok()?;
    let status = fs::read_to_string(directory.join("status")).ok()?;
    let command = fs::read(directory.join("cmdline")).ok()?;
    let uid =
        status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1)?.parse().ok())?;
    fields(&stat, &command, uid, users, clock)
}

/// The columns, from what procfs says (`proc(5)`).
fn fields(stat: &str, command: &[u8], uid: u32, users: &str, clock: &Clock) -> Option<Vec<String>> {
    let (pid, rest) = stat.split_once(" (")?;
    // The name may hold anything, also a closing parenthesis.
    let (name, rest) = rest.rsplit_once(") ")?;
    let values: Vec<&str> = rest.split_whitespace().collect();
    let number = |at: usize| values.get(at)?.parse::<i64>().ok();
    // Numbered from the field after the name, which is the third.
    let (parent, terminal) = (number(1)?, number(4)?);
    let cpu = number(11)? + number(12)?;
    let started = clock.boot + number(19)? / clock.ticks;
    let cpu_seconds = cpu / clock.ticks;
    let age = (clock.now - started).max(1);
    let command = if command.is_empty() {
        format!("[{name}]")
    } else {
        let text = String::from_utf8_lossy(command);
        text.trim_end_matches('\0').replace('\0', " ")
    };
    Some(vec![
        user_name(users, uid),
        pid.to_owned(),
        parent.to_string(),
        (cpu_seconds * 100 / age).min(99).to_string(),
        start_time(started, clock.now),
        terminal_name(terminal),
        format!("{:02}:{:02}:{:02}", cpu_seconds / 3600, cpu_seconds / 60 % 60, cpu_seconds % 60),
        command,
    ])
}

fn user_name(users: &str, uid: u32) -> String {
    let uid = uid.to_string();
    users
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&uid.as_str()))
        .map_or(uid.clone(), |fields| fields[0].to_owned())
}

/// `HH:MM`, or the day for a process that is older than one.
fn start_time(started: i64, now: i64) -> String {
    let Ok(time) = time::OffsetDateTime::from_unix_timestamp(started) else {
        return "-".to_owned();
    };
    if now - started < 86_400 {
        return format!("{:02}:{:02}", time.hour(), time.minute());
    }
    let month = time.month().to_string();
    format!("{}{:02}", &month[..3], time.day())
}

/// The name of a terminal by its device number, as the kernel encodes it in `stat`.
fn terminal_name(device: i64) -> String {
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
    match major {
        0 => "?".to_owned(),
        4 if minor < 64 => format!("tty{minor}"),
        4 => format!("ttyS{}", minor - 64),
        136..=143 => format!("pts/{}", minor + (major - 136) * 256),
        _ => "?".to_owned(),
    }
}

async fn run_ps(arguments: &str, pids: &BTreeSet<u32>) -> Result<Top> {
    let words: Vec<&str> = arguments.split_whitespace().collect();
    let list = pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let chosen = format!("-q{list}");
    // Some options do not go with a choice of processes.
    let output = match ps(words.iter().copied().chain([chosen.as_str()])).await {
        Ok(output) => output,
        Err(_) => ps(words.iter().copied()).await?,
    };
    parse_ps(&output, pids)
}

async fn ps(arguments: impl Iterator<Item = &str>) -> Result<String> {
    let mut command = tokio::process::Command::new("ps");
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let failed = |why: String| Error::system(format!("ps: {why}"));
    let output = tokio::time::timeout(PS_TIMEOUT, command.output())
        .await
        .map_err(|_| failed("it does not end".to_owned()))?
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let first = text.lines().find(|line| !line.is_empty());
        return Err(failed(first.map_or_else(|| output.status.to_string(), str::to_owned)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Takes the lines of the container's processes out of what `ps` printed.
fn parse_ps(output: &str, pids: &BTreeSet<u32>) -> Result<Top> {
    let mut lines = output.lines();
    let titles: Vec<String> =
        lines.next().unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect();
    let column = titles
        .iter()
        .position(|title| title == "PID")
        .ok_or_else(|| Error::system("Couldn't find PID field in ps output"))?;
    let mut processes = Vec::new();
    // The lines of threads follow that of their process.
    let mut ours = false;
    for line in lines.filter(|line| !line.is_empty()) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let Some(pid) = fields.get(column) else { continue };
        if *pid != "-" {
            let number = pid
                .parse::<u32>()
                .map_err(|error| Error::system(format!("Unexpected pid '{pid}'")).because(error))?;
            ours = pids.contains(&number);
        }
        if ours && fields.len() >= titles.len() {
            let (columns, rest) = fields.split_at(titles.len() - 1);
            let mut process: Vec<String> = columns.iter().map(|&field| field.to_owned()).collect();
            process.push(rest.join(" "));
            processes.push(process);
        }
    }
    Ok(Top { titles, processes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_described_as_ps_does() {
        let stat = "42 (odd) name) S 1 42 42 34817 42 4194560 1 2 3 4 250 150 0 0 20 0 1 0 1000 99 99";
        let clock = Clock { ticks: 100, boot: 1_000_000_000, now: 1_000_000_110 };
        let users = "root:x:0:0:::\nweb:x:33:33:::\n";
        let line = fields(stat, b"sleep\x00100\x00", 33, users, &clock).unwrap();
        assert_eq!(line, ["web", "42", "1", "4", "01:46", "pts/1", "00:00:04", "sleep 100"]);
        let line = fields(stat, b"", 7, users, &clock).unwrap();
        assert_eq!((line[0].as_str(), line[7].as_str()), ("7", "[odd) name]"));
    }

    #[test]
    fn this_very_process_is_found() {
        let pid = std::process::id();
        let top = full_list(&BTreeSet::from([pid])).unwrap();
        assert_eq!(top.processes.len(), 1);
        assert_eq!(top.processes[0][1], pid.to_string());
        assert_eq!(top.titles.len(), top.processes[0].len());
    }

    #[test]
    fn lines_of_ps_are_chosen_by_pid_and_threads_follow() {
        let output = "PID TTY CMD\n1 ? init\n7 ? sleep 100\n- - thread of 7\n8 ? other\n- - thread of 8\n";
        let top = parse_ps(output, &BTreeSet::from([7])).unwrap();
        assert_eq!(top.titles, ["PID", "TTY", "CMD"]);
        assert_eq!(top.processes, [vec!["7", "?", "sleep 100"], vec!["-", "-", "thread of 7"]]);
        assert!(parse_ps("A B\n", &BTreeSet::new()).is_err());
        assert!(check_arguments("-o ppid=PID").is_err());
        check_arguments("-o pid=PID,comm").unwrap();
    }
}
