//! What the resolver itself answers: names and addresses of containers.

use std::net::IpAddr;

use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata::PTR},
};

use crate::network::names::Names;

/// Seconds that an answer may be kept, as in Docker.
const TIME_TO_LIVE: u32 = 600;
/// The longest answer by UDP that anyone must accept (RFC 1035, 4.2.1). There are as many addresses as fit.
const MAX_ADDRESSES: usize = 20;

/// What is done with a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Own(Vec<u8>),
    Forward,
}

/// The answer for `container`; `None` to what is no question.
pub(super) fn answer(question: &[u8], container: &str, names: &Names) -> Option<Answer> {
    let message = Message::from_vec(question).ok()?;
    if message.metadata.message_type != MessageType::Query {
        return None;
    }
    let [query] = message.queries.as_slice() else { return failed(question).map(Answer::Own) };
    if message.metadata.op_code != OpCode::Query || query.query_class() != DNSClass::IN {
        return Some(Answer::Forward);
    }
    let name = query.name();
    let records = match query.query_type() {
        RecordType::A | RecordType::AAAA => {
            let text = name.to_utf8().to_lowercase();
            let Some(addresses) = names.addresses(container, text.trim_end_matches('.')) else {
                return Some(Answer::Forward);
            };
            let wants_v4 = query.query_type() == RecordType::A;
            let fitting = addresses.into_iter().filter(|address| address.is_ipv4() == wants_v4);
            // A name without an address of this family is known all the same.
            fitting.take(MAX_ADDRESSES).map(|address| record(name, address)).collect()
        }
        RecordType::PTR => {
            let asked = name.parse_arpa_name().ok()?;
            let whole = asked.prefix_len() == asked.max_prefix_len();
            let found = whole.then(|| names.name(container, asked.addr())).flatten();
            let found = found.and_then(|found| Name::from_utf8(format!("{found}.")).ok());
            let Some(found) = found else { return Some(Answer::Forward) };
            vec![Record::from_rdata(name.clone(), TIME_TO_LIVE, RData::PTR(PTR(found)))]
        }
        _ => return Some(Answer::Forward),
    };
    let mut answer = response(&message, ResponseCode::NoError);
    answer.add_answers(records);
    answer.to_vec().ok().map(Answer::Own)
}

fn record(name: &Name, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(address) => RData::A(address.into()),
        IpAddr::V6(address) => RData::AAAA(address.into()),
    };
    Record::from_rdata(name.clone(), TIME_TO_LIVE, data)
}

/// Tells who asks that there is no answer to be had.
pub(super) fn failed(question: &[u8]) -> Option<Vec<u8>> {
    response(&Message::from_vec(question).ok()?, ResponseCode::ServFail).to_vec().ok()
}

fn response(question: &Message, code: ResponseCode) -> Message {
    let mut answer = Message::error_msg(question.metadata.id, question.metadata.op_code, code);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.queries.clone_from(&question.queries);
    answer
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query;

    use super::*;
    use crate::network::endpoint::{Endpoint, Sandbox};

    fn names() -> Names {
        let endpoint: Endpoint = serde_json::from_value(serde_json::json!({
            "network": "n", "network_name": "back", "id": "", "interface": "", "host_interface": "",
            "ipv4": "10.0.0.2/24", "names": ["web"], "links": {}, "priority": 0,
        }))
        .unwrap();
        let names = Names::default();
        names.learn(&Sandbox { container: "c".to_owned(), endpoints: vec![endpoint], ..Sandbox::default() });
        names
    }

    fn ask(name: &str, kind: RecordType) -> Option<Message> {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_utf8(name).unwrap(), kind));
        match answer(&message.to_vec().unwrap(), "c", &names()).unwrap() {
            Answer::Own(answer) => {
                let answer = Message::from_vec(&answer).unwrap();
                assert_eq!(answer.metadata.id, message.metadata.id);
                Some(answer)
            }
            Answer::Forward => None,
        }
    }

    #[test]
    fn containers_are_answered_and_the_rest_is_forwarded() {
        let web = ask("WEB.", RecordType::A).unwrap();
        assert_eq!(web.answers.len(), 1);
        assert_eq!(web.answers[0].data, RData::A(std::net::Ipv4Addr::new(10, 0, 0, 2).into()));
        // No address of that family is no reason to say that there is no such name.
        let six = ask("web.", RecordType::AAAA).unwrap();
        assert!(six.answers.is_empty() && six.metadata.response_code == ResponseCode::NoError);
        let back = ask("2.0.0.10.in-addr.arpa.", RecordType::PTR).unwrap();
        assert!(back.answers[0].data.to_string().starts_with("web.back"));
        assert!(ask("example.org.", RecordType::A).is_none());
        assert!(ask("web.", RecordType::TXT).is_none());
        assert!(ask("9.0.0.10.in-addr.arpa.", RecordType::PTR).is_none());
    }

    #[test]
    fn what_is_no_question_gets_no_answer() {
        let names = names();
        assert_eq!(answer(&[], "c", &names), None);
        assert_eq!(answer(&[0xff; 40], "c", &names), None);
        let mut response = Message::response(7, OpCode::Query);
        response.add_query(Query::query(Name::from_utf8("web.").unwrap(), RecordType::A));
        assert_eq!(answer(&response.to_vec().unwrap(), "c", &names), None);
        let none = Message::query().to_vec().unwrap();
        assert!(matches!(answer(&none, "c", &names), Some(Answer::Own(_))));
    }
}
