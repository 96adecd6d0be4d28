package vmdisk

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"strconv"
	"strings"
	"testing"
)

var constantValues map[string][]string

// constants is the values of every constant of a named string type, by type, as the source has
// them.
func constants(t *testing.T) map[string][]string {
	t.Helper()
	if constantValues != nil {
		return constantValues
	}
	isSource := func(file fs.FileInfo) bool { return !strings.HasSuffix(file.Name(), "_test.go") }
	packages, err := parser.ParseDir(token.NewFileSet(), ".", isSource, 0)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string][]string{}
	for _, file := range packages["vmdisk"].Files {
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || len(spec.Values) != 1 {
				return true
			}
			name, named := spec.Type.(*ast.Ident)
			literal, isLiteral := spec.Values[0].(*ast.BasicLit)
			if named && isLiteral && literal.Kind == token.STRING {
				value, err := strconv.Unquote(literal.Value)
				if err != nil {
					t.Fatal(err)
				}
				values[name.Name] = append(values[name.Name], value)
			}
			return true
		})
	}
	constantValues = values
	return values
}
