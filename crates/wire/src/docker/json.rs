//! JSON as requests have it, read as Go's `encoding/json` reads it: the members of a structure are found
//! whatever their case, the last of several counts, and `null` stands for "not given". The keys of maps are
//! their users' and left alone; there, `null` stands for an empty value.

use serde::{
    Deserialize, Deserializer,
    de::{
        IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor,
        value::{MapDeserializer, SeqDeserializer},
    },
    forward_to_deserialize_any,
};
use serde_json::{Error, Value};

/// A value, its members in the order they came in.
#[derive(Debug, Clone)]
pub(super) enum Json {
    Scalar(Value),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    fn is_null(&self) -> bool {
        matches!(self, Self::Scalar(Value::Null))
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Json;

            fn expecting(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                to.write_str("JSON")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
                Ok(Json::Scalar(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
                Ok(Json::Scalar(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
                Ok(Json::Scalar(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
                Ok(Json::Scalar(value.into()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Json, E> {
                Ok(Json::Scalar(value.into()))
            }

            fn visit_string<E>(self, value: String) -> Result<Json, E> {
                Ok(Json::Scalar(value.into()))
            }

            fn visit_none<E>(self) -> Result<Json, E> {
                Ok(Json::Scalar(Value::Null))
            }

            fn visit_unit<E>(self) -> Result<Json, E> {
                Ok(Json::Scalar(Value::Null))
            }

            fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Json, D::Error> {
                Json::deserialize(from)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Json, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = from.next_element()? {
                    items.push(item);
                }
                Ok(Json::Array(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Json, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = from.next_entry()? {
                    members.push(member);
                }
                Ok(Json::Object(members))
            }
        }

        from.deserialize_any(Any)
    }
}

impl<'de> IntoDeserializer<'de, Error> for Json {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Json {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Self::Scalar(value) => value.deserialize_any(visitor),
            Self::Array(items) => {
                let mut items = SeqDeserializer::new(items.into_iter());
                let value = visitor.visit_seq(&mut items)?;
                items.end()?;
                Ok(value)
            }
            Self::Object(members) => visitor.visit_map(MapDeserializer::new(members.into_iter())),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let members = match self {
            Self::Object(members) => members,
            // A structure's own visitor would take its items for the fields.
            Self::Array(_) => return Err(serde::de::Error::invalid_type(Unexpected::Seq, &visitor)),
            Self::Scalar(Value::Null) => Vec::new(),
            scalar @ Self::Scalar(_) => return scalar.deserialize_any(visitor),
        };
        let mut known: Vec<(&str, Self)> = Vec::new();
        for (name, value) in members.into_iter().filter(|(_, value)| !value.is_null()) {
            let exact = fields.iter().find(|field| **field == name);
            let any_case = || fields.iter().find(|field| field.eq_ignore_ascii_case(&name));
            if let Some(field) = exact.or_else(any_case) {
                known.retain(|(other, _)| other != field);
                known.push((field, value));
            }
        }
        visitor.visit_map(MapDeserializer::new(known.into_iter()))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_null() { Self::Object(Vec::new()) } else { self }.deserialize_any(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_null() { Self::Array(Vec::new()) } else { self }.deserialize_any(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_null() { visitor.visit_str("") } else { self.deserialize_any(visitor) }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self {
            Self::Scalar(value) => value.deserialize_enum(name, variants, visitor),
            other => other.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str bytes byte_buf unit unit_struct
        tuple tuple_struct identifier ignored_any
    }
}

/// Implements `Deserialize` for a structure some of whose fields are structures that have their members
/// beside its own: `#[serde(flatten)]`, which does not tell a deserializer what names there are. The
/// structure derives it with `#[serde(remote = "Self")]`, and those fields have `skip_deserializing`.
macro_rules! deserialize_with_members_of {
    ($whole:ty: $($part:ident),+) => {
        impl<'de> serde::Deserialize<'de> for $whole {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let members = <$crate::docker::json::Json as serde::Deserialize>::deserialize(from)?;
                let mut whole = Self::deserialize(members.clone()).map_err(serde::de::Error::custom)?;
                $(
                    whole.$part =
                        serde::Deserialize::deserialize(members.clone()).map_err(serde::de::Error::custom)?;
                )+
                Ok(whole)
            }
        }
    };
}
pub(super) use deserialize_with_members_of;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::docker::{container::CreateRequest, decode, exec::ExecCreateRequest};

    #[test]
    fn members_are_found_in_any_case() {
        let body = br#"{
            "image": "a", "CMD": "one", "hostconfig": {"memory": 1, "CPUREALTIMEPERIOD": 2, "binds": null,
            "restartpolicy": {"name": "always"}}, "networkingConfig": {"endpointsconfig": {"Web": {}, "web": {}}}
        }"#;
        let request: CreateRequest = decode(body).unwrap();
        assert_eq!((request.config.image.as_str(), request.config.cmd), ("a", Some(vec!["one".to_owned()])));
        let host = request.host_config;
        assert_eq!((host.resources.memory, host.resources.cpu_realtime_period), (1, 2));
        assert_eq!((host.restart_policy.name.as_str(), host.binds), ("always", None));
        // The keys of a map are names that a user gave.
        let endpoints: Vec<&String> = request.networking_config.endpoints_config.keys().collect();
        assert_eq!(endpoints, ["Web", "web"]);
    }

    #[test]
    fn the_last_of_several_counts() {
        let request: ExecCreateRequest =
            decode(br#"{"User": "a", "user": "b", "Tty": true, "tty": false, "TTY": null}"#).unwrap();
        assert_eq!((request.user.as_str(), request.tty), ("b", false));
        let request: CreateRequest = decode(br#"{"Labels": {"a": "1", "A": "2", "a": "3"}}"#).unwrap();
        let labels = BTreeMap::from([("A", "2"), ("a", "3")].map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert_eq!(request.config.labels, Some(labels));
    }

    #[test]
    fn null_is_nothing_of_a_structure_and_empty_in_a_map() {
        let request: CreateRequest = decode(
            br#"{
                "Cmd": null, "Labels": {"a": null}, "ExposedPorts": {"80/tcp": null},
                "HostConfig": {"PortBindings": {"80/tcp": null}},
                "NetworkingConfig": {"EndpointsConfig": {"net": null}}
            }"#,
        )
        .unwrap();
        assert_eq!((request.config.cmd, &request.config.labels.unwrap()["a"]), (None, &String::new()));
        assert!(request.config.exposed_ports.contains_key("80/tcp"));
        assert_eq!(request.host_config.port_bindings["80/tcp"], None);
        assert_eq!(request.networking_config.endpoints_config["net"], None);
    }

    #[test]
    fn what_is_no_such_value_is_refused() {
        for body in [
            &b"{\"Cmd\": {\"a\": 1}}"[..],
            b"{\"Tty\": 1}",
            b"{\"HostConfig\": []}",
            b"{\"HostConfig\": {\"ConsoleSize\": [1, 2, 3]}}",
            b"{\"HostConfig\": {\"Memory\": \"a\"}}",
            b"{} x",
            b"[1",
        ] {
            assert!(decode::<CreateRequest>(body).is_err(), "{}", String::from_utf8_lossy(body));
        }
        let deep = [b"{\"X\":".repeat(1000), b"1".to_vec(), b"}".repeat(1000)].concat();
        assert!(decode::<CreateRequest>(&deep).is_err());
    }
}
