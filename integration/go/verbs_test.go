package vmdisk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestEveryVerb(t *testing.T) {
	client, path := genuine(t), filepath.Join(t.TempDir(), "m.qcow2")
	yes := true

	created := must(client.Create(background, CreateRequest{
		Path:   path,
		Size:   GiB(1),
		Layout: &LayoutOptions{ClusterSize: "128KiB", LazyRefcounts: &yes},
		Guest:  &GuestOptions{SSHKeys: []string{key}},
		Mode:   "0640",
	}))(t)
	if !created.Changed || created.VirtualSizeBytes != 1<<30 || created.Format != FormatQcow2 ||
		created.Guest == nil || created.Guest.Keys == nil || *created.Guest.Keys != 1 || created.Meta.Tool.Name != "vmdisk" {
		t.Errorf("%+v", created)
	}
	if file, err := os.Stat(path); err != nil || file.Mode().Perm() != 0o640 {
		t.Error(file, err)
	}

	info := must(client.Info(background, InfoRequest{Path: path}))(t)
	if info.Qcow2 == nil || info.Qcow2.ClusterSizeBytes != 128<<10 || !info.Qcow2.LazyRefcounts || info.Qcow2.Compat != CompatV3 || info.Meta.Protocol != "1" {
		t.Errorf("%+v", info)
	}

	for _, step := range []struct {
		request EnsureRequest
		action  Action
		size    uint64
	}{
		{EnsureRequest{Path: path, DockerMachineMB: 1024}, ActionUnchanged, 1 << 30},
		{EnsureRequest{Path: path, Size: MiB(2048)}, ActionGrown, 2 << 30},
		{EnsureRequest{Path: path + ".raw", Size: Bytes(1 << 20)}, ActionCreated, 1 << 20},
	} {
		report := must(client.Ensure(background, step.request))(t)
		if report.Action != step.action || report.VirtualSizeBytes != step.size || report.Changed != (step.action != ActionUnchanged) {
			t.Errorf("%+v", report)
		}
		if (report.Action == ActionGrown) != (report.OldVirtualSizeBytes == 1<<30) {
			t.Errorf("%+v", report)
		}
	}

	resized := must(client.Resize(background, ResizeRequest{Path: path, Size: "1.5G", Shrink: true}))(t)
	if resized.OldVirtualSizeBytes != 2<<30 || resized.VirtualSizeBytes != 3<<29 || !resized.Changed {
		t.Errorf("%+v", resized)
	}

	overlay := CreateRequest{Path: filepath.Join(filepath.Dir(path), "o.qcow2"), Backing: &BackingOptions{Path: path}}
	if created := must(client.Create(background, overlay))(t); created.Backing == nil || created.Backing.Name != "m.qcow2" {
		t.Errorf("%+v", created)
	}
	info = must(client.Info(background, InfoRequest{Path: overlay.Path, Chain: true}))(t)
	if len(info.Chain) != 1 || info.Chain[0].VirtualSizeBytes != 3<<29 {
		t.Errorf("%+v", info)
	}

	parts := must(client.Map(background, MapRequest{Path: path, MaxEntries: 1}))(t)
	if len(parts.Entries) != 1 || parts.Entries[0].Offset == nil || !parts.Entries[0].Data || parts.NextStartOffsetBytes != parts.Entries[0].Length {
		t.Errorf("%+v", parts)
	}
	figures := must(client.Measure(background, MeasureRequest{Path: path, Format: FormatRaw}))(t)
	if figures.RequiredBytes != 3<<29 || figures.BitmapsBytes != nil {
		t.Errorf("%+v", figures)
	}
	chain := must(client.Chain(background, ChainRequest{Path: path, Dependents: filepath.Dir(path)}))(t)
	if !chain.Complete || len(chain.Images) != 1 || chain.Dependents == nil || len(chain.Dependents.Found) != 1 || chain.Dependents.Found[0].NamedFor != NamedForBackingFile {
		t.Errorf("%+v", chain)
	}

	can := must(client.Capabilities(background, CapabilitiesRequest{Folder: filepath.Dir(path)}))(t)
	if can.Host == nil || can.Host.Locks == "" || can.Limits.MinVirtualSizeBytes != 512 || len(can.Formats) != 2 {
		t.Errorf("%+v", can)
	}
}

func TestChains(t *testing.T) {
	client, folder := genuine(t), t.TempDir()
	base, path, second := filepath.Join(folder, "base.qcow2"), filepath.Join(folder, "m.qcow2"), filepath.Join(folder, "second.qcow2")
	must(client.Create(background, CreateRequest{Path: base, Size: MiB(64)}))(t)
	must(client.Create(background, CreateRequest{Path: path, Size: MiB(128), Backing: &BackingOptions{Path: base}, Guest: &GuestOptions{SSHKeys: []string{key}, Overwrite: true}}))(t)

	if _, err := client.Commit(background, CommitRequest{Path: path}); !errors.Is(err, ErrBackingRefused) {
		t.Error(err)
	}
	kept := must(client.Commit(background, CommitRequest{Path: path, Into: base, Overlay: OverlayKeep}))(t)
	if !kept.Changed || kept.Overlay != OverlayKeep || kept.DataBytes == 0 || kept.BaseVirtualSizeBytes != 128<<20 {
		t.Errorf("%+v", kept)
	}
	cloned := must(client.Clone(background, CloneRequest{Path: path, Out: second, Method: CloneCopy}))(t)
	if cloned.Method != CloneCopy || cloned.Backing != "base.qcow2" || cloned.VirtualSizeBytes != 128<<20 {
		t.Errorf("%+v", cloned)
	}
	if _, err := client.Commit(background, CommitRequest{Path: path, Into: base}); !errors.Is(err, ErrHasDependents) {
		t.Error(err)
	}
	compacted := must(client.Compact(background, CompactRequest{Path: second, DryRun: true}))(t)
	if !compacted.DryRun || compacted.Changed || compacted.VirtualSizeBytes != 128<<20 {
		t.Errorf("%+v", compacted)
	}
	flat := must(client.Flatten(background, FlattenRequest{Path: second}))(t)
	if !flat.Changed || flat.OldBacking != "base.qcow2" {
		t.Errorf("%+v", flat)
	}
	emptied := must(client.Commit(background, CommitRequest{Path: path, Into: base}))(t)
	if emptied.Overlay != OverlayEmpty || emptied.FreedBytes == 0 {
		t.Errorf("%+v", emptied)
	}
}
func TestRebaseAndAmend(t *testing.T) {
	client, folder := genuine(t), t.TempDir()
	base, path := filepath.Join(folder, "base.qcow2"), filepath.Join(folder, "m.qcow2")
	must(client.Create(background, CreateRequest{Path: base, Size: MiB(64), Guest: &GuestOptions{SSHKeys: []string{key}}}))(t)
	must(client.Create(background, CreateRequest{Path: path, Backing: &BackingOptions{Path: base}}))(t)

	alone := must(client.Rebase(background, RebaseRequest{Path: path, NoBacking: true}))(t)
	if !alone.Changed || alone.OldBackingFile != "base.qcow2" || alone.Backing != nil || alone.CopiedBytes == 0 {
		t.Errorf("%+v", alone)
	}
	above := must(client.Rebase(background, RebaseRequest{Path: path, Backing: &BackingOptions{Path: base}}))(t)
	if above.Backing == nil || above.Backing.Name != "base.qcow2" || above.Backing.VirtualSizeBytes != 64<<20 {
		t.Errorf("%+v", above)
	}
	if _, err := client.Rebase(background, RebaseRequest{Path: path, Backing: &BackingOptions{Path: path}, Unsafe: true}); !errors.Is(err, ErrBackingCycle) {
		t.Error(err)
	}

	off := false
	request := AmendRequest{Path: path, ClusterSize: "128KiB", ExtendedL2: &off, RefcountBits: 32, DryRun: true}
	planned := must(client.Amend(background, request))(t)
	if planned.Changed || !planned.DryRun || !planned.Rewritten || len(planned.Amendments) != 2 {
		t.Errorf("%+v", planned)
	}
	request.DryRun = false
	amended := must(client.Amend(background, request))(t)
	if !amended.Changed || amended.Amendments[0] != (AmendmentReport{Option: "refcount_bits", From: "16", To: "32"}) {
		t.Errorf("%+v", amended)
	}
}

func TestDamagedDisks(t *testing.T) {
	client, folder := genuine(t), t.TempDir()
	path := filepath.Join(folder, "m.qcow2")
	must(client.Create(background, CreateRequest{Path: path, Size: MiB(64)}))(t)

	inspected := must(client.Inspect(background, InspectRequest{Path: path, Untrusted: true, MaxSize: MiB(64)}))(t)
	if inspected.Verdict != VerdictSafe || inspected.Header == nil || inspected.Header.VirtualSizeBytes != 64<<20 || len(inspected.Reasons) != 0 {
		t.Errorf("%+v", inspected)
	}
	inspected = must(client.Inspect(background, InspectRequest{Path: path, Untrusted: true, MaxSize: MiB(32)}))(t)
	if inspected.Verdict != VerdictUnsafe || len(inspected.Reasons) != 1 || inspected.Reasons[0].Rule != RuleOversizeDisk {
		t.Errorf("%+v", inspected)
	}

	checked := must(client.Check(background, CheckRequest{Path: path}))(t)
	if checked.Verdict != CheckClean || checked.Repair != nil || checked.TotalClusters != 1024 {
		t.Errorf("%+v", checked)
	}
	checked = must(client.Check(background, CheckRequest{Path: path, For: ReaderHyperkit}))(t)
	if checked.For == nil || checked.For.Reader != ReaderHyperkit || len(checked.For.Broken) != 2 || checked.For.Broken[0].Rule != ReaderRuleHeaderLength || checked.For.Broken[0].Effect != EffectRefused {
		t.Errorf("%+v", checked.For)
	}
	damage := exec.Command(program(t), "damage", path, "--kind", "beyond-file", "--seed", "1")
	if output, err := damage.CombinedOutput(); err != nil {
		t.Fatal(err, string(output))
	}
	checked = must(client.Check(background, CheckRequest{Path: path}))(t)
	if checked.Verdict != CheckCorrupt || len(checked.Findings) == 0 || checked.Findings[0].RepairableBy != RepairAll {
		t.Errorf("%+v", checked)
	}

	request := SalvageRequest{Path: path, Out: filepath.Join(folder, "out.raw")}
	salvaged := must(client.Salvage(background, request))(t)
	if salvaged.VirtualSizeBytes != 64<<20 || salvaged.LostBytes != 64<<10 || len(salvaged.Lost) != 1 || salvaged.Lost[0].Reason != LostBeyondFile {
		t.Errorf("%+v", salvaged)
	}
	if _, err := client.Salvage(background, request); !errors.Is(err, ErrExists) {
		t.Error(err)
	}
	request.IfExists = IfTakenReplace
	must(client.Salvage(background, request))(t)

	packed := ConvertRequest{Path: request.Out, Out: filepath.Join(folder, "packed.qcow2"), Compress: CompressionZlib, Level: 9, Verify: true}
	converted := must(client.Convert(background, packed))(t)
	if converted.Method != CopyMethodWritten || !converted.Verified || converted.Format != FormatQcow2 || converted.VirtualSizeBytes != 64<<20 {
		t.Errorf("%+v", converted)
	}
	if _, err := client.Convert(background, packed); !errors.Is(err, ErrExists) {
		t.Error(err)
	}
	compared := must(client.Compare(background, CompareRequest{Path: request.Out, Other: packed.Out}))(t)
	if !compared.Identical || compared.GuestOffsetBytes != nil || compared.Other.Format != FormatQcow2 {
		t.Errorf("%+v", compared)
	}
	ours := must(client.Hash(background, HashRequest{Path: request.Out}))(t)
	theirs := must(client.Hash(background, HashRequest{Path: packed.Out}))(t)
	if ours.Hash != theirs.Hash || ours.Algorithm != "vmdisk-hash-1" {
		t.Errorf("%+v is not %+v", ours, theirs)
	}

	mended := must(client.Check(background, CheckRequest{Path: path, Repair: RepairAll}))(t)
	if mended.Verdict != CheckClean || mended.Repair == nil || !mended.Repair.Changed || mended.Repair.UndoFile == "" {
		t.Fatalf("%+v", mended)
	}
	undo := UndoRepairRequest{UndoFile: mended.Repair.UndoFile}
	if undone := must(client.UndoRepair(background, undo))(t); !undone.Changed {
		t.Errorf("%+v", undone)
	}
	if again := must(client.Check(background, CheckRequest{Path: path}))(t); again.Corruptions != checked.Corruptions {
		t.Errorf("%+v", again)
	}
}

func TestTypedErrors(t *testing.T) {
	client, folder := genuine(t), t.TempDir()
	path := filepath.Join(folder, "m.qcow2")
	must(client.Create(background, CreateRequest{Path: path, Size: GiB(1)}))(t)
	create := func(request CreateRequest) error {
		_, err := client.Create(background, request)
		return err
	}
	resize := func(request ResizeRequest) error {
		_, err := client.Resize(background, request)
		return err
	}
	for _, test := range []struct {
		err  error
		kind Kind
	}{
		{create(CreateRequest{Path: path, Size: GiB(1)}), ErrExists},
		{create(CreateRequest{Path: path + "2", Size: "20000"}), ErrBadSize},
		{create(CreateRequest{Path: path + "2", Size: GiB(1 << 60)}), ErrBadSize},
		{create(CreateRequest{Path: path + "2", Size: "1G", DockerMachineMB: 1}), ErrIncompatibleOptions},
		{create(CreateRequest{Path: path + "2", Size: "1G", Backing: &BackingOptions{Path: "nope"}}), ErrBackingMissing},
		{create(CreateRequest{Path: path + "2", Size: "1G", Format: "vmdk"}), ErrBadRequest},
		{create(CreateRequest{Path: path + "\xff", Size: "1G"}), ErrBadRequest},
		{create(CreateRequest{Path: path + "2", Size: "1G", Guest: &GuestOptions{SSHKeys: []string{strings.Repeat("x", 1<<20)}}}), ErrBadRequest},
		{resize(ResizeRequest{Path: path, Size: MiB(512)}), ErrWouldShrink},
		{resize(ResizeRequest{Path: path + "2", Size: MiB(512)}), ErrNotFound},
	} {
		var failure *Error
		if !errors.Is(test.err, test.kind) || !errors.As(test.err, &failure) || failure.Kind != test.kind || failure.Changed || failure.Retriable {
			t.Errorf("%v: %+v", test.kind, test.err)
		}
		if errors.Is(test.err, ErrInternal) {
			t.Errorf("%v is taken for a defect", test.err)
		}
	}
	var failure *Error
	if err := resize(ResizeRequest{Path: path, Size: MiB(512)}); !errors.As(err, &failure) || failure.Path != path || failure.Hint == "" || !strings.Contains(err.Error(), failure.Hint) {
		t.Errorf("%+v", failure)
	}
	if err := create(CreateRequest{Path: path, Size: "x"}); !errors.As(err, &failure) || failure.Detail == nil || failure.Detail.Field != "size" {
		t.Errorf("%+v", failure)
	}
	expectFiles(t, folder, "m.qcow2")
}

func TestProgressComesInOrderAndBeforeTheReturn(t *testing.T) {
	client := genuine(t)
	var seen []Progress
	request := full(t.TempDir(), MiB(64))
	must(client.Create(background, request, WithProgress(func(p Progress) { seen = append(seen, p) })))(t)
	if len(seen) == 0 || seen[0].Total != 64<<20 || seen[0].Unit != "bytes" || seen[0].Phase == "" {
		t.Fatalf("%+v", seen)
	}
	for i := range seen[1:] {
		if seen[i+1].Phase == seen[i].Phase && seen[i+1].Done < seen[i].Done {
			t.Errorf("%+v", seen)
		}
	}
}

func TestCancelLeavesNothingAndTheSessionGoesOn(t *testing.T) {
	client, folder := genuine(t), t.TempDir()
	ctx, cancel := context.WithCancel(background)
	defer cancel()
	_, err := client.Create(ctx, full(folder, GiB(8)), WithProgress(func(p Progress) {
		if p.Done > 0 {
			cancel()
		}
	}))
	if !errors.Is(err, context.Canceled) || !errors.Is(err, ErrCancelled) {
		t.Fatal(err)
	}
	expectFiles(t, folder)
	session := client.session
	must(client.Capabilities(background, CapabilitiesRequest{}))(t)
	if client.session != session {
		t.Error("the program was started anew")
	}
}

func TestDeadline(t *testing.T) {
	client, folder := genuine(t), t.TempDir()
	ctx, cancel := context.WithTimeout(background, 200*time.Millisecond)
	defer cancel()
	_, err := client.Create(ctx, full(folder, GiB(8)))
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrCancelled) {
		t.Fatal(err)
	}
	expectFiles(t, folder)
	if _, err := client.Info(ctx, InfoRequest{Path: folder}); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrCancelled) {
		t.Error(err)
	}
}

func TestACallThatWaitsForItsTurnCanBeCancelled(t *testing.T) {
	client, folder := genuine(t), t.TempDir()
	first, stop := context.WithCancel(background)
	running, failed := make(chan struct{}), make(chan error)
	go func() {
		var once sync.Once
		_, err := client.Create(first, full(folder, GiB(8)), WithProgress(func(Progress) {
			once.Do(func() { close(running) })
		}))
		failed <- err
	}()
	<-running
	ctx, cancel := context.WithTimeout(background, 50*time.Millisecond)
	defer cancel()
	_, err := client.Create(ctx, CreateRequest{Path: filepath.Join(folder, "second"), Size: GiB(1)})
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrCancelled) {
		t.Error(err)
	}
	stop()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	expectFiles(t, folder)
}

func TestConcurrentCalls(t *testing.T) {
	client, folder := genuine(t), t.TempDir()
	var all sync.WaitGroup
	for i := 1; i <= 16; i++ {
		all.Add(1)
		go func(i uint64) {
			defer all.Done()
			path := filepath.Join(folder, fmt.Sprint(i))
			report, err := client.Ensure(background, EnsureRequest{Path: path, Size: MiB(i)}, WithProgress(func(Progress) {}))
			if err != nil || report.Path != path || report.VirtualSizeBytes != i<<20 {
				t.Error(report, err)
			}
		}(uint64(i))
	}
	all.Wait()
}

func TestClose(t *testing.T) {
	program(t)
	client := &Client{}
	if err := client.Close(); err != nil {
		t.Error("a client that never called:", err)
	}
	client = &Client{}
	must(client.Capabilities(background, CapabilitiesRequest{}))(t)
	session := client.session
	for i := 0; i < 2; i++ {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	}
	if !session.ended() || !session.command.ProcessState.Exited() {
		t.Error("the program still runs")
	}
	if _, err := client.Capabilities(background, CapabilitiesRequest{}); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestCloseStopsWhatTakesTooLong(t *testing.T) {
	program(t)
	client, folder := &Client{Grace: 1500 * time.Millisecond}, t.TempDir()
	var once sync.Once
	closed := make(chan error, 1)
	_, err := client.Create(background, full(folder, GiB(8)), WithProgress(func(Progress) {
		once.Do(func() { go func() { closed <- client.Close() }() })
	}))
	if !errors.Is(err, ErrCancelled) {
		t.Error(err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	expectFiles(t, folder)
}

const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f driver"

// full asks for a disk that takes its time.
func full(folder string, size Size) CreateRequest {
	layout := &LayoutOptions{Preallocation: PreallocationFull}
	return CreateRequest{Path: filepath.Join(folder, "full.raw"), Size: size, Layout: layout}
}

func expectFiles(t *testing.T, folder string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, entry := range entries {
		found = append(found, entry.Name())
	}
	if fmt.Sprint(found) != fmt.Sprint(names) {
		t.Errorf("the folder has %q, not %q", found, names)
	}
}

func TestSnapshotsComeAndGo(t *testing.T) {
	client, path := genuine(t), filepath.Join(t.TempDir(), "m.qcow2")
	must(client.Create(background, CreateRequest{Path: path, Size: "64MiB"}))(t)
	made := must(client.SnapshotCreate(background, SnapshotCreateRequest{Path: path, Name: "first"}))(t)
	if !made.Changed || made.Snapshot.Name != "first" || made.Snapshot.ID != "1" || made.Snapshot.DateSeconds == 0 {
		t.Fatalf("%+v", made)
	}
	if _, err := client.SnapshotCreate(background, SnapshotCreateRequest{Path: path, Name: "first"}); !errors.Is(err, ErrExists) {
		t.Error(err)
	}
	must(client.Resize(background, ResizeRequest{Path: path, Size: "96MiB"}))(t)
	listed := must(client.SnapshotList(background, SnapshotListRequest{Path: path}))(t)
	if len(listed.Snapshots) != 1 || listed.Snapshots[0].VirtualSizeBytes == nil || *listed.Snapshots[0].VirtualSizeBytes != 64<<20 {
		t.Fatalf("%+v", listed)
	}
	shown := must(client.SnapshotShow(background, SnapshotShowRequest{Path: path, Snapshot: "first"}))(t)
	if shown.ExclusiveBytes == nil || *shown.ExclusiveBytes == 0 || shown.Snapshot.VMStateBytes != 0 || shown.Snapshot.Instructions != nil {
		t.Errorf("%+v", shown)
	}
	applied := must(client.SnapshotApply(background, SnapshotApplyRequest{Path: path, Snapshot: "1"}))(t)
	if applied.OldVirtualSizeBytes != 96<<20 || applied.VirtualSizeBytes != 64<<20 {
		t.Errorf("%+v", applied)
	}
	deleted := must(client.SnapshotDelete(background, SnapshotDeleteRequest{Path: path, Snapshot: "first"}))(t)
	if deleted.Snapshot.ID != "1" || deleted.RefcountsRebuilt {
		t.Errorf("%+v", deleted)
	}
	if _, err := client.SnapshotDelete(background, SnapshotDeleteRequest{Path: path, Snapshot: "first"}); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}
func TestBitmaps(t *testing.T) {
	client, folder := genuine(t), t.TempDir()
	path := filepath.Join(folder, "d.qcow2")
	must(client.Create(background, CreateRequest{Path: path, Size: "64MiB"}))(t)
	added := must(client.BitmapAdd(background, BitmapAddRequest{Path: path, Name: "a", Granularity: "4KiB", Disabled: true}))(t)
	if !added.Changed || len(added.Bitmaps) != 1 || added.Bitmaps[0].GranularityBytes != 4096 || added.Bitmaps[0].Enabled {
		t.Errorf("%+v", added)
	}
	if _, err := client.BitmapAdd(background, BitmapAddRequest{Path: path, Name: "a"}); !errors.Is(err, ErrExists) {
		t.Error(err)
	}
	must(client.BitmapAdd(background, BitmapAddRequest{Path: path, Name: "b"}))(t)
	named := BitmapRequest{Path: path, Name: "a"}
	if enabled := must(client.BitmapEnable(background, named))(t); !enabled.Changed || !enabled.Bitmaps[0].Enabled {
		t.Errorf("%+v", enabled)
	}
	if disabled := must(client.BitmapDisable(background, named))(t); !disabled.Changed {
		t.Errorf("%+v", disabled)
	}
	if cleared := must(client.BitmapClear(background, named))(t); cleared.Changed {
		t.Errorf("%+v", cleared)
	}
	merged := must(client.BitmapMerge(background, BitmapMergeRequest{Path: path, Name: "a", From: []string{"b"}}))(t)
	if merged.Changed || len(merged.Bitmaps) != 2 {
		t.Errorf("%+v", merged)
	}
	listed := must(client.BitmapList(background, BitmapListRequest{Path: path, Count: true}))(t)
	if len(listed.Bitmaps) != 2 || listed.Bitmaps[1].DirtyBytes == nil || *listed.Bitmaps[1].DirtyBytes != 0 || listed.Lost != 0 {
		t.Errorf("%+v", listed)
	}
	info := must(client.Info(background, InfoRequest{Path: path, Qemu: true}))(t)
	if info.Qemu == nil || info.Qemu.FormatSpecific == nil || len(info.Qemu.FormatSpecific.Data.Bitmaps) != 2 || info.Qemu.VirtualSize != 64<<20 {
		t.Errorf("%+v", info.Qemu)
	}
	must(client.BitmapRemove(background, BitmapRemoveRequest{Path: path, Name: "a"}))(t)
	if _, err := client.BitmapClear(background, named); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if gone := must(client.BitmapRemove(background, BitmapRemoveRequest{Path: path, All: true}))(t); len(gone.Bitmaps) != 0 {
		t.Errorf("%+v", gone)
	}
}
