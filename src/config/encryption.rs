//! Keys that texts of documents are sealed with in the database.

use std::fs;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use secrecy::SecretSlice;

use super::ConfigError;

/// The variable with the keys; with `_FILE` behind it, the one with the path of a file of them.
pub const ENCRYPTION_KEYS: &str = "RAGWAY_ENCRYPTION_KEYS";

/// The number that stands for a key in the database; 1 or more.
pub type KeyId = i32;

/// Bytes of a key: those of AES-256.
const KEY_BYTES: usize = 32;

/// Stands first where texts are to be written unsealed, and only opened.
const PLAIN: &str = "plain";

/// Which keys open texts, and which one seals them. By default none.
#[derive(Debug, Clone, Default)]
pub struct EncryptionSettings {
    /// Of 32 bytes each.
    pub keys: Vec<(KeyId, SecretSlice<u8>)>,
    /// One of them. Absent: texts are written as they are.
    pub writing: Option<KeyId>,
}

impl EncryptionSettings {
    /// Reads `2:BASE64,1:BASE64`, also with lines instead of commas. The first key seals, unless `plain`
    /// stands before it; all of them open.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        // What cannot be read may be a key: it is not shown.
        let refused = |place: usize, what: &str| {
            let told = format!(
                "the entry {} {what}; `openssl rand -base64 32` makes a key, and ID:KEY an entry",
                place + 1
            );
            ConfigError::new(ENCRYPTION_KEYS, told)
        };
        let mut settings = Self::default();
        let mut sealing = true;
        let entries = text.split([',', '\n']).map(str::trim).filter(|entry| !entry.is_empty());
        for (place, entry) in entries.enumerate() {
            if place == 0 && entry == PLAIN {
                sealing = false;
                continue;
            }
            let (id, key) = entry.split_once(':').ok_or_else(|| refused(place, "has no `:`"))?;
            let id = id.parse().ok().filter(|id: &KeyId| *id > 0);
            let id = id.ok_or_else(|| refused(place, "does not begin with a number from 1 on"))?;
            let key = SecretSlice::from(BASE64.decode(key).map_err(|_| refused(place, "holds no base64"))?);
            if secrecy::ExposeSecret::expose_secret(&key).len() != KEY_BYTES {
                return Err(refused(place, "is not a key of 32 bytes"));
            }
            if settings.keys.iter().any(|(known, _)| *known == id) {
                return Err(refused(place, "has the id of another"));
            }
            settings.writing = settings.writing.or(sealing.then_some(id));
            settings.keys.push((id, key));
        }
        Ok(settings)
    }
}

/// Reads the variable, or the file that the other names.
pub(super) fn encryption(get: &dyn Fn(&str) -> Option<String>) -> Result<EncryptionSettings, ConfigError> {
    let file_variable = format!("{ENCRYPTION_KEYS}_FILE");
    let keys = match (get(ENCRYPTION_KEYS), get(&file_variable)) {
        (None, None) => return Ok(EncryptionSettings::default()),
        (Some(_), Some(_)) => {
            let told = format!("is set beside {ENCRYPTION_KEYS}; set one of both");
            return Err(ConfigError::new(file_variable, told));
        }
        (Some(keys), None) => keys,
        (None, Some(path)) => fs::read_to_string(&path)
            .map_err(|error| ConfigError::new(file_variable, format!("`{path}` cannot be read: {error}")))?,
    };
    let settings = EncryptionSettings::parse(&keys)?;
    if settings.keys.is_empty() {
        return Err(ConfigError::new(
            ENCRYPTION_KEYS,
            "holds no key; unset it where nothing is to be sealed",
        ));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    fn of(variables: &[(&str, &str)]) -> Result<EncryptionSettings, String> {
        let get = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        encryption(&get).map_err(|error| error.to_string())
    }

    fn ids(settings: &EncryptionSettings) -> (Option<KeyId>, Vec<KeyId>) {
        (settings.writing, settings.keys.iter().map(|(id, _)| *id).collect())
    }

    #[test]
    fn the_first_key_seals_unless_plain_stands_before_it() {
        assert_eq!(ids(&of(&[]).unwrap()), (None, vec![]));
        let both = format!("2:{KEY}, 1:{KEY}");
        assert_eq!(ids(&of(&[(ENCRYPTION_KEYS, &both)]).unwrap()), (Some(2), vec![2, 1]));
        let plain = format!("plain,2:{KEY}");
        assert_eq!(ids(&of(&[(ENCRYPTION_KEYS, &plain)]).unwrap()), (None, vec![2]));
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), format!("7:{KEY}\n1:{KEY}\n")).unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(ids(&of(&[("RAGWAY_ENCRYPTION_KEYS_FILE", path)]).unwrap()), (Some(7), vec![7, 1]));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_no_key_is_shown() {
        for (keys, told) in [
            (KEY, "the entry 1 has no `:`"),
            (&format!("0:{KEY}"), "the entry 1 does not begin with a number from 1 on"),
            (&format!("1:{KEY},plain"), "the entry 2 has no `:`"),
            (&format!("1:{KEY},2:sekret*"), "the entry 2 holds no base64"),
            ("1:c2VrcmV0", "the entry 1 is not a key of 32 bytes"),
            (&format!("1:{KEY},1:{KEY}"), "the entry 2 has the id of another"),
            (" , ", "holds no key"),
        ] {
            let error = of(&[(ENCRYPTION_KEYS, keys)]).unwrap_err();
            assert!(error.contains(told) && error.starts_with(ENCRYPTION_KEYS), "{error}");
            assert!(!error.contains(KEY) && !error.contains("sekret") && !error.contains("c2Vr"), "{error}");
        }
        let both = [(ENCRYPTION_KEYS, KEY), ("RAGWAY_ENCRYPTION_KEYS_FILE", "/keys")];
        assert!(of(&both).unwrap_err().contains("set one of both"));
        assert!(of(&both[1..]).unwrap_err().contains("`/keys` cannot be read"));
        let shown = format!("{:?}", of(&[(ENCRYPTION_KEYS, &format!("1:{KEY}"))]).unwrap());
        assert!(!shown.contains("AAAA") && !shown.contains("0, 0"), "{shown}");
    }
}
