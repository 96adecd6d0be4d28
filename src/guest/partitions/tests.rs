use super::{Guid, Kind, Known};

#[test]
fn a_guid_is_written_as_everybody_writes_it() {
    let guid = Guid(0x0FC63DAF_8483_4772_8E79_3D69D8477DE4);
    assert_eq!(guid.to_string(), "0FC63DAF-8483-4772-8E79-3D69D8477DE4");
    assert_eq!(Kind::Gpt(guid).known(), Some(Known::Linux));
    assert_eq!(Kind::Gpt(Guid(1)).to_string(), "00000000-0000-0000-0000-000000000001");
    assert_eq!(
        (Kind::Mbr(0x82).to_string(), Kind::Mbr(0xA5).to_string()),
        ("swap".into(), "A5".into())
    );
}
