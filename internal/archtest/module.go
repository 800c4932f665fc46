package archtest

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Module is the parsed sources of one module.
type Module struct {
	Path     string // as go.mod says
	Packages []*Package
	fset     *token.FileSet
}

// Package is one directory with Go files.
type Package struct {
	Dir   string // from the module's root, with slashes; "" is the root
	Files []*File
}

// File is one Go file.
type File struct {
	Name      string // from the module's root, with slashes
	AST       *ast.File
	Lines     int
	Test      bool // its name ends in _test.go
	Generated bool // it says so
}

// Source is a file to parse: its name from the module's root, and its text.
type Source struct{ Name, Text string }

// Load parses all Go files below root, which holds go.mod. It leaves out
// testdata, directories that begin with a dot, and modules of their own.
func Load(root string) (*Module, error) {
	modfile, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return nil, err // os names the act and the path
	}
	modpath, err := modulePath(string(modfile))
	if err != nil {
		return nil, err
	}
	var sources []Source
	err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skipDir(root, name, d.Name())
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		text, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it was there a moment ago: an editor at work
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		sources = append(sources, Source{Name: filepath.ToSlash(rel), Text: string(text)})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read sources below %s: %w", root, err)
	}
	return Parse(modpath, sources)
}

// skipDir returns fs.SkipDir for directories that are no part of the module.
func skipDir(root, name, base string) error {
	if name == root {
		return nil
	}
	if base == "testdata" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
		return fs.SkipDir
	}
	if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil {
		return fs.SkipDir
	}
	return nil
}

// modulePath finds the module's path in the text of go.mod.
func modulePath(modfile string) (string, error) {
	for line := range strings.Lines(modfile) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "module "); ok {
			return strings.TrimSpace(rest), nil
		}
	}
	return "", errors.New("go.mod has no module line")
}

// Parse parses sources as the module modpath.
func Parse(modpath string, sources []Source) (*Module, error) {
	m := &Module{Path: modpath, fset: token.NewFileSet()}
	byDir := make(map[string]*Package)
	for _, src := range sources {
		tree, err := parser.ParseFile(m.fset, src.Name, src.Text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err // it names the place
		}
		dir := path.Dir(src.Name)
		if dir == "." {
			dir = ""
		}
		p := byDir[dir]
		if p == nil {
			p = &Package{Dir: dir}
			byDir[dir] = p
			m.Packages = append(m.Packages, p)
		}
		p.Files = append(p.Files, &File{
			Name: src.Name, AST: tree, Lines: strings.Count(src.Text, "\n"),
			Test: strings.HasSuffix(src.Name, "_test.go"), Generated: ast.IsGenerated(tree),
		})
	}
	slices.SortFunc(m.Packages, func(a, b *Package) int { return strings.Compare(a.Dir, b.Dir) })
	return m, nil
}

// Violation is one place that breaks one rule.
type Violation struct {
	Rule string // the rule's name
	File string // from the module's root
	Line int
	What string // what stands there
	Why  string // why that matters
}

// String returns the violation as a line that editors can jump to.
func (v Violation) String() string {
	return fmt.Sprintf("%s:%d: %s: %s; %s", v.File, v.Line, v.Rule, v.What, v.Why)
}

// Rule is one thing that holds for the whole module.
type Rule struct {
	Name  string
	Why   string
	check func(*Module, report)
}

// report notes a violation at pos of a file.
type report func(f *File, pos token.Pos, what string)

// Check applies rules to m. What stands on exceptions is left out; an exception
// that nothing needs is reported.
func Check(m *Module, rules []Rule, exceptions []Exception) []Violation {
	var found []Violation
	used := make([]bool, len(exceptions))
	for _, rule := range rules {
		rule.check(m, func(f *File, pos token.Pos, what string) {
			v := Violation{Rule: rule.Name, File: f.Name, What: what, Why: rule.Why}
			if pos.IsValid() {
				v.Line = m.fset.Position(pos).Line
			}
			for i, e := range exceptions {
				if e.covers(v) {
					used[i] = true
					return
				}
			}
			found = append(found, v)
		})
	}
	for i, e := range exceptions {
		if !used[i] && applies(rules, e.Rule) {
			found = append(found, Violation{
				Rule: e.Rule, File: e.File, What: "its exception is not needed any more",
				Why: "a list of exceptions that only grows says nothing",
			})
		}
	}
	return found
}

// applies tells whether name is one of rules.
func applies(rules []Rule, name string) bool {
	return slices.ContainsFunc(rules, func(r Rule) bool { return r.Name == name })
}

// imports returns what f imports, as paths and where.
func (f *File) imports() []imported {
	var all []imported
	for _, spec := range f.AST.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			all = append(all, imported{p, spec.Pos()})
		}
	}
	return all
}

// imported is one import.
type imported struct {
	path string
	pos  token.Pos
}

// product calls visit for each file that is neither test nor generated.
func (m *Module) product(visit func(*Package, *File)) {
	for _, p := range m.Packages {
		for _, f := range p.Files {
			if !f.Test && !f.Generated {
				visit(p, f)
			}
		}
	}
}

// main tells whether p is a program.
func (p *Package) main() bool { return len(p.Files) > 0 && p.Files[0].AST.Name.Name == "main" }
