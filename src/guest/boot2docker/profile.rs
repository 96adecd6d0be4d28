//! The guests that read a payload.

use std::fmt;

/// A family of guests that reads the payload in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// boot2docker (`automount`, later `autoformat`).
    Boot2docker,
    /// minikube (`minikube-automount`).
    Minikube,
    /// RancherOS (`auto-format.sh`), which copies the keys into its YAML configuration.
    Rancheros,
}

impl Profile {
    /// Every profile.
    pub const ALL: &'static [Profile] =
        &[Profile::Boot2docker, Profile::Minikube, Profile::Rancheros];

    /// The name that people and programs use.
    pub const fn name(self) -> &'static str {
        match self {
            Profile::Boot2docker => "boot2docker",
            Profile::Minikube => "minikube",
            Profile::Rancheros => "rancheros",
        }
    }

    /// How many bytes at the start of the disk the guest keeps before it formats the disk: a
    /// multiple of 512. It is the count of the `dd` in each guest's script.
    pub const fn budget_bytes(self) -> u64 {
        match self {
            Profile::Boot2docker | Profile::Minikube => 4096,
            Profile::Rancheros => 8192,
        }
    }

    /// The largest number of keys, if the guest has one: RancherOS pastes the whole file as one
    /// item of a YAML list, which a second line breaks.
    pub(super) const fn most_keys(self) -> Option<usize> {
        match self {
            Profile::Boot2docker | Profile::Minikube => None,
            Profile::Rancheros => Some(1),
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
