//! What a caller may do.

use std::{fmt, str::FromStr};

/// One thing that a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Vectors of what is sent.
    Embedding,
    /// Reading what is stored.
    Search,
    /// Questions, which a language model may answer.
    Ask,
    /// Storing and deleting documents.
    Ingest,
    /// Collections, re-embedding, and what everybody used. Does not include the others.
    Admin,
}

impl Permission {
    /// All of them.
    pub const ALL: [Permission; 5] =
        [Permission::Embedding, Permission::Search, Permission::Ask, Permission::Ingest, Permission::Admin];

    /// As it stands in tokens, keys and errors.
    pub fn name(self) -> &'static str {
        match self {
            Permission::Embedding => "embedding",
            Permission::Search => "search",
            Permission::Ask => "ask",
            Permission::Ingest => "ingest",
            Permission::Admin => "admin",
        }
    }
}

impl FromStr for Permission {
    type Err = UnknownPermission;

    fn from_str(name: &str) -> Result<Self, UnknownPermission> {
        let found = Permission::ALL.into_iter().find(|permission| permission.name() == name);
        found.ok_or_else(|| UnknownPermission(name.to_owned()))
    }
}

/// No permission has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no permission; there are embedding, search, ask, ingest and admin")]
pub struct UnknownPermission(String);

/// A set of permissions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Permissions(u8);

impl Permissions {
    /// Every permission that there is.
    pub fn all() -> Self {
        Permission::ALL.into_iter().collect()
    }

    /// Those of these names; what else is among them belongs to other programs.
    pub fn known_of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        names.into_iter().filter_map(|name| name.parse().ok()).collect()
    }

    pub fn contains(self, permission: Permission) -> bool {
        self.0 & bit(permission) != 0
    }

    /// In the order of [`Permission::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.into_iter().filter(move |permission| self.contains(*permission))
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        Self(permissions.into_iter().fold(0, |bits, permission| bits | bit(permission)))
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.iter().map(Permission::name).collect();
        f.write_str(&names.join(", "))
    }
}

fn bit(permission: Permission) -> u8 {
    1 << permission as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in_and_nothing_else() {
        let some = Permissions::known_of(["search", "openid", "admin", "Ask"]);
        assert_eq!(some.to_string(), "search, admin");
        for permission in Permission::ALL {
            let wanted = [Permission::Search, Permission::Admin].contains(&permission);
            assert_eq!(some.contains(permission), wanted, "{permission:?}");
            assert!(Permissions::all().contains(permission));
            assert!(!Permissions::default().contains(permission));
            assert_eq!(permission.name().parse(), Ok(permission));
        }
    }
}
