use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use reqwest::{
    Client, StatusCode,
    header::{HeaderMap, WWW_AUTHENTICATE},
};
use serde::Deserialize;

use super::{MAX_ERROR, RegistryError, error, limited};

/// Who Docker's clients say they are.
const CLIENT_ID: &str = "docker";

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

/// What the client gave for a registry, in `X-Registry-Auth`.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Credentials {
    username: String,
    password: String,
    /// A refresh token (OAuth 2) instead of a password.
    #[serde(rename = "identitytoken")]
    identity_token: String,
    /// A bearer token that the registry takes as it is.
    #[serde(rename = "registrytoken")]
    registry_token: String,
}

/// Secrets do not go to logs.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Reads the header: JSON in URL-safe base64. As in Docker, what cannot be read counts as none:
    /// anonymous pulls must not fail for it.
    pub(crate) fn from_header(header: &str) -> Self {
        let bytes = GeneralPurpose::new(&URL_SAFE, LENIENT)
            .decode(header)
            .or_else(|_| GeneralPurpose::new(&STANDARD, LENIENT).decode(header))
            .unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    fn basic(&self) -> Option<Authorization> {
        (!self.username.is_empty()).then(|| {
            let pair = format!("{}:{}", self.username, self.password);
            let encoded = GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new()).encode(pair);
            Authorization(format!("Basic {encoded}"))
        })
    }
}

/// The value of an `Authorization` header.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Authorization(String);

impl Authorization {
    pub(super) fn header(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authorization(…)")
    }
}

/// What a registry asks for (RFC 9110 §11.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// All challenges of a response.
pub(super) fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let values = headers.get_all(WWW_AUTHENTICATE);
    values.iter().filter_map(|value| value.to_str().ok()).flat_map(parse).collect()
}

/// `Bearer realm="…",service="…", Basic realm="…"`.
fn parse(text: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    for item in split_items(text) {
        // An item is a scheme, a parameter, or both.
        let name_end = item.find(['=', ' ']).unwrap_or(item.len());
        let parameter = match item[name_end..].starts_with('=') {
            true => item,
            false => {
                let scheme = item[..name_end].to_ascii_lowercase();
                challenges.push(Challenge { scheme, parameters: Vec::new() });
                item[name_end..].trim_start()
            }
        };
        if let Some((name, value)) = parameter.split_once('=')
            && let Some(challenge) = challenges.last_mut()
        {
            challenge.parameters.push((name.trim().to_ascii_lowercase(), unquote(value.trim())));
        }
    }
    challenges
}

/// Splits at commas outside of quotes.
fn split_items(text: &str) -> Vec<&str> {
    let (mut items, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                items.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    items.push(text[start..].trim());
    items.retain(|item| !item.is_empty());
    items
}

fn unquote(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) else {
        return value.to_owned();
    };
    let mut plain = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        plain.push(if character == '\\' { characters.next().unwrap_or('\\') } else { character });
    }
    plain
}

/// What to send so that a challenge is met; `None` if there is nothing.
pub(super) async fn answer(
    client: &Client,
    challenges: &[Challenge],
    credentials: &Credentials,
    repository: &str,
) -> Result<Option<Authorization>, RegistryError> {
    if !credentials.registry_token.is_empty() {
        return Ok(Some(Authorization(format!("Bearer {}", credentials.registry_token))));
    }
    for challenge in challenges {
        match challenge.scheme.as_str() {
            "bearer" => {
                if let Some(realm) = challenge.parameter("realm") {
                    return token(client, realm, challenge, credentials, repository).await.map(Some);
                }
            }
            "basic" => {
                if let Some(basic) = credentials.basic() {
                    return Ok(Some(basic));
                }
            }
            _ => {}
        }
    }
    Ok(None)
}

/// Fetches a token (distribution's token specification).
async fn token(
    client: &Client,
    realm: &str,
    challenge: &Challenge,
    credentials: &Credentials,
    repository: &str,
) -> Result<Authorization, RegistryError> {
    #[derive(Deserialize)]
    struct Token {
        #[serde(default)]
        token: String,
        #[serde(default)]
        access_token: String,
    }
    let scope = format!("repository:{repository}:pull");
    let service = challenge.parameter("service").unwrap_or_default();
    let request = if credentials.identity_token.is_empty() {
        let mut query = vec![("scope", scope.as_str()), ("service", service)];
        if !credentials.username.is_empty() {
            query.extend([("account", credentials.username.as_str()), ("client_id", CLIENT_ID)]);
        }
        let request = client.get(realm).query(&query);
        match credentials.basic() {
            Some(basic) => request.header(reqwest::header::AUTHORIZATION, basic.header()),
            None => request,
        }
    } else {
        client.post(realm).form(&[
            ("grant_type", "refresh_token"),
            ("service", service),
            ("client_id", CLIENT_ID),
            ("scope", &scope),
            ("refresh_token", &credentials.identity_token),
        ])
    };
    let network = |source| RegistryError::Network { url: realm.to_owned(), source };
    let response = request.send().await.map_err(network)?;
    let status = response.status();
    if status != StatusCode::OK {
        return Err(error::from_response(realm, response).await);
    }
    let body = limited(realm, response, MAX_ERROR).await?;
    let token = serde_json::from_slice::<Token>(&body)
        .ok()
        .map(|token| if token.token.is_empty() { token.access_token } else { token.token })
        .filter(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()));
    match token {
        Some(token) => Ok(Authorization(format!("Bearer {token}"))),
        None => Err(RegistryError::Refused {
            status,
            code: "UNAUTHORIZED".to_owned(),
            message: "authorization server did not include a token in the response".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let parsed = parse(
            r#"Bearer realm="https://auth/token",service="reg, \"one\"",error="insufficient_scope", basic realm=x"#,
        );
        assert_eq!(parsed.len(), 2);
        assert_eq!(parsed[0].scheme, "bearer");
        assert_eq!(parsed[0].parameter("realm"), Some("https://auth/token"));
        assert_eq!(parsed[0].parameter("service"), Some("reg, \"one\""));
        assert_eq!(parsed[0].parameter("error"), Some("insufficient_scope"));
        assert_eq!(parsed[1].scheme, "basic");
        assert_eq!(parsed[1].parameter("realm"), Some("x"));
        for nonsense in ["", ",,,", "=", "\"", "Bearer \\"] {
            parse(nonsense);
        }
    }

    #[test]
    fn credentials_come_in_either_alphabet_and_nonsense_is_none() {
        let json = r#"{"username":"ü?>","password":"p","serveraddress":"x"}"#;
        for alphabet in [&URL_SAFE, &STANDARD] {
            let padded = GeneralPurpose::new(alphabet, GeneralPurposeConfig::new()).encode(json);
            for header in [padded.as_str(), padded.trim_end_matches('=')] {
                assert_eq!(Credentials::from_header(header).username, "ü?>", "{header}");
            }
        }
        for nonsense in ["", "!!", "e30=", "bnVsbA=="] {
            assert_eq!(Credentials::from_header(nonsense), Credentials::default(), "{nonsense}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let credentials = Credentials { password: "hunter2".to_owned(), ..Credentials::default() };
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }
}
