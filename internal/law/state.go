package law

import (
	"go/ast"
	"go/token"
)

func noInit(p *Package) []Violation {
	var found []Violation
	for _, f := range p.Files {
		for _, d := range f.AST.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				found = append(found, p.at(fn, "init runs before anyone can say no"))
			}
		}
	}
	return found
}

// noMutableVariables finds package variables that are ever changed: assigned,
// counted up, written into by index or field, or deleted from. A sync type
// among them is state by itself.
func noMutableVariables(p *Package) []Violation {
	vars := packageVariables(p)
	var found []Violation
	for _, v := range vars {
		if v.typ != nil && isSync(v.typ) {
			found = append(found, p.at(v.node, "package variable %s is a lock or a once: state for the whole process", v.node.Name))
		}
	}
	for _, f := range p.sources() {
		for _, d := range f.AST.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			hidden := localNames(fn)
			for _, target := range written(fn.Body) {
				if _, ok := vars[target.Name]; ok && !hidden[target.Name] {
					found = append(found, p.at(target, "package variable %s is changed", target.Name))
				}
			}
		}
	}
	return found
}

type variable struct {
	node *ast.Ident
	typ  ast.Expr
}

func packageVariables(p *Package) map[string]variable {
	vars := map[string]variable{}
	for _, f := range p.sources() {
		for _, d := range f.AST.Decls {
			gen, ok := d.(*ast.GenDecl)
			if !ok || gen.Tok != token.VAR {
				continue
			}
			for _, spec := range gen.Specs {
				value := spec.(*ast.ValueSpec)
				for _, name := range value.Names {
					vars[name.Name] = variable{name, value.Type}
				}
			}
		}
	}
	return vars
}

func isSync(t ast.Expr) bool {
	sel, ok := t.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := sel.X.(*ast.Ident)
	return ok && (pkg.Name == "sync" || pkg.Name == "atomic")
}

// localNames are the names that a function declares for itself.
func localNames(fn *ast.FuncDecl) map[string]bool {
	names := map[string]bool{}
	ast.Inspect(fn, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Field:
			for _, name := range n.Names {
				names[name.Name] = true
			}
		case *ast.AssignStmt:
			if n.Tok == token.DEFINE {
				for _, e := range n.Lhs {
					if id, ok := e.(*ast.Ident); ok {
						names[id.Name] = true
					}
				}
			}
		case *ast.RangeStmt:
			for _, e := range []ast.Expr{n.Key, n.Value} {
				if id, ok := e.(*ast.Ident); ok {
					names[id.Name] = true
				}
			}
		case *ast.ValueSpec:
			for _, name := range n.Names {
				names[name.Name] = true
			}
		}
		return true
	})
	return names
}

// written are the variables that a body changes.
func written(body *ast.BlockStmt) []*ast.Ident {
	var found []*ast.Ident
	add := func(e ast.Expr) {
		if id := rootOf(e); id != nil {
			found = append(found, id)
		}
	}
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			if n.Tok != token.DEFINE {
				for _, e := range n.Lhs {
					add(e)
				}
			}
		case *ast.IncDecStmt:
			add(n.X)
		case *ast.CallExpr:
			if fn, ok := n.Fun.(*ast.Ident); ok && fn.Name == "delete" {
				add(n.Args[0])
			}
		}
		return true
	})
	return found
}

// rootOf is the variable at the left end of a.b[c].
func rootOf(e ast.Expr) *ast.Ident {
	for {
		switch t := e.(type) {
		case *ast.Ident:
			return t
		case *ast.SelectorExpr:
			e = t.X
		case *ast.IndexExpr:
			e = t.X
		case *ast.StarExpr:
			e = t.X
		case *ast.ParenExpr:
			e = t.X
		default:
			return nil
		}
	}
}
