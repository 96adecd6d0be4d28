package vmdisk

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// source is what only the source of this package tells.
type source struct {
	constants map[string][]string          // The values of the constants of a named string type, by type.
	values    map[string]string            // The same by the constant's name.
	comments  map[string]map[string]string // What is said of the fields of a struct, by type and field.
}

var parsedSource *source

func readSource(t *testing.T) *source {
	t.Helper()
	if parsedSource != nil {
		return parsedSource
	}
	isSource := func(file fs.FileInfo) bool { return !strings.HasSuffix(file.Name(), "_test.go") }
	packages, err := parser.ParseDir(token.NewFileSet(), ".", isSource, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	s := &source{map[string][]string{}, map[string]string{}, map[string]map[string]string{}}
	for _, file := range packages["vmdisk"].Files {
		ast.Inspect(file, func(n ast.Node) bool {
			switch spec := n.(type) {
			case *ast.ValueSpec:
				s.addConstant(t, spec)
			case *ast.TypeSpec:
				s.addComments(spec)
			}
			return true
		})
	}
	parsedSource = s
	return s
}

func (s *source) addConstant(t *testing.T, spec *ast.ValueSpec) {
	if len(spec.Values) != 1 {
		return
	}
	name, named := spec.Type.(*ast.Ident)
	literal, isLiteral := spec.Values[0].(*ast.BasicLit)
	if !named || !isLiteral || literal.Kind != token.STRING {
		return
	}
	value, err := strconv.Unquote(literal.Value)
	if err != nil {
		t.Fatal(err)
	}
	s.constants[name.Name] = append(s.constants[name.Name], value)
	s.values[spec.Names[0].Name] = value
}

func (s *source) addComments(spec *ast.TypeSpec) {
	structure, ok := spec.Type.(*ast.StructType)
	if !ok {
		return
	}
	s.comments[spec.Name.Name] = map[string]string{}
	for _, field := range structure.Fields.List {
		for _, name := range field.Names {
			s.comments[spec.Name.Name][name.Name] = strings.Join(strings.Fields(field.Doc.Text()), " ")
		}
	}
}

var word = regexp.MustCompile(`\w+`)

// defaultOf is the default that the comment of a field promises, in the words of the protocol: its
// names for values and fields, without quotes.
func (s *source) defaultOf(structure reflect.Type, field reflect.StructField) string {
	comment := strings.ReplaceAll(afterDefault(s.comments[structure.Name()][field.Name]), `"`, "")
	return word.ReplaceAllStringFunc(comment, func(name string) string {
		if value, found := s.values[name]; found {
			return value
		}
		if other, found := structure.FieldByName(name); found {
			return jsonName(other)
		}
		return name
	})
}

// defaultIn is the default that a description in the document promises, in the same words.
func defaultIn(description string) string {
	// The constants of Preset say themselves what they are.
	text := strings.ReplaceAll(afterDefault(description), "preset `", "`")
	return strings.ReplaceAll(text, "`", "")
}

func afterDefault(text string) string {
	_, promise, _ := strings.Cut(text, "Default: ")
	return promise
}
