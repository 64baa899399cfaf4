//! `?filters=…`: which items of a list, or which events, a client wants.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::error::{Error, Result};

/// Filters by name; an item passes when for each name one of the values fits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Decodes `{"name":["value"]}`, or the older `{"name":{"value":true}}`.
    ///
    /// # Errors
    /// Another shape, and a name that is not in `known`, in Docker's words.
    pub fn parse(text: Option<&str>, known: &[&str]) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Values {
            List(Vec<String>),
            Set(BTreeMap<String, bool>),
        }
        let Some(text) = text else { return Ok(Self::default()) };
        let decoded: BTreeMap<String, Values> =
            serde_json::from_str(text).map_err(|error| Error::invalid("invalid filter").because(error))?;
        let mut filters = BTreeMap::new();
        for (name, values) in decoded {
            if !known.contains(&name.as_str()) {
                return Err(Error::invalid(format!("invalid filter '{name}'")));
            }
            let values = match values {
                Values::List(values) => values,
                Values::Set(set) => {
                    set.into_iter().filter(|(_, wanted)| *wanted).map(|(value, _)| value).collect()
                }
            };
            filters.insert(name, values);
        }
        Ok(Self(filters))
    }

    /// The values given for `name`; empty when it is not filtered by.
    pub fn get(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether `name` is filtered by.
    pub fn has(&self, name: &str) -> bool {
        !self.get(name).is_empty()
    }

    /// Whether an item passes the filter `name`: none is given, or `fits` accepts one of its values.
    pub fn passes(&self, name: &str, fits: impl FnMut(&str) -> bool) -> bool {
        let values = self.get(name);
        values.is_empty() || values.iter().map(String::as_str).any(fits)
    }

    /// The filter `name` as a boolean.
    ///
    /// # Errors
    /// A value that is none, or both.
    pub fn flag(&self, name: &str) -> Result<Option<bool>> {
        let mut flag = None;
        for value in self.get(name) {
            let value = match value.as_str() {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
                "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
                _ => return Err(Error::invalid(format!("invalid filter '{name}={value}'"))),
            };
            if flag.is_some_and(|other| other != value) {
                return Err(Error::invalid(format!("invalid filter '{name}': both true and false")));
            }
            flag = Some(value);
        }
        Ok(flag)
    }

    /// Whether `labels` hold **all** that the filter `name` asks for (`key` or `key=value`).
    pub fn labels(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.get(name).iter().all(|wanted| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|label| label == value),
            None => labels.contains_key(wanted),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        for text in [r#"{"label":["a=b","c"]}"#, r#"{"label":{"a=b":true,"c":true,"d":false}}"#] {
            let filters = Filters::parse(Some(text), &["label"]).unwrap();
            assert_eq!(filters.get("label"), ["a=b", "c"]);
        }
    }

    #[test]
    fn an_unknown_filter_is_named() {
        let error = Filters::parse(Some(r#"{"colour":["red"]}"#), &["label"]).unwrap_err();
        assert_eq!(error.to_string(), "invalid filter 'colour'");
    }

    #[test]
    fn labels_must_all_fit_other_filters_only_one() {
        let text = r#"{"label":["a=1","b"],"name":["x","y"]}"#;
        let filters = Filters::parse(Some(text), &["label", "name"]).unwrap();
        let labels = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        assert!(filters.labels("label", &labels(&[("a", "1"), ("b", "")])));
        assert!(!filters.labels("label", &labels(&[("a", "2"), ("b", "")])));
        assert!(!filters.labels("label", &labels(&[("a", "1")])));
        assert!(filters.passes("name", |name| name == "y"));
        assert!(!filters.passes("name", |name| name == "z"));
        assert!(filters.passes("status", |_| false));
    }
}
