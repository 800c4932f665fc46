package images

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// libraryDirs are where a dynamic linker looks that was told of no others.
var libraryDirs = []string{
	"/lib64", "/usr/lib64", "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu",
	"/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/lib", "/usr/lib",
}

// Libraries lists what a program that is not static needs in its image: the dynamic
// linker and the shared libraries, each where this machine has it, theirs included.
// A static program needs none. Programs of ours are static; this is for those of
// others that a test runs beside them.
//
// Source: System V ABI, chapter 5, "Dynamic Linking" (PT_INTERP, DT_NEEDED).
func Libraries(program string) ([]File, error) {
	var files []File
	have := map[string]bool{} // by name
	for queue := []string{program}; len(queue) > 0; queue = queue[1:] {
		linker, needed, err := needs(queue[0])
		if err != nil {
			return nil, err
		}
		if linker != "" && !have[filepath.Base(linker)] {
			have[filepath.Base(linker)] = true
			files = append(files, File{Path: linker, Source: linker, Mode: 0o755})
		}
		for _, name := range needed {
			if have[name] {
				continue
			}
			have[name] = true
			at, err := findLibrary(name)
			if err != nil {
				return nil, fmt.Errorf("%s, for %s: %w", name, program, err)
			}
			files = append(files, File{Path: at, Source: at, Mode: 0o644})
			queue = append(queue, at)
		}
	}
	return files, nil
}

// needs reads from an ELF file which linker runs it and which libraries it names.
func needs(path string) (linker string, libraries []string, err error) {
	f, err := elf.Open(path)
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", path, err)
	}
	defer f.Close()
	i := slices.IndexFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
	if i >= 0 {
		raw, err := io.ReadAll(f.Progs[i].Open())
		if err != nil {
			return "", nil, fmt.Errorf("%s: PT_INTERP: %w", path, err)
		}
		linker = strings.TrimRight(string(raw), "\x00")
	}
	libraries, err = f.ImportedLibraries()
	if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		return "", nil, fmt.Errorf("%s: DT_NEEDED: %w", path, err)
	}
	return linker, libraries, nil
}

// findLibrary says where this machine has a shared library.
func findLibrary(name string) (string, error) {
	for _, dir := range libraryDirs {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("no such library in %s", strings.Join(libraryDirs, ", "))
}
