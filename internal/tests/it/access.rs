//! Signed tokens: what is taken, and what is not.

use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Parser;
use internal::access::{Access, AccessSettings, Refusal, Role, Still};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SignatureAlgorithm};
use serde_json::{Value, json};

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    access: AccessSettings,
}

const SECRET: &str = "a secret that is at least 32 bytes long";

fn access(arguments: &[&str]) -> Access {
    let arguments = ["test", "--auth", "token"].iter().chain(arguments);
    Settings::parse_from(arguments).access.access("127.0.0.1:1".parse().unwrap()).unwrap()
}

fn now() -> u64 {
    contract::Timestamp::now().micros() / 1_000_000
}

fn claims() -> Value {
    json!({ "sub": "Ada", "exp": now() + 600, "chats": ["c1"] })
}

fn signed(claims: &Value, algorithm: Algorithm, key: &EncodingKey) -> String {
    encode(&Header::new(algorithm), claims, key).unwrap()
}

fn by_secret(claims: &Value) -> String {
    signed(claims, Algorithm::HS256, &EncodingKey::from_secret(SECRET.as_bytes()))
}

fn with(claims: Value, name: &str, value: Value) -> Value {
    let mut claims = claims;
    claims[name] = value;
    claims
}

#[test]
fn a_signed_token_says_who_looks_and_at_what() {
    let access = access(&["--auth-jwt-key", SECRET]);
    let ada = access.admit_token(&by_secret(&claims())).unwrap();
    assert_eq!((ada.name.as_str(), ada.role), ("Ada", Role::Reader));
    assert!(ada.may_see("c1") && !ada.may_see("c2"));
    assert_eq!(access.still_admits(&ada), Still::Yes);
    let all = with(with(claims(), "chats", "*".into()), "role", "operator".into());
    let all = access.admit_token(&by_secret(&all)).unwrap();
    assert!(all.may_see("c2") && all.role == Role::Operator);
    let mut headers = HeaderMap::new();
    let from = "127.0.0.1".parse().unwrap();
    assert_eq!(access.admit(&headers, from), Err(Refusal::NoToken));
    headers.insert(header::COOKIE, format!("a=b; chat-sync-token={}", by_secret(&claims())).parse().unwrap());
    assert_eq!(access.admit(&headers, from), Ok(ada));
    headers.insert(header::AUTHORIZATION, "Bearer made-up".parse().unwrap());
    assert_eq!(access.admit(&headers, from), Err(Refusal::BadToken), "the header counts, not the cookie beside it");
    headers.insert(header::AUTHORIZATION, "Basic YTpi".parse().unwrap());
    assert!(access.admit(&headers, from).is_ok(), "another scheme is somebody else's");
}

#[test]
fn tokens_that_prove_nothing_are_refused() {
    let access = access(&["--auth-jwt-key", SECRET]);
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let unsigned = |header: Value| format!("{}.{}.", part(header), part(claims()));
    let good = by_secret(&claims());
    let (head, signature) = (good.split('.').next().unwrap(), good.rsplit('.').next().unwrap());
    let without = |name: &str| {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(name);
        by_secret(&claims)
    };
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    for (what, token) in [
        ("none", unsigned(json!({ "alg": "none", "typ": "JWT" }))),
        ("None", unsigned(json!({ "alg": "None" }))),
        ("HS256 without a signature", unsigned(json!({ "alg": "HS256" }))),
        (
            "other claims under the signature",
            format!("{head}.{}.{signature}", part(with(claims(), "chats", "*".into()))),
        ),
        (
            "another key",
            signed(&claims(), Algorithm::HS256, &EncodingKey::from_secret(b"another secret, as long as that")),
        ),
        ("another algorithm", signed(&claims(), Algorithm::HS512, &key)),
        ("expired", by_secret(&with(claims(), "exp", (now() - 120).into()))),
        ("not yet", by_secret(&with(claims(), "nbf", (now() + 600).into()))),
        ("for ever", without("exp")),
        ("nobody's", without("sub")),
        ("for no chats", without("chats")),
        ("a role that there is not", by_secret(&with(claims(), "role", "root".into()))),
        ("all chats by another word", by_secret(&with(claims(), "chats", "all".into()))),
        ("nothing", String::new()),
        ("two dots", "..".to_owned()),
    ] {
        assert_eq!(access.admit_token(&token), Err(Refusal::BadToken), "{what}");
    }
}

#[test]
fn issuer_and_audience_count_where_they_are_set() {
    let strict = ["--auth-jwt-key", SECRET, "--auth-jwt-issuer", "https://id.example", "--auth-jwt-audience", "chat"];
    let strict = access(&strict);
    let named =
        |issuer: &str, audience: &str| by_secret(&with(with(claims(), "iss", issuer.into()), "aud", audience.into()));
    assert!(strict.admit_token(&named("https://id.example", "chat")).is_ok());
    for token in [named("https://evil.example", "chat"), named("https://id.example", "mail"), by_secret(&claims())] {
        assert_eq!(strict.admit_token(&token), Err(Refusal::BadToken));
    }
    assert!(access(&["--auth-jwt-key", SECRET]).admit_token(&named("anybody", "anything")).is_ok());
}

fn pair(of: &'static SignatureAlgorithm) -> (String, EncodingKey, Algorithm) {
    let pair = KeyPair::generate_for(of).unwrap();
    let (private, public) = (pair.serialize_pem(), pair.public_key_pem());
    if of == &PKCS_ED25519 {
        return (public, EncodingKey::from_ed_pem(private.as_bytes()).unwrap(), Algorithm::EdDSA);
    }
    (public, EncodingKey::from_ec_pem(private.as_bytes()).unwrap(), Algorithm::ES256)
}

#[test]
fn a_public_key_checks_and_is_no_secret() {
    for of in [&PKCS_ECDSA_P256_SHA256, &PKCS_ED25519] {
        let (public, private, algorithm) = pair(of);
        let access = access(&["--auth-jwt-key", &public]);
        assert!(access.admit_token(&signed(&claims(), algorithm, &private)).is_ok(), "{algorithm:?}");
        // Everybody knows the public key: what is signed with it as if it were a secret proves nothing.
        let confused = signed(&claims(), Algorithm::HS256, &EncodingKey::from_secret(public.as_bytes()));
        assert_eq!(access.admit_token(&confused), Err(Refusal::BadToken));
        // Nor is it taken for a secret because it came without its armour.
        let bare: String = public.lines().filter(|line| !line.starts_with('-')).collect();
        let settings = Settings::parse_from(["test", "--auth", "token", "--auth-jwt-key", &bare]).access;
        let refused = settings.access("127.0.0.1:1".parse().unwrap()).unwrap_err().to_string();
        assert!(refused.contains("public key") && !refused.contains(&bare), "{refused}");
        let (_, foreign, _) = pair(of);
        assert_eq!(access.admit_token(&signed(&claims(), algorithm, &foreign)), Err(Refusal::BadToken));
    }
}
