//! The cryptography behind every TLS connection of this process.

/// Makes it `ring`'s.
///
/// `reqwest` is built without a provider of its own; call this before a client is
/// built. Calling it again does nothing.
pub fn install() {
    // An error says that a provider is already installed, which is what is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
