package api

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// shape is what a wire type looks like in JSON. It is made once, from the type's tags, for the decoder and for OpenAPI.
type shape struct {
	kind    shapeKind
	name    string // of the Go type, for objects with fields
	elem    *shape // of arrays and maps
	fields  []shapeField
	index   map[string]int
	integer string // OpenAPI's minimum for unsigned numbers
}

type shapeField struct {
	name     string
	optional bool
	shape    *shape
}

type shapeKind uint8

const (
	kindAny shapeKind = iota
	kindString
	kindBytes
	kindTime
	kindInteger
	kindBool
	kindArray
	kindMap
	kindObject
)

func (k shapeKind) String() string {
	switch k {
	case kindString, kindBytes:
		return "a string"
	case kindTime:
		return "an RFC 3339 time"
	case kindInteger:
		return "an integer"
	case kindBool:
		return "true or false"
	case kindArray:
		return "an array"
	case kindMap, kindObject:
		return "an object"
	case kindAny:
	}
	return "a value"
}

var (
	timeType = reflect.TypeFor[time.Time]()
	rawType  = reflect.TypeFor[json.RawMessage]()
)

// shapeOf refuses what the decoder cannot hold: it is for the wire types, which are ours.
func shapeOf(t reflect.Type) (*shape, error) {
	switch {
	case t == timeType:
		return &shape{kind: kindTime}, nil
	case t == rawType:
		return &shape{kind: kindAny}, nil
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8:
		return &shape{kind: kindBytes}, nil
	}
	switch t.Kind() {
	case reflect.Pointer:
		return shapeOf(t.Elem())
	case reflect.String:
		return &shape{kind: kindString}, nil
	case reflect.Int, reflect.Int64:
		return &shape{kind: kindInteger}, nil
	case reflect.Uint64:
		return &shape{kind: kindInteger, integer: "0"}, nil
	case reflect.Bool:
		return &shape{kind: kindBool}, nil
	case reflect.Interface:
		return &shape{kind: kindAny}, nil
	case reflect.Slice, reflect.Map:
		return containerShape(t)
	case reflect.Struct:
		return structShape(t)
	default:
		return nil, fmt.Errorf("api: wire type %s has no JSON shape", t)
	}
}

func containerShape(t reflect.Type) (*shape, error) {
	elem, err := shapeOf(t.Elem())
	if err != nil {
		return nil, err
	}
	if t.Kind() == reflect.Map {
		return &shape{kind: kindMap, elem: elem}, nil
	}
	return &shape{kind: kindArray, elem: elem}, nil
}

// folds says whether encoding/json takes a name that is none of the fields for one of them.
func (s *shape) folds(name []byte) bool {
	return slices.ContainsFunc(s.fields, func(f shapeField) bool { return strings.EqualFold(f.name, string(name)) })
}

// maxFields is what the decoder's set of seen members holds.
const maxFields = 64

func structShape(t reflect.Type) (*shape, error) {
	if t.NumField() > maxFields {
		return nil, fmt.Errorf("api: wire type %s has more than %d fields", t, maxFields)
	}
	s := &shape{kind: kindObject, name: t.Name(), index: make(map[string]int, t.NumField())}
	for i := range t.NumField() {
		f := t.Field(i)
		name, rest, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" || f.Anonymous {
			return nil, fmt.Errorf("api: wire type %s: field %s has no JSON name", t, f.Name)
		}
		sub, err := shapeOf(f.Type)
		if err != nil {
			return nil, err
		}
		s.index[name] = len(s.fields)
		s.fields = append(s.fields, shapeField{name: name, optional: strings.Contains(rest, "omit"), shape: sub})
	}
	return s, nil
}
