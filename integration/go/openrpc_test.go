package vmdisk

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
)

// node is a schema: the part of JSON Schema that the program's document has.
type node struct {
	Description string `json:"description,omitempty"`

	Ref        string           `json:"$ref,omitempty"`
	Type       any              `json:"type,omitempty"`
	Format     string           `json:"format,omitempty"`
	Const      string           `json:"const,omitempty"`
	Properties map[string]*node `json:"properties,omitempty"`
	Required   []string         `json:"required,omitempty"`
	Items      *node            `json:"items,omitempty"`
	AllOf      []*node          `json:"allOf,omitempty"`
	AnyOf      []*node          `json:"anyOf,omitempty"`
	OneOf      []*node          `json:"oneOf,omitempty"`

	also map[string][]*node // What other alternatives say of the same properties.
}

// document is what `vmdisk schema` prints.
type document struct {
	Methods []struct {
		Name   string
		Params []struct {
			Name        string
			Description string
			Required    bool
			Schema      *node
		}
		Result struct{ Schema *node }
	}
	Components struct {
		Schemas map[string]*node
		Errors  map[string]kindOf
	}
	Error      *node `json:"x-error"`
	MaxRequest int   `json:"x-max-request-bytes"`
}

// kindOf is what the document says of a kind of failure.
type kindOf struct{ Code int64 }

// parsed is what the program prints.
func parsed(t *testing.T) *document {
	t.Helper()
	text, err := exec.Command(program(t), "schema").Output()
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, text)
}

func parse(t *testing.T, text []byte) *document {
	t.Helper()
	parsed := new(document)
	if err := json.Unmarshal(text, parsed); err != nil {
		t.Fatal(err)
	}
	return parsed
}

// resolved is a schema without references, alternatives to null, and parts that all hold.
// Alternatives that are objects become one that has the fields of each.
func (d *document) resolved(schema *node) *node {
	if schema.Ref != "" {
		name := strings.TrimPrefix(schema.Ref, "#/components/schemas/")
		return d.resolved(d.Components.Schemas[name])
	}
	var parts []*node
	for _, part := range append(append([]*node(nil), schema.AllOf...), schema.AnyOf...) {
		if part.Type != "null" {
			parts = append(parts, d.resolved(part))
		}
	}
	if len(schema.OneOf) > 0 && schema.OneOf[0].Const == "" && schema.Type == "object" {
		for _, part := range schema.OneOf {
			parts = append(parts, d.resolved(part))
		}
	}
	if len(parts) == 0 {
		return schema
	}
	if len(parts) == 1 && schema.Properties == nil {
		return parts[0]
	}
	merged := &node{Type: "object", Properties: map[string]*node{}, also: map[string][]*node{}}
	for _, part := range append(parts, &node{Properties: schema.Properties}) {
		for name, property := range part.Properties {
			if known := merged.Properties[name]; known != nil && len(known.alternatives()) > 0 {
				property = &node{Type: "string", OneOf: append(known.alternatives(), property.alternatives()...)}
			} else if known != nil {
				merged.also[name] = append(merged.also[name], known)
			}
			merged.Properties[name] = property
		}
	}
	return merged
}

func (n *node) alternatives() []*node {
	if n.Const != "" {
		return []*node{n}
	}
	return n.OneOf
}
