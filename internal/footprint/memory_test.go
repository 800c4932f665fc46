package footprint

import (
	"math"
	"os"
	"runtime/debug"
	"testing"
	"testing/fstest"
)

// files makes a file system of paths and texts.
func files(pairs ...string) fstest.MapFS {
	root := make(fstest.MapFS)
	for i := 0; i < len(pairs); i += 2 {
		root[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return root
}

func TestLimitMemory(t *testing.T) {
	const gib = 1 << 30
	tests := []struct {
		name    string
		root    fstest.MapFS
		environ []string
		want    int64 // 0: no limit is set
	}{
		{"v2, in a container", files("proc/self/cgroup", "0::/\n", "sys/fs/cgroup/memory.max", "1073741824\n"), nil, gib / 100 * 80},
		{"v2, the least of group and ancestors", files(
			"proc/self/cgroup", "0::/kubepods/pod1/c1\n",
			"sys/fs/cgroup/kubepods/memory.max", "max\n",
			"sys/fs/cgroup/kubepods/pod1/memory.max", "1073741824\n",
			"sys/fs/cgroup/kubepods/pod1/c1/memory.max", "2147483648\n"), nil, gib / 100 * 80},
		{"v2 without a limit", files("proc/self/cgroup", "0::/\n", "sys/fs/cgroup/memory.max", "max\n"), nil, 0},
		{"v2, the root has no file", files("proc/self/cgroup", "0::/\n"), nil, 0},
		{"v1", files("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/x\n0::/\n",
			"sys/fs/cgroup/memory/x/memory.limit_in_bytes", "1073741824\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"), nil, gib / 100 * 80},
		{"v1 without a limit", files("proc/self/cgroup", "4:memory:/\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"), nil, 0},
		{"v1, the path is the host's", files("proc/self/cgroup", "4:memory:/kubepods/c1\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n"), nil, gib / 100 * 80},
		{"GOMEMLIMIT has the last word", files("proc/self/cgroup", "0::/\n", "sys/fs/cgroup/memory.max", "1073741824\n"),
			[]string{"GOMEMLIMIT=3GiB"}, 0},
		{"a limit too small to work with", files("proc/self/cgroup", "0::/\n", "sys/fs/cgroup/memory.max", "1048576\n"), nil, minMemory},
		{"no cgroups", files(), nil, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := debug.SetMemoryLimit(-1)
			defer debug.SetMemoryLimit(before)
			got, err := LimitMemory(tt.root, tt.environ)
			if err != nil || got != tt.want {
				t.Errorf("LimitMemory = %d, %v, want %d", got, err, tt.want)
			}
			want := tt.want
			if want == 0 {
				want = before
			}
			if inForce := debug.SetMemoryLimit(-1); inForce != want {
				t.Errorf("in force is %d, want %d", inForce, want)
			}
		})
	}
}

func TestLimitMemoryNamesTheFileItCannotRead(t *testing.T) {
	root := files("proc/self/cgroup", "0::/\n", "sys/fs/cgroup/memory.max", "lots\n")
	if _, err := LimitMemory(root, nil); err == nil || err.Error() != `parse /sys/fs/cgroup/memory.max: strconv.ParseInt: parsing "lots": invalid syntax` {
		t.Errorf("error = %v, want the file and what stands in it", err)
	}
}

// The real files of this machine can be read, whatever they say.
func TestLimitMemoryReadsThisMachine(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	got, err := LimitMemory(os.DirFS("/"), nil)
	if err != nil || got < 0 || got == math.MaxInt64 {
		t.Errorf("LimitMemory = %d, %v", got, err)
	}
}
