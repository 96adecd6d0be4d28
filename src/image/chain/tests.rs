//! What happens between the gate and the opening.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// What the gate admitted is what is opened: a link that takes the place of the file, or of a folder
/// on the way, in between is not followed.
#[test]
fn a_link_that_appears_behind_the_gate_is_not_followed() {
    let (cancel, trust, policy) = (Cancel::new(), Trust::default(), LockPolicy::default());
    for (swapped, locks) in
        [("in", None), ("in", Some(&policy)), ("in/base", None), ("in/base", Some(&policy))]
    {
        let dir = tempfile::TempDir::new().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["in", "secret"] {
            fs::create_dir(at(folder)).unwrap();
            fs::write(at(folder).join("base"), folder).unwrap();
        }
        let image = at("d.qcow2");
        let opening = Opening { trust: &trust, locks, cancel: &cancel };
        let admitted = trust.admit(&image, Named::BackingFile, b"in/base").unwrap();
        let open =
            || opening.open_named(&admitted, Named::BackingFile, &image, &mut Seen(Vec::new()));
        open().unwrap();
        fs::rename(at(swapped), at("gone")).unwrap();
        symlink(at(swapped.replace("in", "secret").as_str()), at(swapped)).unwrap();
        assert_eq!(fs::read(&admitted).unwrap(), b"secret");
        let error = open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotADisk, "{swapped}: {error}");
    }
}
