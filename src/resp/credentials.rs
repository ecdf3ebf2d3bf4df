//! With what pointsman itself logs in to nodes.

use std::fmt;
use std::sync::Arc;

/// User and password for AUTH and HELLO. Neither `Debug` nor anything else prints the password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// ACL user; `None` means the default user (`AUTH password`).
    pub username: Option<Arc<str>>,
    password: Arc<[u8]>,
}

impl Credentials {
    /// A password may hold any bytes.
    pub fn new(username: Option<Arc<str>>, password: impl Into<Arc<[u8]>>) -> Self {
        Credentials {
            username,
            password: password.into(),
        }
    }

    /// The bytes to send; not for logs or error messages.
    pub fn password(&self) -> &[u8] {
        &self.password
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("password", &"***")
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_never_printed() {
        let credentials = Credentials::new(Some("app".into()), b"geheim".to_vec());
        let printed = format!("{credentials:?}");
        assert!(printed.contains("app") && !printed.contains("geheim"));
        assert_eq!(credentials.password(), b"geheim");
    }
}
