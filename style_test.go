package provision

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// maxColumns is how long a line of code may be, outside strings; a tab counts as one.
const maxColumns = 120

// TestStyle: one thought a line, and names that mean one thing. Tests and the test bed are not looked at.
func TestStyle(t *testing.T) {
	packages := make(map[string][]string) // files by folder
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (path == "internal/lab" || strings.HasPrefix(path, ".") && path != ".") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			packages[filepath.Dir(path)] = append(packages[filepath.Dir(path)], path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, files := range packages {
		for _, fault := range faults(t, files) {
			t.Error(fault)
		}
	}
}

// faults are what is wrong with the files of a package.
func faults(t *testing.T, names []string) (found []string) {
	t.Helper()
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range names {
		f, err := parser.ParseFile(fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
		long, err := longLines(fset, f, name)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, long...)
	}
	top := topLevel(files)
	for _, f := range files {
		report := func(at token.Pos, format string, args ...any) {
			found = append(found, fmt.Sprintf("%s: %s", fset.Position(at), fmt.Sprintf(format, args...)))
		}
		undocumented(f, report)
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.AssignStmt:
				if len(n.Rhs) >= 3 {
					report(n.Pos(), "an assignment of %d values: write one a line", len(n.Rhs))
				}
				if n.Tok == token.DEFINE {
					hides(n.Lhs, top, report)
				}
			case *ast.IfStmt:
				if n.Init != nil && !about(n.Init, n.Cond) {
					report(n.Pos(), "the condition is not about what the if-statement begins with: write two statements")
				}
			case *ast.RangeStmt:
				if n.Tok == token.DEFINE {
					hides([]ast.Expr{n.Key, n.Value}, top, report)
				}
			case *ast.FuncType:
				for _, list := range []*ast.FieldList{n.Params, n.Results} {
					if list == nil {
						continue
					}
					for _, field := range list.List {
						for _, name := range field.Names {
							hides([]ast.Expr{name}, top, report)
						}
					}
				}
			}
			return true
		})
	}
	return found
}

// longLines are lines that are too long, not counting their strings.
func longLines(fset *token.FileSet, f *ast.File, name string) (found []string, err error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	inStrings := make(map[int]int) // by line
	ast.Inspect(f, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			first := fset.Position(lit.Pos()).Line
			for i, part := range strings.Split(lit.Value, "\n") {
				inStrings[first+i] += len([]rune(part))
			}
		}
		return true
	})
	for i, line := range strings.Split(string(data), "\n") {
		if n := len([]rune(line)); n-inStrings[i+1] > maxColumns {
			found = append(found, fmt.Sprintf("%s:%d: a line of %d columns", name, i+1, n))
		}
	}
	return found, nil
}

// topLevel are the names that a package declares.
func topLevel(files []*ast.File) map[string]bool {
	names := make(map[string]bool)
	for _, f := range files {
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil {
					names[d.Name.Name] = true
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch spec := spec.(type) {
					case *ast.TypeSpec:
						names[spec.Name.Name] = true
					case *ast.ValueSpec:
						for _, id := range spec.Names {
							names[id.Name] = true
						}
					}
				}
			}
		}
	}
	delete(names, "_")
	return names
}

// hides reports locals that have the name of something that the package declares.
func hides(locals []ast.Expr, top map[string]bool, report func(token.Pos, string, ...any)) {
	for _, e := range locals {
		if id, ok := e.(*ast.Ident); ok && top[id.Name] {
			report(id.Pos(), "%s hides what the package calls so", id.Name)
		}
	}
}

// about tells whether a condition mentions something that a statement sets, calls or receives.
func about(init ast.Stmt, cond ast.Expr) bool {
	set := make(map[string]bool)
	switch s := init.(type) {
	case *ast.AssignStmt:
		for _, e := range s.Lhs {
			set[root(e)] = true
		}
	case *ast.IncDecStmt:
		set[root(s.X)] = true
	default:
		return false
	}
	mentioned := false
	ast.Inspect(cond, func(n ast.Node) bool {
		if e, ok := n.(ast.Expr); ok && set[root(e)] && root(e) != "" {
			mentioned = true
		}
		return !mentioned
	})
	return mentioned
}

// root is the variable that an expression is of.
func root(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return root(e.X) + "." + e.Sel.Name
	case *ast.StarExpr:
		return root(e.X)
	case *ast.IndexExpr:
		return root(e.X)
	}
	return ""
}

// undocumented reports exports without a comment.
func undocumented(f *ast.File, report func(token.Pos, string, ...any)) {
	if f.Name.Name == "main" {
		return
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Name.IsExported() && d.Doc == nil && (d.Recv == nil || receiver(d).IsExported()) {
				report(d.Pos(), "%s has no comment", d.Name.Name)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					if spec.Name.IsExported() && d.Doc == nil && spec.Doc == nil {
						report(spec.Pos(), "%s has no comment", spec.Name.Name)
					}
				case *ast.ValueSpec:
					for _, id := range spec.Names {
						if id.IsExported() && d.Doc == nil && spec.Doc == nil && spec.Comment == nil {
							report(id.Pos(), "%s has no comment", id.Name)
						}
					}
				}
			}
		}
	}
}

func receiver(d *ast.FuncDecl) *ast.Ident {
	t := d.Recv.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	if index, ok := t.(*ast.IndexExpr); ok {
		t = index.X
	}
	id, _ := t.(*ast.Ident)
	if id == nil {
		return ast.NewIdent("_")
	}
	return id
}
