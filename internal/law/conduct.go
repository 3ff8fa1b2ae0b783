package law

import (
	"go/ast"
	"go/token"
	"strconv"
	"strings"
)

// goroutinesStartInLife: a goroutine that nobody waits for outlives its owner,
// and its panic takes the program along.
func goroutinesStartInLife(p *Package) []Violation {
	if p.under("internal/life") {
		return nil
	}
	var found []Violation
	for _, f := range p.sources() {
		ast.Inspect(f.AST, func(n ast.Node) bool {
			if g, ok := n.(*ast.GoStmt); ok {
				found = append(found, p.at(g, "a goroutine starts outside internal/life"))
			}
			return true
		})
	}
	return found
}

func contextComesFirst(p *Package) []Violation {
	var found []Violation
	for _, f := range p.sources() {
		ast.Inspect(f.AST, func(n ast.Node) bool {
			fn, ok := n.(*ast.FuncType)
			if !ok || fn.Params == nil {
				return true
			}
			for i, field := range fn.Params.List {
				if i > 0 && isContext(field.Type) {
					found = append(found, p.at(field, "the context is not the first parameter"))
				}
			}
			return true
		})
	}
	return found
}

// contextIsNotStored spares internal/life, whose groups own their context.
func contextIsNotStored(p *Package) []Violation {
	if p.under("internal/life") {
		return nil
	}
	var found []Violation
	for _, f := range p.sources() {
		ast.Inspect(f.AST, func(n ast.Node) bool {
			s, ok := n.(*ast.StructType)
			if !ok {
				return true
			}
			for _, field := range s.Fields.List {
				if isContext(field.Type) {
					found = append(found, p.at(field, "a context is stored in a struct"))
				}
			}
			return true
		})
	}
	return found
}

func isContext(t ast.Expr) bool { return isSelector(t, "context", "Context") }

func isSelector(e ast.Expr, pkg, name string) bool {
	sel, ok := e.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	id, ok := sel.X.(*ast.Ident)
	return ok && id.Name == pkg && sel.Sel.Name == name
}

// errorsSayWhatWasDone: "open manifest x: permission denied" tells more than
// "failed to open manifest x".
func errorsSayWhatWasDone(p *Package) []Violation {
	var found []Violation
	for _, f := range p.sources() {
		ast.Inspect(f.AST, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || !makesError(call.Fun) {
				return true
			}
			for _, arg := range call.Args {
				if text, ok := literal(arg); ok && saysFailed(text) {
					found = append(found, p.at(arg, "the error begins with %.20q; say what was done", text))
				}
			}
			return true
		})
	}
	return found
}

func makesError(fn ast.Expr) bool {
	return isSelector(fn, "fmt", "Errorf") || isSelector(fn, "errors", "New") || isSelector(fn, "fault", "New")
}

func literal(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(lit.Value)
	return text, err == nil
}

func saysFailed(text string) bool {
	text = strings.ToLower(text)
	for _, start := range []string{"failed to", "unable to", "error ", "could not", "couldn't"} {
		if strings.HasPrefix(text, start) {
			return true
		}
	}
	return false
}

func onlyCmdExits(p *Package) []Violation {
	if p.under("cmd") {
		return nil
	}
	var found []Violation
	for _, f := range p.sources() {
		ast.Inspect(f.AST, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && (isSelector(call.Fun, "os", "Exit") || isSelector(call.Fun, "log", "Fatal") || isSelector(call.Fun, "log", "Fatalf")) {
				found = append(found, p.at(call, "the program ends outside cmd"))
			}
			return true
		})
	}
	return found
}

// metricsComeFromTheDictionary: a metric made by hand is one that no page and
// no dashboard knows.
func metricsComeFromTheDictionary(p *Package) []Violation {
	if p.under("internal/metric") {
		return nil
	}
	var found []Violation
	for _, f := range p.sources() {
		ast.Inspect(f.AST, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			pkg, ok := sel.X.(*ast.Ident)
			if ok && (pkg.Name == "prometheus" || pkg.Name == "promauto") && makesMetric(sel.Sel.Name) {
				found = append(found, p.at(call, "%s.%s makes a metric outside internal/metric", pkg.Name, sel.Sel.Name))
			}
			return true
		})
	}
	return found
}

func makesMetric(name string) bool {
	for _, kind := range []string{"NewCounter", "NewGauge", "NewHistogram", "NewSummary", "NewDesc", "NewUntyped"} {
		if strings.HasPrefix(name, kind) {
			return true
		}
	}
	return false
}
