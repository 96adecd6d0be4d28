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
	text := printed(t, now)
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
			for j, param := range now.Methods[i].Params {
				if j := j; param.Name != "protocol" && param.Name != "progress" {
					noticed("another default of "+name+"."+param.Name, func(d *document) {
						d.Methods[i].Params[j].Description = param.Description + " Default: x."
					})
				}
			}
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
		for field, property := range schema.Properties {
			if field := field; strings.HasSuffix(name, "Options") {
				noticed("another default of "+name+"."+field, func(d *document) {
					d.Components.Schemas[name].Properties[field].Description = property.Description + " Default: x."
				})
			}
		}
		if schema.Properties != nil {
			noticed("more in "+name, func(d *document) { d.Components.Schemas[name].Properties["x"] = &node{Type: "string"} })
		}
		if len(schema.OneOf) > 0 && schema.OneOf[0].Const != "" {
			noticed("less in "+name, func(d *document) { d.Components.Schemas[name].OneOf = schema.OneOf[1:] })
			noticed("more in "+name, func(d *document) { d.Components.Schemas[name].OneOf[0].Const = "x" })
		}
	}
	noticed("a kind more", func(d *document) { d.Components.Errors["x"] = kindOf{99} })
	for _, kind := range []string{"internal", "protocol_unsupported"} {
		noticed("another code of "+kind, func(d *document) { d.Components.Errors[kind] = kindOf{99} })
	}
	noticed("another longest request", func(d *document) { d.MaxRequest++ })
	noticed("a kind less", func(d *document) { delete(d.Components.Errors, "locked") })
}

// Whether null is named beside a type of what may be left out is all the same.
func TestNullMayBeNamedOrNot(t *testing.T) {
	for _, named := range []bool{true, false} {
		changed := parse(t, printed(t, parsed(t)))
		for _, method := range changed.Methods {
			for i := range method.Params {
				if !method.Params[i].Required {
					method.Params[i].Schema = withNull(method.Params[i].Schema, named)
				}
			}
		}
		for name, schema := range changed.Components.Schemas {
			for field, property := range schema.Properties {
				if strings.HasSuffix(name, "Options") && !contains(schema.Required, field) {
					schema.Properties[field] = withNull(property, named)
				}
			}
		}
		for _, problem := range compare(t, changed) {
			t.Errorf("null named: %v: %s", named, problem)
		}
	}
}

// withNull is the same schema, with null as an alternative or without.
func withNull(schema *node, named bool) *node {
	changed := *schema
	var others []*node
	for _, part := range append(schema.AnyOf, schema.AllOf...) {
		if part.Type != "null" {
			others = append(others, part)
		}
	}
	if schema.Ref != "" {
		others = []*node{{Ref: schema.Ref}}
	}
	kinds, several := schema.Type.([]any)
	switch {
	case len(others) > 0 && named:
		changed.Ref, changed.AllOf, changed.AnyOf = "", nil, append(others, &node{Type: "null"})
	case len(others) > 0:
		changed.Ref, changed.AllOf, changed.AnyOf = others[0].Ref, nil, nil
	case named && !several:
		changed.Type = []any{schema.Type, "null"}
	case !named && several:
		changed.Type = kinds[0]
	}
	return &changed
}

// goName is the name of a method, such as undo_repair, in Go.
func goName(method string) string {
	words := strings.Split(method, "_")
	for i, word := range words {
		words[i] = strings.ToUpper(word[:1]) + word[1:]
	}
	return strings.Join(words, "")
}

func printed(t *testing.T, document *document) []byte {
	t.Helper()
	text, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// comparison holds a document against this package.
type comparison struct {
	*document
	*source
	seen     map[string]bool
	problems []string
}

func compare(t *testing.T, document *document) []string {
	t.Helper()
	c := &comparison{document: document, source: readSource(t), seen: map[string]bool{}}
	client, methods := reflect.TypeOf(&Client{}), []string{"Close"}
	for _, method := range c.Methods {
		request := &node{Type: "object", Properties: map[string]*node{}}
		for _, param := range method.Params {
			property := *param.Schema
			property.Description = param.Description
			request.Properties[param.Name] = &property
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
		name := goName(method.Name)
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
	for kind, code := range map[Kind]int64{ErrInternal: codeInternal, ErrProtocolUnsupported: codeProtocolUnsupported} {
		if theirs := c.Components.Errors[string(kind)].Code; theirs != code {
			c.problem("%s: code %d in the schema, %d here", kind, theirs, code)
		}
	}
	if c.MaxRequest != maxRequest {
		c.problem("a request has at most %d bytes in the schema, %d here", c.MaxRequest, maxRequest)
	}
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
	case schema.Format == "byte-size" && kind != "integer":
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
		name := schema.Format
		if name == "" || name == "byte-size" { // A number of one unit.
			name = "uint64"
		}
		if goType.Name() != name {
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
			if len(field.Index) == 1 { // The others are said by the client itself.
				c.promise(where+"."+name, property, goType, field)
			}
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
	isPointer := field.Type.Kind() == reflect.Pointer
	isBool := field.Type.Kind() == reflect.Bool || isPointer && field.Type.Elem().Kind() == reflect.Bool
	if isBool && isPointer == (defaultIn(schema.Description) == "false.") {
		c.problem("%s: a nil pointer is for what is not always false when it is left out", where)
	}
}

// promise holds the default in the comment of a field against the one in its description.
func (c *comparison) promise(where string, schema *node, structure reflect.Type, field reflect.StructField) {
	if theirs, ours := defaultIn(schema.Description), c.defaultOf(structure, field); theirs != ours {
		c.problem("%s: the default is %q in the schema, %q here", where, theirs, ours)
	}
}

func jsonFields(goType reflect.Type) map[string]reflect.StructField {
	fields := map[string]reflect.StructField{}
	for _, field := range reflect.VisibleFields(goType) {
		if name := jsonName(field); name != "" && isDirect(goType, field) {
			fields[name] = field
		}
	}
	return fields
}

func jsonName(field reflect.StructField) string {
	name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
	return name
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
