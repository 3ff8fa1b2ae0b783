package law

import (
	"go/ast"
	"slices"
	"strings"
)

// The bounds of the house.
const (
	maxFileLines        = 500
	maxFunctionLines    = 60
	maxMainLines        = 60
	maxInterfaceMethods = 5
)

func packagesAreDescribed(p *Package) []Violation {
	files := p.sources()
	if len(files) == 0 {
		return nil
	}
	for _, f := range files {
		if f.AST.Doc != nil {
			return nil
		}
	}
	return []Violation{p.at(files[0].AST.Name, "package %s has no comment", files[0].AST.Name.Name)}
}

func packagesAreNamed(p *Package) []Violation {
	var found []Violation
	for _, f := range p.Files {
		name := strings.TrimSuffix(f.AST.Name.Name, "_test")
		if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "manager", "types", "misc"}, name) {
			found = append(found, p.at(f.AST.Name, "package %s is not named after a thing", name))
		}
	}
	return found
}

func filesAreShort(p *Package) []Violation {
	var found []Violation
	for _, f := range p.Files {
		if f.Lines > maxFileLines {
			found = append(found, p.at(f.AST.Name, "the file has %d lines; at most %d", f.Lines, maxFileLines))
		}
	}
	return found
}

// functionsAreShort spares a function named setup, which wires and says why it
// is longer, and tests, whose tables are data.
func functionsAreShort(p *Package) []Violation {
	var found []Violation
	for _, f := range p.sources() {
		for _, d := range f.AST.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil || (fn.Name.Name == "setup" && fn.Doc != nil) {
				continue
			}
			if n := p.line(fn.Body.End()) - p.line(fn.Pos()) + 1; n > maxFunctionLines {
				found = append(found, p.at(fn, "%s has %d lines; at most %d", fn.Name.Name, n, maxFunctionLines))
			}
		}
	}
	return found
}

func mainsAreShort(p *Package) []Violation {
	var found []Violation
	for _, f := range p.sources() {
		if f.AST.Name.Name == "main" && strings.HasSuffix(f.Path, "/main.go") && f.Lines > maxMainLines {
			found = append(found, p.at(f.AST.Name, "main.go has %d lines; at most %d", f.Lines, maxMainLines))
		}
	}
	return found
}

func interfacesAreSmall(p *Package) []Violation {
	var found []Violation
	for _, f := range p.Files {
		ast.Inspect(f.AST, func(n ast.Node) bool {
			if i, ok := n.(*ast.InterfaceType); ok && len(i.Methods.List) > maxInterfaceMethods {
				found = append(found, p.at(i, "the interface has %d methods; at most %d", len(i.Methods.List), maxInterfaceMethods))
			}
			return true
		})
	}
	return found
}

// exportedNamesAreDocumented asks for a comment on every exported name and on
// the methods of exported types. A group of constants or variables may share
// one, and so may the fields of a struct.
func exportedNamesAreDocumented(p *Package) []Violation {
	var found []Violation
	for _, f := range p.sources() {
		if f.AST.Name.Name == "main" {
			continue
		}
		for _, d := range f.AST.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc == nil && ast.IsExported(receiver(d)) {
					found = append(found, p.at(d, "%s has no comment", d.Name.Name))
				}
			case *ast.GenDecl:
				found = append(found, undocumented(p, d)...)
			}
		}
	}
	return found
}

// receiver names the type of a method; a plain function counts as exported.
func receiver(fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return "Function"
	}
	t := fn.Recv.List[0].Type
	for {
		switch u := t.(type) {
		case *ast.StarExpr:
			t = u.X
		case *ast.IndexExpr:
			t = u.X
		case *ast.IndexListExpr:
			t = u.X
		case *ast.Ident:
			return u.Name
		default:
			return ""
		}
	}
}

func undocumented(p *Package, d *ast.GenDecl) []Violation {
	var found []Violation
	for _, spec := range d.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			if spec.Name.IsExported() && d.Doc == nil && spec.Doc == nil {
				found = append(found, p.at(spec, "%s has no comment", spec.Name.Name))
			}
		case *ast.ValueSpec:
			for _, name := range spec.Names {
				if name.IsExported() && d.Doc == nil && spec.Doc == nil && spec.Comment == nil {
					found = append(found, p.at(name, "%s has no comment", name.Name))
				}
			}
		}
	}
	return found
}
