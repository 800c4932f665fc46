package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Every scenario of the list has its test, under the name that the list says.
func TestScenarios(t *testing.T) {
	root := filepath.Join("..", "..")
	list, err := os.ReadFile(filepath.Join(root, "e2e", "scenarios.txt"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i, line := range strings.Split(string(list), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, where, _ := strings.Cut(line, ": ")
		if err := findTest(root, where); err != nil || seen[name] {
			t.Errorf("scenarios.txt:%d: %s: %v, listed before: %v", i+1, name, err, seen[name])
		}
		seen[name] = true
	}
	if len(seen) < 100 {
		t.Errorf("%d scenarios: the list is not complete", len(seen))
	}
}

// What findTest says of a test, a subtest, a package that does not exist.
func TestScenariosThatAreMissed(t *testing.T) {
	root := filepath.Join("..", "..")
	for where, ok := range map[string]bool{
		"internal/archtest TestScenarios":                 true,
		"internal/archtest TestScenario":                  false,
		"internal/archtest findTest":                      false,
		"internal/archtest TestPlanted/a sleep elsewhere": true,
		"internal/archtest TestPlanted/no such row":       false,
		"internal/nowhere TestScenarios":                  false,
		"e2e/cases case waypoint-rollout":                 true,
		"e2e/cases case no-such-case":                     false,
		"e2e/cases case ":                                 false,
		"internal/archtest case waypoint-rollout":         false,
		"": false,
	} {
		if err := findTest(root, where); (err == nil) != ok {
			t.Errorf("%q: %v, want found = %v", where, err, ok)
		}
	}
}

// findTest looks for "directory Test" or "directory Test/subtest" below root, or for
// "directory case name". The name of a subtest has to stand within the test.
func findTest(root, where string) error {
	dir, test, _ := strings.Cut(where, " ")
	if name, ok := strings.CutPrefix(test, "case "); ok {
		return findCase(filepath.Join(root, dir), name)
	}
	test, sub, isSub := strings.Cut(test, "/")
	files, err := filepath.Glob(filepath.Join(root, dir, "*_test.go"))
	if err != nil {
		return err
	}
	if !strings.HasPrefix(test, "Test") {
		return fmt.Errorf("%q names no test", where)
	}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || fn.Name.Name != test {
				continue
			}
			if isSub && !says(fn, sub) {
				return fmt.Errorf("%s has no subtest %q", test, sub)
			}
			return nil
		}
	}
	return fmt.Errorf("%s has no %s", dir, test)
}

// findCase looks for a case of that name in the lists of cases that run on a real
// Kubernetes: functions that return a []Case.
func findCase(dir, name string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return err
	}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if ok && strings.HasSuffix(fn.Name.Name, "Cases") && hasCase(fn, name) {
				return nil
			}
		}
	}
	return fmt.Errorf("%s has no case %q", dir, name)
}

// hasCase reports whether a case of that name is made within fn.
func hasCase(fn *ast.FuncDecl, name string) (found bool) {
	ast.Inspect(fn, func(n ast.Node) bool {
		if field, ok := n.(*ast.KeyValueExpr); ok {
			key, isName := field.Key.(*ast.Ident)
			found = found || isName && key.Name == "Name" && says(field.Value, name)
		}
		return !found
	})
	return found && name != ""
}

// says reports whether text is one of the string literals within n.
func says(n ast.Node, text string) (found bool) {
	ast.Inspect(n, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			s, err := strconv.Unquote(lit.Value)
			found = found || err == nil && s == text
		}
		return !found
	})
	return found
}
