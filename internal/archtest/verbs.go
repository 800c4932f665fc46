package archtest

import (
	"fmt"
	"go/ast"
	"go/token"
	"regexp"
	"strconv"
	"strings"
)

// errorVerbRule forbids %v and %s for an error in fmt.Errorf.
func errorVerbRule(m *Module, say report) {
	m.product(func(p *Package, f *File) {
		eachCall(f.AST, func(call *ast.CallExpr) {
			if callee(call) != "fmt.Errorf" || len(call.Args) < 2 {
				return
			}
			format, ok := call.Args[0].(*ast.BasicLit)
			if !ok || format.Kind != token.STRING {
				return
			}
			text, err := strconv.Unquote(format.Value)
			if err != nil {
				return
			}
			for i, verb := range verbsOf(text) {
				if i+1 < len(call.Args) && (verb == 'v' || verb == 's' || verb == 'q') && looksLikeError(call.Args[i+1]) {
					say(f, call.Pos(), fmt.Sprintf("fmt.Errorf formats an error with %%%c", verb))
				}
			}
		})
	})
}

// verb finds the verbs of a format, those of widths and %% included.
var verb = regexp.MustCompile(`%[-+# 0]*(\*|[0-9]+)?(\.(\*|[0-9]+)?)?([a-zA-Z%])`)

// verbsOf returns the verb of each argument of format, in order. A width taken
// from an argument stands as '*'.
func verbsOf(format string) []byte {
	var all []byte
	for _, found := range verb.FindAllStringSubmatch(format, -1) {
		if found[4] == "%" {
			continue
		}
		for range strings.Count(found[0], "*") {
			all = append(all, '*')
		}
		all = append(all, found[4][0])
	}
	return all
}

// errorName is how variables and fields that hold errors are called. A field
// called Error is a text more often than not.
var errorName = regexp.MustCompile(`^(err|cause|.*Err|Err[A-Z].*)$`)

// looksLikeError tells whether e is, by its name, an error.
func looksLikeError(e ast.Expr) bool {
	switch x := e.(type) {
	case *ast.Ident:
		return errorName.MatchString(x.Name)
	case *ast.SelectorExpr:
		return errorName.MatchString(x.Sel.Name)
	case *ast.CallExpr:
		name := callee(x)
		return name == "context.Cause" || name == "errors.Join" || name == "errors.New" || strings.HasSuffix(name, ".Err")
	}
	return false
}
