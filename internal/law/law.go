// Package law holds the house rules as code. Its tests run every law over the
// whole tree, and over a planted violation that proves that the law can fail.
//
// A law sees syntax alone: it is quick, needs no build, and judges code that
// does not compile yet.
package law

import (
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

// Module is the path that every import of this project begins with.
const Module = "github.com/vigil-ml/vigil"

// Violation is a place where a law is broken.
type Violation struct {
	Where string // file:line
	What  string
}

// String is the violation on one line.
func (v Violation) String() string { return v.Where + ": " + v.What }

// Law is one house rule.
type Law struct {
	Name  string
	Check func(*Package) []Violation
}

// File is one hand-written Go file.
type File struct {
	Path  string // relative to the project's root
	Lines int
	Test  bool
	AST   *ast.File
}

// Package is the files of one directory.
type Package struct {
	Dir   string // relative to the project's root; "." is the root
	Files []File
	fset  *token.FileSet
}

// at makes a violation at a node.
func (p *Package) at(n ast.Node, format string, args ...any) Violation {
	pos := p.fset.Position(n.Pos())
	return Violation{fmt.Sprintf("%s:%d", pos.Filename, pos.Line), fmt.Sprintf(format, args...)}
}

// line gives the line of a position.
func (p *Package) line(pos token.Pos) int { return p.fset.Position(pos).Line }

// sources are the files that are not tests.
func (p *Package) sources() []File {
	return slices.DeleteFunc(slices.Clone(p.Files), func(f File) bool { return f.Test })
}

// under tells whether the package is dir or lies below it.
func (p *Package) under(dir string) bool {
	return p.Dir == dir || strings.HasPrefix(p.Dir, dir+"/")
}

// Laws is the whole book.
func Laws() []Law {
	return []Law{
		{"imports point down", importsPointDown},
		{"children do not import their root", childrenSpareTheirRoot},
		{"contracts do not import implementations", contractsStandAlone},
		{"packages are described", packagesAreDescribed},
		{"packages are named after things", packagesAreNamed},
		{"no init", noInit},
		{"no mutable package variables", noMutableVariables},
		{"files are short", filesAreShort},
		{"functions are short", functionsAreShort},
		{"interfaces are small", interfacesAreSmall},
		{"goroutines start in life", goroutinesStartInLife},
		{"context comes first", contextComesFirst},
		{"context is not stored", contextIsNotStored},
		{"errors say what was done", errorsSayWhatWasDone},
		{"only cmd exits", onlyCmdExits},
		{"mains are short", mainsAreShort},
		{"exported names are documented", exportedNamesAreDocumented},
		{"metrics come from the dictionary", metricsComeFromTheDictionary},
	}
}

// Load parses every hand-written Go file below root.
func Load(root string) ([]*Package, error) {
	byDir := map[string]*Package{}
	fset := token.NewFileSet()
	err := fs.WalkDir(os.DirFS(root), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "node_modules") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		src, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return err
		}
		return add(byDir, fset, name, src)
	})
	if err != nil {
		return nil, fmt.Errorf("load packages of %s: %w", root, err)
	}
	packages := make([]*Package, 0, len(byDir))
	for _, p := range byDir {
		packages = append(packages, p)
	}
	slices.SortFunc(packages, func(a, b *Package) int { return strings.Compare(a.Dir, b.Dir) })
	return packages, nil
}

func add(byDir map[string]*Package, fset *token.FileSet, name string, src []byte) error {
	tree, err := parser.ParseFile(fset, name, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	if ast.IsGenerated(tree) {
		return nil
	}
	dir := path.Dir(name)
	if byDir[dir] == nil {
		byDir[dir] = &Package{Dir: dir, fset: fset}
	}
	byDir[dir].Files = append(byDir[dir].Files, File{
		Path:  name,
		Lines: strings.Count(string(src), "\n"),
		Test:  strings.HasSuffix(name, "_test.go"),
		AST:   tree,
	})
	return nil
}

// imports gives the project's own packages that a file imports, relative to
// the root, each with its node.
func imports(f File) map[string]*ast.ImportSpec {
	found := map[string]*ast.ImportSpec{}
	for _, spec := range f.AST.Imports {
		if p, ok := strings.CutPrefix(importPath(spec), Module+"/"); ok {
			found[p] = spec
		}
	}
	return found
}

func importPath(spec *ast.ImportSpec) string {
	p, _ := strconv.Unquote(spec.Path.Value)
	return p
}
