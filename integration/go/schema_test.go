package vmdisk

import (
	"encoding/json"
	"fmt"
	"reflect"
	"sort"
	"strings"
	"testing"
)

func TestTypesAreThoseOfTheSchema(t *testing.T) {
	for _, problem := range compare(t, parsed(t)) {
		t.Error(problem)
	}
}

// Whatever is added to the schema, or taken from it, is noticed.
func TestEveryChangeOfTheSchemaIsNoticed(t *testing.T) {
	now := parsed(t)
	text, err := json.Marshal(now)
	if err != nil {
		t.Fatal(err)
	}
	if problems := compare(t, parse(t, text)); len(problems) > 0 {
		t.Fatal(problems)
	}
	noticed := func(what string, change func(*document)) {
		t.Helper()
		changed := parse(t, text)
		change(changed)
		if len(compare(t, changed)) == 0 {
			t.Errorf("nobody notices %s", what)
		}
	}
	for i := range now.Methods {
		i, name := i, now.Methods[i].Name
		noticed("another name for "+name, func(d *document) { d.Methods[i].Name = "x" })
		if name != "rpc.discover" && name != "cancel" && name != "progress" {
			noticed("a parameter less of "+name, func(d *document) { d.Methods[i].Params = d.Methods[i].Params[1:] })
			noticed("a parameter more of "+name, func(d *document) { d.Methods[i].Params[0].Name = "x" })
		}
	}
	for name, schema := range now.Components.Schemas {
		name := name
		for field := range schema.Properties {
			field := field
			if name != "CreateReport" && name != "ResizeReport" { // Alternatives: another may have it.
				noticed("less in "+name, func(d *document) { delete(d.Components.Schemas[name].Properties, field) })
			}
			noticed("another type of "+name+"."+field, func(d *document) {
				d.Components.Schemas[name].Properties[field] = &node{Type: "null"}
			})
		}
		if schema.Properties != nil {
			noticed("more in "+name, func(d *document) { d.Components.Schemas[name].Properties["x"] = &node{Type: "string"} })
		}
		if len(schema.OneOf) > 0 && schema.OneOf[0].Const != "" {
			noticed("less in "+name, func(d *document) { d.Components.Schemas[name].OneOf = schema.OneOf[1:] })
			noticed("more in "+name, func(d *document) { d.Components.Schemas[name].OneOf[0].Const = "x" })
		}
	}
	noticed("a kind more", func(d *document) { d.Components.Errors["x"] = nil })
	noticed("a kind less", func(d *document) { delete(d.Components.Errors, "locked") })
}

// comparison holds a document against this package.
type comparison struct {
	*document
	constants map[string][]string
	seen      map[string]bool
	problems  []string
}

func compare(t *testing.T, document *document) []string {
	t.Helper()
	c := &comparison{document: document, constants: constants(t), seen: map[string]bool{}}
	client, methods := reflect.TypeOf(&Client{}), []string{"Close"}
	for _, method := range c.Methods {
		request := &node{Type: "object", Properties: map[string]*node{}}
		for _, param := range method.Params {
			request.Properties[param.Name] = param.Schema
			if param.Required {
				request.Required = append(request.Required, param.Name)
			}
		}
		switch method.Name {
		case "rpc.discover", "cancel":
			continue
		case "progress":
			delete(request.Properties, "id")
			c.object(method.Name, request, reflect.TypeOf(Progress{}), false)
			continue
		}
		name := strings.ToUpper(method.Name[:1]) + method.Name[1:]
		methods = append(methods, name)
		function, found := client.MethodByName(name)
		if !found {
			c.problem("Client has no %s", name)
			continue
		}
		c.object(method.Name, request, function.Type.In(2), true)
		c.fits(method.Name+" result", method.Result.Schema, function.Type.Out(0), false)
	}
	var exported []string
	for i := 0; i < client.NumMethod(); i++ {
		exported = append(exported, client.Method(i).Name)
	}
	c.same("methods", methods, exported)
	c.fits("error", c.Error, reflect.TypeOf(Error{}), false)

	var kinds []string
	for kind := range c.Components.Errors {
		kinds = append(kinds, kind)
		if !Kind(kind).known() {
			c.problem("%s is not known", kind)
		}
	}
	c.same("kinds", kinds, c.constants["Kind"])
	for name := range c.constants {
		if !c.seen[name] && name != "Kind" {
			c.problem("%s is nowhere in the schema", name)
		}
	}
	return c.problems
}

func (c *comparison) problem(format string, values ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, values...))
}

func (c *comparison) same(what string, theirs, ours []string) {
	sort.Strings(theirs)
	sort.Strings(ours)
	if !reflect.DeepEqual(theirs, ours) {
		c.problem("%s: %q in the schema, %q here", what, theirs, ours)
	}
}

// fits tells whether a Go type can hold what the schema says.
func (c *comparison) fits(where string, schema *node, goType reflect.Type, isRequest bool) {
	schema = c.resolved(schema)
	if goType.Kind() == reflect.Pointer {
		goType = goType.Elem()
	}
	wrong := func() { c.problem("%s: %+v is no %v", where, *schema, goType) }
	plain := goType.Name() == goType.Kind().String()
	kind, _ := schema.Type.(string)
	if kinds, ok := schema.Type.([]any); ok && len(kinds) == 2 && kinds[1] == "null" {
		kind, _ = kinds[0].(string)
	}
	switch {
	case schema.Format == "byte-size":
		if goType != reflect.TypeOf(Size("")) {
			wrong()
		}
	case len(schema.alternatives()) > 0:
		c.choice(where, schema, goType)
	case kind == "object":
		c.object(where, schema, goType, isRequest)
	case kind == "array":
		if goType.Kind() != reflect.Slice {
			wrong()
			return
		}
		c.fits(where+"[]", schema.Items, goType.Elem(), isRequest)
	case kind == "string":
		if goType.Kind() != reflect.String || !plain && goType != reflect.TypeOf(Kind("")) {
			wrong()
		}
	case kind == "integer":
		if goType.Name() != schema.Format && (schema.Format != "" || goType.Kind() != reflect.Uint64) {
			wrong()
		}
	case kind == "number":
		if goType.Kind() != reflect.Float64 {
			wrong()
		}
	case kind == "boolean":
		if goType.Kind() != reflect.Bool {
			wrong()
		}
	default:
		wrong()
	}
}

func (c *comparison) choice(where string, schema *node, goType reflect.Type) {
	if goType.Kind() != reflect.String {
		c.problem("%s: a choice is no %v", where, goType)
		return
	}
	var values []string
	known := map[string]bool{}
	for _, value := range schema.alternatives() {
		if !known[value.Const] {
			values = append(values, value.Const)
		}
		known[value.Const] = true
	}
	c.seen[goType.Name()] = true
	c.same(where+": values of "+goType.Name(), values, c.constants[goType.Name()])
}

// object holds the fields of a struct against those of a schema, both ways.
func (c *comparison) object(where string, schema *node, goType reflect.Type, isRequest bool) {
	if goType.Kind() != reflect.Struct {
		c.problem("%s: an object is no %v", where, goType)
		return
	}
	if strings.Count(where, "[]") > 1 {
		return // An image's chain has images.
	}
	fields := jsonFields(goType)
	var theirs, ours []string
	for name, property := range schema.Properties {
		theirs = append(theirs, name)
		field, found := fields[name]
		if !found {
			continue
		}
		for _, said := range append(schema.also[name], property) {
			c.fits(where+"."+name, said, field.Type, isRequest)
		}
		if isRequest {
			c.omission(where+"."+name, property, field, contains(schema.Required, name))
		}
	}
	for name := range fields {
		ours = append(ours, name)
	}
	c.same(where+": fields", theirs, ours)
}

// omission holds what is not said against what need not be said.
func (c *comparison) omission(where string, schema *node, field reflect.StructField, required bool) {
	if omitted := strings.HasSuffix(field.Tag.Get("json"), ",omitempty"); omitted == required {
		c.problem("%s: required is %v, omitempty is %v", where, required, omitted)
	}
	if field.Type.Kind() == reflect.Struct {
		c.problem("%s: an empty struct is not omitted", where)
	}
	_, nullable := schema.Type.([]any)
	isBool := field.Type.Kind() == reflect.Bool || field.Type.Kind() == reflect.Pointer && field.Type.Elem().Kind() == reflect.Bool
	if isBool && nullable != (field.Type.Kind() == reflect.Pointer) {
		c.problem("%s: what is neither true nor false is a nil pointer, and nothing else", where)
	}
}

func jsonFields(goType reflect.Type) map[string]reflect.StructField {
	fields := map[string]reflect.StructField{}
	for _, field := range reflect.VisibleFields(goType) {
		if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name != "" && isDirect(goType, field) {
			fields[name] = field
		}
	}
	return fields
}

// isDirect tells whether JSON has the field in the object itself: embedded structs with a name of
// their own are objects of their own.
func isDirect(goType reflect.Type, field reflect.StructField) bool {
	for i := 1; i < len(field.Index); i++ {
		if goType.FieldByIndex(field.Index[:i]).Tag.Get("json") != "" {
			return false
		}
	}
	return true
}

func contains(names []string, name string) bool {
	for _, known := range names {
		if known == name {
			return true
		}
	}
	return false
}
