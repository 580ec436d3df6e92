//! Texts that may be a join token: what is read is what was written, and an error never shows
//! the text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgaa_agent::trust::JoinToken;

fuzz_target!(|text: &str| {
    match JoinToken::parse(text) {
        Ok(token) => {
            let written = token.reveal();
            assert!(
                text.trim().eq_ignore_ascii_case(&written),
                "another token was read"
            );
            let again = JoinToken::parse(&written).expect("a token's own text is a token");
            assert_eq!(again.id, token.id);
            assert!(
                again.secret.matches(&token.secret),
                "another secret was read"
            );
        }
        Err(error) => {
            let said = error.to_string();
            // Eight characters of a secret in a log would be too many.
            let shown = text.as_bytes().windows(8).any(|part| {
                part.iter().all(u8::is_ascii_hexdigit)
                    && said.as_bytes().windows(8).any(|said| said == part)
            });
            assert!(!shown, "the error shows part of the text");
        }
    }
});
