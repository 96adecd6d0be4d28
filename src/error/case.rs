//! What tells failures of one kind apart that have different remedies.

/// A failure that is advised on otherwise than the rest of its kind. For the hints alone: programs
/// branch on the kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    /// The content is, or may be, an image of a format that is not handled here.
    ForeignFormat,
    /// The disk has another format than the one that the caller asked for.
    AnotherFormat,
    /// What lies where a journal would is none of ours.
    NoJournal,
    /// The name in an image is none of a file.
    NoFileName,
    /// The file that is missing is one that an image names, not one that the caller does.
    NamedByImage,
    /// A chain has more images than may be.
    TooDeep,
    /// Nothing on the disk, or nothing that is known here, says what is free.
    UnknownContents,
    /// A disk would become smaller below others.
    ShrinksBelow,
    /// A disk would become larger below others.
    GrowsBelow,
    /// The header cannot be read, so nothing behind it can be found.
    BrokenHeader,
    /// The image says of itself that it is damaged.
    MarkedCorrupt,
    /// Persistent bitmaps are in the way.
    HasBitmaps,
    /// The image is encrypted.
    Encrypted,
    /// The guest's data lies in another file.
    ExternalData,
    /// A new disk was asked for without its size.
    NoSize,
    /// What should be a public key is a private one.
    PrivateKey,
    /// It is about the other image that the call names.
    OtherImage,
    /// What lies there is the journal of a disk that is gone.
    OrphanedJournal,
    /// What was done could not be told.
    Unheard,
    /// Something that the caller names is not there. The message says all of it: the cause is for
    /// programs.
    Absent,
}

#[cfg(test)]
impl Case {
    /// Every case.
    pub(crate) const ALL: &'static [Case] = &[
        Case::ForeignFormat,
        Case::AnotherFormat,
        Case::NoJournal,
        Case::NoFileName,
        Case::NamedByImage,
        Case::TooDeep,
        Case::UnknownContents,
        Case::ShrinksBelow,
        Case::GrowsBelow,
        Case::BrokenHeader,
        Case::MarkedCorrupt,
        Case::HasBitmaps,
        Case::Encrypted,
        Case::ExternalData,
        Case::NoSize,
        Case::PrivateKey,
        Case::OtherImage,
        Case::OrphanedJournal,
        Case::Unheard,
        Case::Absent,
    ];
}
