//! Sealing and opening: AES-256-GCM (NIST SP 800-38D).
//!
//! A sealed value is a nonce of 12 bytes, the ciphertext, and a tag of 16 bytes. Nonces are random. Two equal
//! ones under one key would give away what they sealed, so a key may seal 2^32 values, where the chance of that is
//! still under 2^-32 (the same publication, 8.3); then another key must take its place. Bound to a value
//! is the place that it stands in: copied to another it does not open.
//!
//! Absent here: SQL.

use std::{borrow::Cow, fmt};

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use secrecy::ExposeSecret;
use uuid::Uuid;

use crate::config::{ENCRYPTION_KEYS, EncryptionSettings, KeyId};

/// Bytes that a sealed value is longer by.
pub const OVERHEAD: usize = NONCE_LEN + 16;

/// Says what is bound to a value, so that another version of ragway may bind something else.
const BINDING: &[u8] = b"ragway 1";

/// Known, so that it tells whether a key is the one it is taken for.
const PROOF: &[u8] = b"ragway";

/// Where a value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub tenant: Uuid,
    pub row: Uuid,
    /// With its table: `documents.content`.
    pub column: &'static str,
    /// Tells rows apart that belong to one thing; else 0.
    pub part: i64,
}

/// The keys that values are opened with, and the one that they are sealed with.
pub struct Keyring {
    keys: Vec<(KeyId, LessSafeKey)>,
    /// None: values are written as they are.
    writing: Option<KeyId>,
    random: SystemRandom,
}

/// Why a value cannot be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The keyring lacks it.
    #[error(
        "the database has rows that are sealed with the encryption key {0}, or may be until \
         `ragway rekey --retire`, and this gateway does not have it: add `{0}:…` to {ENCRYPTION_KEYS} (behind the first, to open with it only) and start again"
    )]
    MissingKey(KeyId),
    /// Not what was sealed for this place with this key.
    #[error(
        "{} of {} does not open with the encryption key {key}: the row was changed or copied from another one or \
         another tenant; restore it from a backup", .place.column, .place.row
    )]
    Damaged { key: KeyId, place: Place },
    /// Another key goes by this id.
    #[error(
        "{ENCRYPTION_KEYS}: the key {0} is not the one that the database's rows are sealed with under this id: \
         give that one, or the new one another id"
    )]
    WrongKey(KeyId),
    /// `ragway rekey --retire` has ended its use.
    #[error(
        "`ragway rekey --retire` has retired the encryption key that this gateway writes with: start it again with the keys \
         in {ENCRYPTION_KEYS} that it had"
    )]
    Retired,
    /// The role sees no rows.
    #[error("`ragway rekey` needs the role that owns the tables: give it in DATABASE_ADMIN_URL")]
    NotOwner,
    /// A row that lacks its text.
    #[error("{} of {} is neither there nor sealed: restore it from a backup", .0.column, .0.row)]
    Absent(Place),
    /// The system gave no random numbers, or the value is too long (64 GiB).
    #[error("nothing can be sealed: the system gives no random numbers, or the value is too long")]
    NotSealed,
}

impl Keyring {
    pub fn new(settings: &EncryptionSettings) -> Self {
        let key = |(id, key): &(KeyId, secrecy::SecretSlice<u8>)| {
            // The settings hold keys of the right length only.
            UnboundKey::new(&AES_256_GCM, key.expose_secret()).ok().map(|key| (*id, LessSafeKey::new(key)))
        };
        Self {
            keys: settings.keys.iter().filter_map(key).collect(),
            writing: settings.writing,
            random: SystemRandom::new(),
        }
    }

    /// The key that values are sealed with; none: they are written as they are.
    pub fn writing(&self) -> Option<KeyId> {
        self.writing
    }

    /// A value for a column that holds sealed ones; none where values are written as they are.
    pub fn seal(&self, place: Place, plain: &[u8]) -> Result<Option<Vec<u8>>, SealError> {
        let Some(id) = self.writing else { return Ok(None) };
        let key = self.key(id)?;
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| SealError::NotSealed)?;
        let mut sealed = Vec::with_capacity(plain.len() + OVERHEAD);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key
            .seal_in_place_separate_tag(nonce, Aad::from(place.bound()), &mut sealed[NONCE_LEN..])
            .map_err(|_| SealError::NotSealed)?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(Some(sealed))
    }

    /// A value for a column that holds the one or the other.
    pub fn seal_or_keep<'a>(&self, place: Place, plain: &'a [u8]) -> Result<Cow<'a, [u8]>, SealError> {
        Ok(self.seal(place, plain)?.map_or(Cow::Borrowed(plain), Cow::Owned))
    }

    /// What [`Keyring::seal`] made for this place.
    pub fn open(&self, key: KeyId, place: Place, mut sealed: Vec<u8>) -> Result<Vec<u8>, SealError> {
        let damaged = SealError::Damaged { key, place };
        let opener = self.key(key)?;
        let Some((nonce, _)) = sealed.split_first_chunk::<NONCE_LEN>() else { return Err(damaged) };
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = opener
            .open_within(nonce, Aad::from(place.bound()), &mut sealed, NONCE_LEN..)
            .map_err(|_| damaged)?
            .len();
        sealed.truncate(opened);
        Ok(sealed)
    }

    /// What [`Keyring::seal_or_keep`] made for this place.
    pub fn open_or_keep(
        &self,
        key: Option<KeyId>,
        place: Place,
        value: Vec<u8>,
    ) -> Result<Vec<u8>, SealError> {
        match key {
            Some(key) => self.open(key, place, value),
            None => Ok(value),
        }
    }

    /// Something by which [`Keyring::check`] knows the key again that values are sealed with.
    pub fn proof(&self, key: KeyId) -> Result<Option<Vec<u8>>, SealError> {
        self.seal(Place::of_proof(key), PROOF)
    }

    /// Whether the key of this id is there, and is the one that made the proof.
    pub fn check(&self, key: KeyId, proof: Vec<u8>) -> Result<(), SealError> {
        match self.open(key, Place::of_proof(key), proof) {
            Ok(proof) if proof == PROOF => Ok(()),
            Ok(_) | Err(SealError::Damaged { .. }) => Err(SealError::WrongKey(key)),
            Err(error) => Err(error),
        }
    }

    fn key(&self, id: KeyId) -> Result<&LessSafeKey, SealError> {
        let found = self.keys.iter().find(|(known, _)| *known == id);
        found.map(|(_, key)| key).ok_or(SealError::MissingKey(id))
    }
}

impl Place {
    fn bound(&self) -> Vec<u8> {
        let Self { tenant, row, column, part } = self;
        [BINDING, tenant.as_bytes(), row.as_bytes(), &part.to_be_bytes(), column.as_bytes()].concat()
    }

    fn of_proof(key: KeyId) -> Self {
        Self { tenant: Uuid::nil(), row: Uuid::nil(), column: "encryption_keys.proof", part: key.into() }
    }
}

impl fmt::Debug for Keyring {
    /// Which keys there are, not what they are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<KeyId> = self.keys.iter().map(|(id, _)| *id).collect();
        f.debug_struct("Keyring").field("keys", &ids).field("writing", &self.writing).finish()
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

    use super::*;

    fn keyring(keys: &[(KeyId, u8)]) -> Keyring {
        let given: Vec<String> =
            keys.iter().map(|(id, byte)| format!("{id}:{}", BASE64.encode([*byte; 32]))).collect();
        Keyring::new(&EncryptionSettings::parse(&given.join(",")).unwrap())
    }

    const PLACE: Place =
        Place { tenant: Uuid::from_u128(1), row: Uuid::from_u128(2), column: "documents.content", part: 0 };

    #[test]
    fn what_is_sealed_opens_in_its_place_only() {
        let keys = keyring(&[(1, 7)]);
        let sealed = keys.seal(PLACE, b"a text").unwrap().unwrap();
        assert_eq!(sealed.len(), 6 + OVERHEAD);
        assert!(!sealed.windows(6).any(|window| window == b"a text"));
        assert_ne!(keys.seal(PLACE, b"a text").unwrap().unwrap(), sealed);
        assert_eq!(keys.open(1, PLACE, sealed.clone()).unwrap(), b"a text");
        for place in [
            Place { tenant: Uuid::from_u128(3), ..PLACE },
            Place { row: Uuid::from_u128(3), ..PLACE },
            Place { column: "documents.image", ..PLACE },
            Place { part: 1, ..PLACE },
        ] {
            assert_eq!(keys.open(1, place, sealed.clone()), Err(SealError::Damaged { key: 1, place }));
        }
    }

    #[test]
    fn what_was_changed_does_not_open() {
        let keys = keyring(&[(1, 7)]);
        let sealed = keys.seal(PLACE, b"").unwrap().unwrap();
        assert_eq!(keys.open(1, PLACE, sealed.clone()).unwrap(), b"");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(keys.open(1, PLACE, changed).is_err(), "{at}");
            assert!(keys.open(1, PLACE, sealed[..at].to_vec()).is_err(), "{at}");
        }
    }

    #[test]
    fn the_first_key_seals_and_each_opens() {
        let (old, both, new) = (keyring(&[(1, 7)]), keyring(&[(2, 8), (1, 7)]), keyring(&[(2, 8)]));
        let by_old = old.seal(PLACE, b"text").unwrap().unwrap();
        let by_new = both.seal(PLACE, b"text").unwrap().unwrap();
        assert_eq!(both.open(1, PLACE, by_old.clone()).unwrap(), b"text");
        assert_eq!(new.open(2, PLACE, by_new).unwrap(), b"text");
        let missing = new.open(1, PLACE, by_old.clone()).unwrap_err();
        assert_eq!(missing, SealError::MissingKey(1));
        assert!(missing.to_string().contains("`1:…` to RAGWAY_ENCRYPTION_KEYS"), "{missing}");
        assert!(keyring(&[(1, 8)]).open(1, PLACE, by_old).is_err());
    }

    #[test]
    fn without_a_key_values_stay_as_they_are() {
        let none = Keyring::new(&EncryptionSettings::default());
        assert_eq!(none.seal(PLACE, b"text").unwrap(), None);
        assert!(matches!(none.seal_or_keep(PLACE, b"text").unwrap(), Cow::Borrowed(b"text")));
        assert_eq!(none.open_or_keep(None, PLACE, b"text".to_vec()).unwrap(), b"text");
    }

    #[test]
    fn another_key_under_the_same_id_is_told() {
        let proof = keyring(&[(1, 7)]).proof(1).unwrap().unwrap();
        assert_eq!(keyring(&[(2, 8), (1, 7)]).check(1, proof.clone()), Ok(()));
        assert_eq!(keyring(&[(1, 8)]).check(1, proof.clone()), Err(SealError::WrongKey(1)));
        assert!(matches!(keyring(&[(2, 7)]).check(1, proof), Err(SealError::MissingKey(1))));
    }

    #[test]
    fn keys_are_not_shown() {
        assert_eq!(format!("{:?}", keyring(&[(2, 8), (1, 7)])), "Keyring { keys: [2, 1], writing: Some(2) }");
    }
}
