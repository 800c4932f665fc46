package archtest

import (
	"fmt"
	"go/ast"
	"go/token"
	"strings"
)

// goroutineRule looks at what starts goroutines. A go statement is for
// lifecycle, for the group of hbone, and for functions that wait for what the goroutine sends or
// closes. Whoever calls Go on a group has a Wait on one of that name: in the
// same function when the group is a variable of it, anywhere in the package
// when it is a field.
func goroutineRule(m *Module, say report) {
	for _, p := range m.Packages {
		if p.Dir == "internal/lifecycle" {
			continue
		}
		waited := make(map[string]bool) // names with a Wait somewhere in the package
		for _, f := range p.Files {
			eachCall(f.AST, func(call *ast.CallExpr) {
				if name, method := receiver(call); method == "Wait" {
					waited[name] = true
				}
			})
		}
		for _, f := range p.Files {
			if f.Test || f.Generated || strings.HasSuffix(f.Name, "internal/hbone/group.go") {
				continue // goleak watches tests
			}
			for _, decl := range f.AST.Decls {
				if d, ok := decl.(*ast.FuncDecl); ok && d.Body != nil {
					checkStarts(f, d, waited, say)
				}
			}
		}
	}
}

// checkStarts looks at the goroutines that one function starts.
func checkStarts(f *File, d *ast.FuncDecl, waited map[string]bool, say report) {
	ast.Inspect(d.Body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			if !awaited(d.Body, n) {
				say(f, n.Pos(), fmt.Sprintf("%s starts a goroutine and does not wait for it", d.Name.Name))
			}
		case *ast.CallExpr:
			name, method := receiver(n)
			if method == "Go" && !waited[name] && !isParameter(d, name) {
				say(f, n.Pos(), fmt.Sprintf("%s starts a goroutine in %s, and nothing calls %s.Wait", d.Name.Name, name, name))
			}
		}
		return true
	})
}

// receiver returns the last name before the method of a call: "group" and "Go"
// of s.group.Go(...).
func receiver(call *ast.CallExpr) (name, method string) {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return "", ""
	}
	switch x := sel.X.(type) {
	case *ast.Ident:
		return x.Name, sel.Sel.Name
	case *ast.SelectorExpr:
		return x.Sel.Name, sel.Sel.Name
	}
	return "", sel.Sel.Name
}

// isParameter tells whether name is a parameter of d: then its owner is the
// caller.
func isParameter(d *ast.FuncDecl, name string) bool {
	for _, field := range d.Type.Params.List {
		for _, n := range field.Names {
			if n.Name == name {
				return true
			}
		}
	}
	return false
}

// awaited tells whether body receives, outside the goroutine, from a channel
// that the goroutine sends to or closes.
func awaited(body ast.Node, start *ast.GoStmt) bool {
	told := make(map[string]bool)
	ast.Inspect(start, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SendStmt:
			told[identName(n.Chan)] = true
		case *ast.CallExpr:
			if fun, ok := n.Fun.(*ast.Ident); ok && fun.Name == "close" && len(n.Args) == 1 {
				told[identName(n.Args[0])] = true
			}
		}
		return true
	})
	found := false
	ast.Inspect(body, func(n ast.Node) bool {
		if n == ast.Node(start) {
			return false
		}
		if recv, ok := n.(*ast.UnaryExpr); ok && recv.Op == token.ARROW {
			name := identName(recv.X)
			found = found || name != "" && told[name]
		}
		return true
	})
	return found
}

// identName returns the name of a plain variable or the last name of a field.
func identName(e ast.Expr) string {
	switch x := e.(type) {
	case *ast.Ident:
		return x.Name
	case *ast.SelectorExpr:
		return x.Sel.Name
	}
	return ""
}
