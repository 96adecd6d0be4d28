//! [`Owner`]: whom a new file is given to.

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User};

use crate::error::{Error, ErrorKind, Result};

/// A user, and a group if one was named, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user's number.
    pub user: u32,
    /// The group's number; without it the file keeps the group that it was made with.
    pub group: Option<u32>,
}

impl Owner {
    /// Reads `user` or `user:group`; each may be a name or a number, and a name is looked for
    /// first, as chown(1) does.
    ///
    /// # Errors
    /// [`ErrorKind::BadRequest`] when there is no such user or group.
    pub fn parse(text: &str) -> Result<Self> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let find_user = |name: &str| Ok(User::from_name(name)?.map(|user| user.uid.as_raw()));
        let find_group = |name: &str| Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()));
        let user = number("user", user, find_user)?;
        let group = group.map(|group| number("group", group, find_group)).transpose()?;
        Ok(Owner { user, group })
    }

    /// The user and group that this process acts as.
    pub fn current() -> Self {
        Owner { user: Uid::effective().as_raw(), group: Some(Gid::effective().as_raw()) }
    }
}

fn number(what: &str, text: &str, find: impl Fn(&str) -> nix::Result<Option<u32>>) -> Result<u32> {
    if text.is_empty() {
        let message = format!("owner names no {what}: write user or user:group");
        return Err(Error::new(ErrorKind::BadRequest, message));
    }
    let by_name = match find(text) {
        // Where there are no accounts at all, glibc says that in one of these ways (getpwnam(3)).
        Err(Errno::ENOENT | Errno::ESRCH | Errno::EBADF | Errno::EPERM) => None,
        found => found.map_err(|errno| {
            let message = format!("cannot look up {what} '{text}'");
            Error::new(ErrorKind::Io, message).with_source(std::io::Error::from(errno))
        })?,
    };
    // The largest number means "no change" to the system.
    let by_number = || text.parse().ok().filter(|&number| number != u32::MAX);
    by_name.or_else(by_number).ok_or_else(|| {
        Error::new(ErrorKind::BadRequest, format!("there is no {what} '{text}' on this system"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_names_or_numbers() {
        assert_eq!(Owner::parse("root").unwrap(), Owner { user: 0, group: None });
        assert_eq!(Owner::parse("1000:50").unwrap(), Owner { user: 1000, group: Some(50) });
        assert_eq!(Owner::parse("root:0").unwrap(), Owner { user: 0, group: Some(0) });
        let nobody = |_: &str| Err(Errno::ENOENT);
        assert_eq!(number("user", "7", nobody).unwrap(), 7);
        assert!(number("user", "root", nobody).is_err());
        for text in ["", ":", "root:", ":root", "no such user", "-1", "4294967295", "root:0:0"] {
            let error = Owner::parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadRequest, "{text}: {error}");
        }
    }
}
