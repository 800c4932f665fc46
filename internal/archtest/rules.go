package archtest

import (
	"fmt"
	"go/ast"
	"go/token"
	"regexp"
	"slices"
	"strings"
)

// Caps of files and functions, in lines. They are for product code; the path
// must fit on a screen.
const (
	maxFile     = 600
	maxFunction = 70
)

// Rules are all rules of this house that a program checks.
var Rules = []Rule{
	{"arrows", "imports point down, never sideways (ARCHITECTURE.md)", arrowsRule},
	{"components", "components meet on the wire only, so that each can be replaced", componentsRule},
	{"control-plane", "the control plane describes traffic, it does not carry it", controlPlaneRule},
	{"hbone-library", "hbone is a library on the standard library and x/net/http2; it reports through Trace", hboneRule},
	{"outside", "some packages of others belong in few places", outsideRule},
	{"package-comment", "a package says once, in doc.go when it is long, what it is for", packageCommentRule},
	{"documented", "a name that others read says what it means", documentedRule},
	{"size", "what does not fit on a screen is not read as a whole", sizeRule},
	{"goroutine", "every goroutine has an owner that waits for it: use lifecycle.Group, or wait in the same function", goroutineRule},
	{"init", "what runs by being imported cannot be left out or done twice", initRule},
	{"background", "a context that nobody can end hides who waits for whom; tests have t.Context", backgroundRule},
	{"error-verb", "an error that is not wrapped by %w is lost for errors.Is", errorVerbRule},
	{"sleep", "a sleep is too short on a busy machine and too long on any other: wait for what is meant, or use testing/synctest", sleepRule},
	{"globals", "loggers and metrics arrive through Deps, so that two instances in one process do not meet", globalsRule},
	{"marks", "what is left to do stands in an issue, not in the source", marksRule},
	{"leak-check", "a test that leaves a goroutine behind hides a bug of lifetime", leakCheckRule},
}

// packageCommentRule wants one package comment per package.
func packageCommentRule(m *Module, say report) {
	for _, p := range m.Packages {
		var first *File
		comments := 0
		for _, f := range p.Files {
			if f.Test {
				continue
			}
			if first == nil {
				first = f
			}
			doc := f.AST.Doc
			if doc == nil || f.Generated {
				continue
			}
			comments++
			if comments > 1 {
				say(f, doc.Pos(), "the package has a comment in another file already")
			}
			checkPackageComment(f, doc, say)
		}
		if first != nil && comments == 0 && !first.Generated {
			say(first, first.AST.Package, "the package has no comment")
		}
	}
}

// maxComment is how many lines a package comment may have outside doc.go.
const maxComment = 5

// checkPackageComment looks at how a package comment begins and where it stands.
func checkPackageComment(f *File, doc *ast.CommentGroup, say report) {
	text, name := doc.Text(), f.AST.Name.Name
	begins := strings.HasPrefix(text, "Package "+name+" ")
	if name == "main" {
		begins = begins || strings.HasPrefix(text, "Command ")
	}
	if !begins {
		say(f, doc.Pos(), fmt.Sprintf("the package comment does not begin with %q", "Package "+name+" "))
	}
	long := strings.Count(text, "\n") > maxComment
	if long && !strings.HasSuffix(f.Name, "/doc.go") && name != "main" {
		say(f, doc.Pos(), fmt.Sprintf("the package comment is longer than %d lines and not in doc.go", maxComment))
	}
}

// documentedRule wants a comment on each exported name, and on each type.
func documentedRule(m *Module, say report) {
	m.product(func(p *Package, f *File) {
		for _, decl := range f.AST.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc == nil && receiverExported(d) && !wellKnown(d) {
					say(f, d.Pos(), fmt.Sprintf("%s has no comment", d.Name.Name))
				}
			case *ast.GenDecl:
				checkDocumented(f, d, say)
			}
		}
	})
}

// wellKnown tells whether d is a method that means the same everywhere.
func wellKnown(d *ast.FuncDecl) bool {
	return d.Recv != nil && (d.Name.Name == "Error" || d.Name.Name == "String")
}

// receiverExported tells whether d is a function, or a method of an exported
// type.
func receiverExported(d *ast.FuncDecl) bool {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return true
	}
	t := d.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return true
		}
	}
}

// checkDocumented looks at one declaration of types, constants or variables. A
// comment at the end of a line, or on the whole block, counts for its names.
// The names of an enumeration explain themselves when its type is documented.
func checkDocumented(f *File, d *ast.GenDecl, say report) {
	if enumeration(d) {
		return
	}
	for _, spec := range d.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			if d.Doc == nil && s.Doc == nil && s.Comment == nil {
				say(f, s.Pos(), fmt.Sprintf("type %s has no comment", s.Name.Name))
			}
		case *ast.ValueSpec:
			if d.Doc != nil || s.Doc != nil || s.Comment != nil {
				continue
			}
			for _, name := range s.Names {
				if name.IsExported() {
					say(f, s.Pos(), fmt.Sprintf("%s has no comment", name.Name))
				}
			}
		}
	}
}

// enumeration tells whether d is a block of constants counted by iota.
func enumeration(d *ast.GenDecl) bool {
	if d.Tok != token.CONST || len(d.Specs) < 2 {
		return false
	}
	found := false
	ast.Inspect(d.Specs[0], func(n ast.Node) bool {
		id, ok := n.(*ast.Ident)
		found = found || ok && id.Name == "iota"
		return true
	})
	return found
}

// sizeRule caps files and functions.
func sizeRule(m *Module, say report) {
	m.product(func(p *Package, f *File) {
		if f.Lines > maxFile {
			say(f, f.AST.Package, fmt.Sprintf("the file has %d lines, want at most %d", f.Lines, maxFile))
		}
		for _, decl := range f.AST.Decls {
			d, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := m.line(d.End()) - m.line(d.Pos()) + 1; n > maxFunction {
				say(f, d.Pos(), fmt.Sprintf("%s has %d lines, want at most %d", d.Name.Name, n, maxFunction))
			}
		}
	})
}

// line returns the line of pos.
func (m *Module) line(pos token.Pos) int { return m.fset.Position(pos).Line }

// initRule forbids functions that run by import.
func initRule(m *Module, say report) {
	for _, p := range m.Packages {
		for _, f := range p.Files {
			if f.Generated {
				continue
			}
			for _, decl := range f.AST.Decls {
				if d, ok := decl.(*ast.FuncDecl); ok && d.Recv == nil && d.Name.Name == "init" {
					say(f, d.Pos(), "there is an init function")
				}
			}
		}
	}
}

// backgroundRule forbids contexts without an end, but in programs. In tests
// only their main function may have one.
func backgroundRule(m *Module, say report) {
	for _, p := range m.Packages {
		if p.main() {
			continue
		}
		for _, f := range p.Files {
			if f.Generated {
				continue
			}
			eachCall(f.AST, func(call *ast.CallExpr) {
				if name := callee(call); name == "context.Background" || name == "context.TODO" {
					say(f, call.Pos(), "it calls "+name)
				}
			})
		}
	}
}

// sleepRule forbids time.Sleep: in tests outside fake time, and everywhere else.
// What stands inside a call of synctest.Test, or of a helper of the package that
// calls it, is in fake time.
func sleepRule(m *Module, say report) {
	for _, p := range m.Packages {
		fake := map[string]bool{"synctest.Test": true}
		for _, f := range p.Files {
			for _, decl := range f.AST.Decls {
				if d, ok := decl.(*ast.FuncDecl); ok && len(spansOf(d, map[string]bool{"synctest.Test": true})) > 0 {
					fake[d.Name.Name] = true
				}
			}
		}
		for _, f := range p.Files {
			if f.Generated {
				continue
			}
			bubbles := spansOf(f.AST, fake)
			eachCall(f.AST, func(call *ast.CallExpr) {
				if callee(call) != "time.Sleep" {
					return
				}
				inside := slices.ContainsFunc(bubbles, func(b ast.Node) bool { return b.Pos() <= call.Pos() && call.End() <= b.End() })
				if !inside {
					say(f, call.Pos(), "it calls time.Sleep")
				}
			})
		}
	}
}

// spansOf returns the calls of functions that names has, as pkg.Func or Func.
func spansOf(tree ast.Node, names map[string]bool) []ast.Node {
	var all []ast.Node
	eachCall(tree, func(call *ast.CallExpr) {
		plain, isPlain := call.Fun.(*ast.Ident)
		if names[callee(call)] || isPlain && names[plain.Name] {
			all = append(all, call)
		}
	})
	return all
}

// Makers of loggers and metrics, by package. Descriptions of metrics
// (prometheus.NewDesc) hold no count and may be constants of a package.
var (
	loggerOrMetric = regexp.MustCompile(`^(zap|slog|log|logrus|promauto|expvar)\.New|^zap\.(L|S|Must)$|` +
		`^prometheus\.New(Counter|Gauge|Histogram|Summary|Registry|Pedantic)|^expvar\.|^promauto\.`)
	globalLogger = regexp.MustCompile(`^zap\.(L|S|ReplaceGlobals)$|^log\.(Print|Fatal|Panic|SetOutput|SetFlags)|` +
		`^slog\.(Debug|Info|Warn|Error|SetDefault|Default)|^prometheus\.(MustRegister|Register)$`)
)

// globalsRule forbids loggers and metrics that belong to nobody.
func globalsRule(m *Module, say report) {
	m.product(func(p *Package, f *File) {
		for _, decl := range f.AST.Decls {
			d, ok := decl.(*ast.GenDecl)
			if !ok || d.Tok != token.VAR {
				continue
			}
			eachCall(d, func(call *ast.CallExpr) {
				if name := callee(call); loggerOrMetric.MatchString(name) {
					say(f, call.Pos(), "a variable of the package is made by "+name)
				}
			})
		}
		eachCall(f.AST, func(call *ast.CallExpr) {
			if name := callee(call); globalLogger.MatchString(name) && !p.main() {
				say(f, call.Pos(), "it calls "+name+", which acts on the whole process")
			}
		})
	})
}

// mark is what stands in comments of unfinished work.
var mark = regexp.MustCompile(`\b(TODO|FIXME|XXX|HACK)\b|(?i:not (yet )?implemented)`)

// marksRule forbids marks of unfinished work.
func marksRule(m *Module, say report) {
	for _, p := range m.Packages {
		for _, f := range p.Files {
			if f.Generated || p.Dir == "internal/archtest" {
				continue // this package speaks of them
			}
			for _, group := range f.AST.Comments {
				for _, c := range group.List {
					if found := mark.FindString(c.Text); found != "" {
						say(f, c.Pos(), fmt.Sprintf("a comment says %q", found))
					}
				}
			}
		}
	}
}

// leakChecks are the calls that look for goroutines that are left.
var leakChecks = map[string]bool{
	"goleak.VerifyTestMain": true, "goleak.Find": true,
	"netnstest.Main": true, "netnstest.MainSparing": true, "kubetest.Main": true, // which call goleak.Find
}

// leakCheckRule wants goleak in the TestMain of each package with tests.
func leakCheckRule(m *Module, say report) {
	for _, p := range m.Packages {
		var first *File
		checks := false
		for _, f := range p.Files {
			if !f.Test {
				continue
			}
			if first == nil {
				first = f
			}
			eachCall(f.AST, func(call *ast.CallExpr) {
				name := callee(call)
				checks = checks || leakChecks[name]
			})
		}
		if first != nil && !checks {
			say(first, first.AST.Package, "no TestMain of the package looks for goroutines that are left (goleak.VerifyTestMain)")
		}
	}
}

// eachCall visits the calls in tree.
func eachCall(tree ast.Node, visit func(*ast.CallExpr)) {
	ast.Inspect(tree, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			visit(call)
		}
		return true
	})
}

// callee returns "pkg.Func" of a call, or "" when it is no such call.
func callee(call *ast.CallExpr) string {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	pkg, ok := sel.X.(*ast.Ident)
	if !ok {
		return ""
	}
	return pkg.Name + "." + sel.Sel.Name
}
