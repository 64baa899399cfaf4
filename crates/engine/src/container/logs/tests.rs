use std::{
    collections::BTreeMap,
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt;

use super::*;
use crate::container::{multiplex, streams::Source, testing};

fn log_in(directory: &Path, options: &[(&str, &str)]) -> Arc<LogFile> {
    let mut record = testing::record("web");
    let pairs = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    record.host_config.log_config.config = pairs.collect();
    record.config.labels = Some(BTreeMap::from([("tier".to_owned(), "front".to_owned())]));
    record.config.env = Some(vec!["REGION=eu".to_owned()]);
    Arc::new(open(&record, directory).unwrap().unwrap())
}

fn write(log: &LogFile, source: Source, text: &str) {
    let mut lines = Lines::default();
    log.write(source, &mut lines, text.as_bytes());
    log.finish(source, &mut lines);
}

fn all() -> LogQuery {
    LogQuery { stdout: true, stderr: true, ..LogQuery::default() }
}

async fn text(log: &Arc<LogFile>, query: LogQuery) -> String {
    let pieces: Vec<Bytes> = stream(log.clone(), query, None).map(|piece| piece.unwrap()).collect().await;
    String::from_utf8(pieces.concat()).unwrap()
}

#[tokio::test]
async fn what_is_written_is_read_by_stream() {
    let directory = tempfile::tempdir().unwrap();
    let log = log_in(directory.path(), &[]);
    assert_eq!(text(&log, all()).await, "", "nothing is written yet");
    log.begin().unwrap();
    write(&log, Source::Stdout, "one\n\"two\"\n");
    write(&log, Source::Stderr, "oh\tno\n");
    log.end();
    assert_eq!(text(&log, all()).await, "one\n\"two\"\noh\tno\n");
    assert_eq!(text(&log, LogQuery { stderr: false, ..all() }).await, "one\n\"two\"\n");
    let framed = text(&log, LogQuery { multiplexed: true, ..all() }).await;
    let mut expected = multiplex::header(Source::Stdout, 4).to_vec();
    expected.extend_from_slice(b"one\n");
    assert!(framed.as_bytes().starts_with(&expected));
}

#[tokio::test]
async fn who_does_not_follow_gets_what_was_there_when_he_asked() {
    let directory = tempfile::tempdir().unwrap();
    let log = log_in(directory.path(), &[("max-size", "100"), ("max-file", "3")]);
    log.begin().unwrap();
    write(&log, Source::Stdout, "before\n");
    let mut reader = LogReader::open(log.clone(), all(), None).unwrap();
    // Enough for another file.
    write(&log, Source::Stdout, "after\nand again\n");
    let (mut out, position) = (Vec::new(), *log.watch().borrow());
    assert_eq!(position.rotation, 1);
    assert_eq!(reader.read(&mut out, position).unwrap(), Progress::CaughtUp);
    assert_eq!(out, b"before\n");
    assert_eq!(text(&log, all()).await, "before\nafter\nand again\n");
}

#[tokio::test]
async fn long_lines_are_one_again() {
    let directory = tempfile::tempdir().unwrap();
    let log = log_in(directory.path(), &[]);
    log.begin().unwrap();
    let long = "x".repeat(40_000) + "\n";
    write(&log, Source::Stdout, &long);
    write(&log, Source::Stdout, "last\n");
    log.end();
    assert_eq!(text(&log, all()).await, long.clone() + "last\n");
    let stamped = text(&log, LogQuery { timestamps: true, ..all() }).await;
    assert_eq!(stamped.matches("Z ").count(), 2, "a stamp for each line of the container");
    assert_eq!(text(&log, LogQuery { tail: Some(2), ..all() }).await, long + "last\n");
}

#[tokio::test]
async fn the_tail_of_a_large_log() {
    let directory = tempfile::tempdir().unwrap();
    let log = log_in(directory.path(), &[]);
    log.begin().unwrap();
    let lines: String = (0..20_000).map(|number| format!("line {number} {}\n", "y".repeat(60))).collect();
    write(&log, Source::Stdout, &lines);
    let unfinished = "no newline yet";
    write(&log, Source::Stdout, unfinished);
    log.end();
    let expected = lines.clone() + unfinished;
    for tail in [0, 1, 2, 100, 5000, 20_000, 20_001, 99_999] {
        let found = text(&log, LogQuery { tail: Some(tail), ..all() }).await;
        let tail = usize::try_from(tail).unwrap();
        let start = expected.lines().count().saturating_sub(tail);
        let wanted: Vec<&str> = expected.lines().skip(start).collect();
        assert_eq!(found.lines().collect::<Vec<_>>(), wanted, "{tail}");
    }
}

#[tokio::test]
async fn times_bound_what_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let log = log_in(directory.path(), &[]);
    let mut content = Vec::new();
    for second in 0..10 {
        let time = format!("2026-11-21T10:00:0{second}.5Z");
        entry::write(&mut content, format!("{second}").as_bytes(), true, Source::Stdout, "", &time);
    }
    fs::write(log.path(), content).unwrap();
    let at = |text: &str| Some(moment::parse(text.as_bytes()).unwrap());
    let query = LogQuery { since: at("2026-11-21T10:00:03Z"), until: at("2026-11-21T10:00:06.5Z"), ..all() };
    assert_eq!(text(&log, query).await, "3\n4\n5\n6\n");
}

#[tokio::test]
async fn rotated_files_are_read_in_order() {
    let directory = tempfile::tempdir().unwrap();
    for compress in ["false", "true"] {
        let directory = directory.path().join(compress);
        fs::create_dir(&directory).unwrap();
        let options = [("max-size", "2k"), ("max-file", "4"), ("compress", compress)];
        let log = log_in(&directory, &options);
        log.begin().unwrap();
        for number in 0..60 {
            write(&log, Source::Stdout, &format!("line {number}\n"));
        }
        let everything = text(&log, all()).await;
        let lines: Vec<&str> = everything.lines().collect();
        assert!(lines.len() > 30 && lines.len() <= 60, "{}", lines.len());
        let first = 60 - lines.len();
        let expected: Vec<String> = (first..60).map(|number| format!("line {number}")).collect();
        assert_eq!(lines, expected);
        let tail = text(&log, LogQuery { tail: Some(40), ..all() }).await;
        assert_eq!(tail.lines().next(), Some("line 20"));
        assert_eq!(tail.lines().count(), 40);
        log.end();
    }
}

#[tokio::test]
async fn following_sees_rotations_and_ends_with_the_container() {
    let directory = tempfile::tempdir().unwrap();
    let log = log_in(directory.path(), &[("max-size", "1k"), ("max-file", "3")]);
    log.begin().unwrap();
    let mut follower = Box::pin(stream(log.clone(), LogQuery { follow: true, ..all() }, None));
    let mut seen = String::new();
    for number in 0..50 {
        write(&log, Source::Stdout, &format!("line {number}\n"));
        while !seen.contains(&format!("line {number}\n")) {
            let piece = tokio::time::timeout(Duration::from_secs(10), follower.next()).await;
            seen.push_str(std::str::from_utf8(&piece.unwrap().unwrap().unwrap()).unwrap());
        }
    }
    log.end();
    assert!(follower.next().await.is_none());
    assert_eq!(seen.lines().count(), 50, "{seen}");
}

#[tokio::test]
async fn following_ends_at_its_time() {
    let directory = tempfile::tempdir().unwrap();
    let log = log_in(directory.path(), &[]);
    log.begin().unwrap();
    write(&log, Source::Stdout, "early\n");
    let query = LogQuery { follow: true, until: Some(moment::now() + 50_000_000), ..all() };
    let began = Instant::now();
    assert_eq!(text(&log, query).await, "early\n");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_client_that_attaches_gets_the_past_once() {
    let directory = tempfile::tempdir().unwrap();
    let log = log_in(directory.path(), &[]);
    log.begin().unwrap();
    write(&log, Source::Stdout, "before\n");
    let end = log.end_so_far();
    write(&log, Source::Stdout, "after\n");
    let past: Vec<Bytes> = replay(log, all(), end).map(|piece| piece.unwrap()).collect().await;
    assert_eq!(past.concat(), b"before\n");
}

#[tokio::test]
async fn details_are_what_options_ask_for() {
    let directory = tempfile::tempdir().unwrap();
    let options = [("labels", "tier,none"), ("env-regex", "^REG"), ("tag", "{{.Name}}/x y")];
    let log = log_in(directory.path(), &options);
    log.begin().unwrap();
    write(&log, Source::Stdout, "hi\n");
    let found = text(&log, LogQuery { details: true, ..all() }).await;
    assert_eq!(found, "REGION=eu,tag=web%2Fx+y,tier=front hi\n");
    log.end();
}

#[tokio::test]
async fn damaged_lines_are_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let log = log_in(directory.path(), &[]);
    log.begin().unwrap();
    write(&log, Source::Stdout, "good\n");
    log.end();
    let mut content = fs::read(log.path()).unwrap();
    content.extend_from_slice(&[0; 4096]);
    content.push(b'\n');
    content.extend_from_slice(b"{\"log\":\"torn");
    fs::write(log.path(), content).unwrap();
    assert_eq!(text(&log, all()).await, "good\n");
    assert_eq!(text(&log, LogQuery { tail: Some(3), ..all() }).await, "good\n");
}

#[test]
fn options_are_checked_in_dockers_words() {
    let message = |driver: &str, options: &[(&str, &str)]| {
        let pairs = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut config = LogConfig { driver: driver.to_owned(), config: pairs.collect() };
        validate(&mut config).map_or_else(|error| error.to_string(), |()| config.driver)
    };
    assert_eq!(message("", &[]), "json-file");
    assert_eq!(message("none", &[("anything", "goes")]), "none");
    assert_eq!(message("local", &[("max-size", "10m")]), "local");
    assert_eq!(message("nosuch", &[]), "error looking up logging plugin nosuch: plugin \"nosuch\" not found");
    assert_eq!(
        message("json-file", &[("colour", "red")]),
        "unknown log opt 'colour' for json-file log driver"
    );
    assert_eq!(message("json-file", &[("max-file", "0")]), "max-file cannot be less than 1");
    assert_eq!(message("json-file", &[("max-size", "0")]), "max-size must be a positive number");
    assert_eq!(message("json-file", &[("max-size", "-1")]), "json-file");
    assert_eq!(message("json-file", &[("max-size", "big")]), "invalid size: 'big'");
    assert_eq!(
        message("json-file", &[("compress", "true")]),
        "compress cannot be true when max-file is less than 2 or max-size is not set"
    );
    assert_eq!(message("json-file", &[("mode", "sideways")]), "logger: logging mode not supported: sideways");
    assert!(message("syslog", &[]).contains("not implemented"));
    assert!(message("json-file", &[("tag", "{{if .ID}}")]).contains("not implemented"));
    assert_eq!(parse_size("1.5 KB", 1000), Some(1500));
    assert_eq!(parse_size("2mib", 1024), Some(2 << 20));
}
