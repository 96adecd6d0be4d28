# A formula for Homebrew. `make formula URL=...` fills in where the archive of a release will be, makes
# that archive of this commit, and fills in its checksum: target/vmdisk.rb goes to a tap, the archive
# to the address.
class Vmdisk < Formula
  desc "Creates, grows, checks and repairs the disks of local virtual machines"
  url "@URL@"
  version "@VERSION@"
  sha256 "@SHA256@"
  license any_of: ["MIT", "Apache-2.0"]

  depends_on "rust" => :build

  def install
    system "make", "install", "PREFIX=#{prefix}"
  end

  test do
    system bin/"vmdisk", "create", "m.qcow2", "--size", "1GiB", "--guest", "none"
    system bin/"vmdisk", "check", "m.qcow2"
    assert_match version.to_s, shell_output("#{bin}/vmdisk --version")
  end
end
