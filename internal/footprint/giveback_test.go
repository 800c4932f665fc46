package footprint

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

const smapsText = `00400000-00aa7000 r-xp 00000000 fe:00 123                               /bin/prog
Size:               6812 kB
Rss:                6716 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
00aa7000-01200000 r--p 006a7000 fe:00 123                               /bin/prog
Rss:                7500 kB
Anonymous:             0 kB
01200000-01280000 rw-p 00e00000 fe:00 123                               /bin/prog
Anonymous:             0 kB
01280000-01290000 r--p 00e80000 fe:00 123                               /bin/prog
Anonymous:             4 kB
c000000000-c000400000 rw-p 00000000 00:00 0
Anonymous:          1000 kB
7f0000000000-7f0000100000 r-xp 00000000 fe:00 124                       /lib/libc.so.6
Anonymous:             0 kB
7f0000200000-7f0000300000 r-xp 00000000 fe:00 125                       /bin/prog (deleted)
Anonymous:             0 kB
zz-1 r-xp 0 0 0 /bin/prog
Anonymous:             0 kB
`

// Only what is of the file, read-only and unchanged may be dropped: all else
// could not be had again.
func TestParsePages(t *testing.T) {
	want := []pages{{0x400000, 0xaa7000}, {0xaa7000, 0x1200000}}
	if got := parsePages(strings.NewReader(smapsText), "/bin/prog"); !slices.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

func FuzzParsePages(f *testing.F) {
	f.Add(smapsText)
	f.Add("1-2 r\nAnonymous: 0\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, p := range parsePages(strings.NewReader(text), "/bin/prog") {
			if p.end < p.start {
				t.Errorf("range %x", p)
			}
		}
	})
}

// Who is idle gives back at once and then more and more rarely, and collects once when
// ten seconds have passed; load begins all anew.
func TestCalm(t *testing.T) {
	var c calm
	for round := range 2 {
		var gives, anyway []int
		for i := 1; i <= 200; i++ {
			give, collect := c.look(false)
			if give {
				gives = append(gives, i)
			}
			if collect {
				anyway = append(anyway, i)
			}
		}
		if want := []int{1, 2, 4, 8, 16, 32, 64, 124, 184}; !slices.Equal(gives, want) {
			t.Errorf("round %d: gives back at looks %v, want %v", round, gives, want)
		}
		if want := []int{32}; !slices.Equal(anyway, want) {
			t.Errorf("round %d: collects in any case at looks %v, want %v", round, anyway, want)
		}
		if give, collect := c.look(true); give || collect {
			t.Error("gives back under load")
		}
	}
}

// The pages of this program go, and the program goes on.
func TestGiveBackPages(t *testing.T) {
	program := programPages()
	if len(program) == 0 {
		t.Fatal("no pages of this program were found")
	}
	before := residentFile(t)
	for _, p := range program {
		p.giveBack()
	}
	if after := residentFile(t); after > before*3/4 {
		t.Errorf("resident pages of files: %d before, %d after", before, after)
	}
}

// residentFile is how many pages of files count as this process' memory.
func residentFile(t *testing.T) int {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "RssFile:"); ok {
			var n int
			for _, d := range strings.TrimSuffix(strings.TrimSpace(rest), " kB") {
				n = n*10 + int(d-'0')
			}
			return n
		}
	}
	t.Fatal("no RssFile")
	return 0
}

func TestWorthFreeing(t *testing.T) {
	const mb = 1 << 20
	for _, tt := range []struct {
		name string
		h    heap
		want bool
	}{
		{"nothing to be had", heap{live: 10 * mb, objects: 10 * mb}, false},
		{"garbage", heap{live: 4 * mb, objects: 8 * mb}, true},
		{"free pages", heap{live: 4 * mb, objects: 4 * mb, free: 3 * mb}, true},
		{"little of much", heap{live: 1000 * mb, objects: 1100 * mb}, false},
		{"much of much", heap{live: 1000 * mb, objects: 1100 * mb, free: 300 * mb}, true},
		{"less than was alive", heap{live: 10 * mb, objects: 5 * mb, free: 1 * mb}, false},
	} {
		if got := tt.h.worthFreeing(); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	var h heap
	if h.read(); h.live+h.objects == 0 {
		t.Error("the runtime says nothing of the heap")
	}
}

func TestGiveBackEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	GiveBack(ctx)
}
