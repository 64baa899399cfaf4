//! DNS messages (RFC 1035, section 4), as far as one must look into them to pass them on.

use std::net::Ipv4Addr;

use crate::config::Config;

const HEADER_BYTES: usize = 12;
/// Section 2.3.4: what a name takes in a message.
const NAME_BYTES: usize = 255;

const TYPE_A: u16 = 1;
const CLASS_IN: u16 = 1;
const SERVER_FAILURE: u8 = 2;

/// Seconds that an answer of ours may be remembered.
const TTL: u32 = 60;

/// The one question of a query.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// Without the dot at its end. Bytes that are no ASCII are replaced.
    pub(super) name: String,
    kind: u16,
    class: u16,
    /// Where the question ends in its message.
    end: usize,
}

impl Question {
    /// The question of a query. `None` for what is none, or has more or fewer than one question: nobody asks so, and
    /// name servers refuse it.
    pub(super) fn parse(message: &[u8]) -> Option<Self> {
        let (header, _) = message.split_first_chunk::<HEADER_BYTES>()?;
        let is_query = header[2] & 0xf8 == 0;
        (is_query && header[4..6] == [0, 1]).then_some(())?;
        let (name, at) = name(message)?;
        let kind = u16::from_be_bytes(*message.get(at..)?.first_chunk()?);
        let class = u16::from_be_bytes(*message.get(at + 2..)?.first_chunk()?);
        Some(Question { name, kind, class, end: at + 4 })
    }

    /// An answer with one address to a question for addresses, and one without any to every other question.
    pub(super) fn answer(&self, query: &[u8], address: Ipv4Addr) -> Vec<u8> {
        let mut answer = self.reply(query, 0);
        if self.kind == TYPE_A && self.class == CLASS_IN {
            answer[7] = 1;
            // The name is that of the question.
            answer.extend_from_slice(&[0xc0, 0x0c]);
            answer.extend_from_slice(&TYPE_A.to_be_bytes());
            answer.extend_from_slice(&CLASS_IN.to_be_bytes());
            answer.extend_from_slice(&TTL.to_be_bytes());
            answer.extend_from_slice(&[0, 4]);
            answer.extend_from_slice(&address.octets());
        }
        answer
    }

    /// The answer, if the name is one of the host's.
    pub(super) fn answer_here(&self, query: &[u8], config: &Config) -> Option<Vec<u8>> {
        let here = config.host_names.iter().any(|name| name.eq_ignore_ascii_case(&self.name));
        here.then(|| self.answer(query, config.host))
    }

    /// An answer that says that nobody could be asked.
    pub(super) fn failure(&self, query: &[u8]) -> Vec<u8> {
        self.reply(query, SERVER_FAILURE)
    }

    /// Header and question of an answer.
    fn reply(&self, query: &[u8], code: u8) -> Vec<u8> {
        let mut reply = query.get(..self.end).unwrap_or(query).to_vec();
        // It is an answer, recursion is available; what was asked for of recursion stays.
        reply[2] = 0x80 | reply[2] & 0x01;
        reply[3] = 0x80 | code;
        reply[6..HEADER_BYTES].fill(0);
        reply
    }
}

/// The name behind the header, and where it ends.
fn name(message: &[u8]) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut at = HEADER_BYTES;
    loop {
        let len = usize::from(*message.get(at)?);
        at += 1;
        if len == 0 {
            return Some((name, at));
        }
        // The upper bits make it a pointer, and there is nothing before the first name to point to.
        if len > 63 || at + len > HEADER_BYTES + NAME_BYTES {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        let label = message.get(at..at + len)?;
        name.extend(label.iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { '\u{fffd}' }));
        at += len;
    }
}

/// Whether a message answers a query: it has its identifier and its question.
pub(super) fn answers(query: &[u8], message: &[u8]) -> bool {
    let is_answer = message.get(2).is_some_and(|flags| flags & 0x80 != 0);
    let Some(question) = Question::parse(query) else { return false };
    if !is_answer || message.get(..2) != query.get(..2) {
        return false;
    }
    // A server that could not read the question does not repeat it.
    let repeats_none = message.get(4..6) == Some(&[0, 0]);
    let theirs = message.get(HEADER_BYTES..question.end);
    let ours = query.get(HEADER_BYTES..question.end);
    repeats_none || theirs.zip(ours).is_some_and(|(theirs, ours)| theirs.eq_ignore_ascii_case(ours))
}

/// For fuzzing: whatever the bytes are, nothing panics, and what is answered is an answer.
#[cfg(test)]
pub(super) fn take_anything(bytes: &[u8], address: Ipv4Addr) {
    if let Some(question) = Question::parse(bytes) {
        assert!(question.name.len() <= NAME_BYTES * 4);
        for reply in [question.answer(bytes, address), question.failure(bytes)] {
            assert!(answers(bytes, &reply));
        }
    }
    let (query, answer) = bytes.split_at(bytes.len() / 2);
    answers(query, answer);
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            message.push(u8::try_from(label.len()).unwrap());
            message.extend_from_slice(label.as_bytes());
        }
        message.push(0);
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&[0, 1]);
        message
    }

    #[test]
    fn a_question_is_read_and_answered() {
        let query = query("Host.Docker.internal", TYPE_A);
        let question = Question::parse(&query).unwrap();
        assert_eq!((question.name.as_str(), question.kind), ("Host.Docker.internal", TYPE_A));
        let answer = question.answer(&query, Ipv4Addr::new(1, 2, 3, 4));
        assert_eq!(answer[..8], [0x12, 0x34, 0x81, 0x80, 0, 1, 0, 1]);
        assert_eq!(answer[answer.len() - 4..], [1, 2, 3, 4]);
        assert!(answers(&query, &answer));
        assert_eq!(question.failure(&query)[3], 0x82);
    }

    #[test]
    fn a_question_for_something_else_gets_an_answer_without_any() {
        let query = query("host.docker.internal", 28);
        let answer = Question::parse(&query).unwrap().answer(&query, Ipv4Addr::LOCALHOST);
        assert_eq!((answer.len(), answer[7]), (query.len(), 0));
    }

    #[test]
    fn answers_to_something_else_are_not_taken() {
        let query = query("example.org", TYPE_A);
        let good = Question::parse(&query).unwrap().answer(&query, Ipv4Addr::LOCALHOST);
        let with = |at: usize, byte: u8| {
            let mut bad = good.clone();
            bad[at] = byte;
            bad
        };
        assert!(answers(&query, &good) && answers(&query, &with(13, b'E')));
        for bad in [with(0, 0), with(2, 1), with(13, b'f'), Vec::new(), good[..20].to_vec()] {
            assert!(!answers(&query, &bad), "{bad:?}");
        }
    }
}
