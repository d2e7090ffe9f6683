package config

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// readFile takes over what the file sets.
func (l *Loaded) readFile(s Sources) {
	fault := func(reason string) {
		l.problems = append(l.problems, Problem{Key: "config", Value: s.File, Origin: s.FileOrigin, Reason: reason})
	}
	data, err := os.ReadFile(s.File)
	if err != nil {
		var path *os.PathError
		if errors.As(err, &path) {
			err = path.Err
		}
		fault("cannot be read: " + err.Error())
		return
	}
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err != nil {
		fault("is not YAML: " + strings.TrimPrefix(err.Error(), "yaml: "))
		return
	}
	if len(document.Content) == 0 {
		return // empty
	}
	f := &file{Loaded: l, path: s.File, env: s.Env}
	f.mapping(document.Content[0], "")
}

// file is a file while it is read.
type file struct {
	*Loaded
	path string
	env  func(string) (string, bool)
}

func (f *file) origin(n *yaml.Node) string { return fmt.Sprintf("%s:%d", f.path, n.Line) }

func (f *file) fault(key string, n *yaml.Node, reason string) {
	f.problems = append(f.problems, Problem{Key: key, Origin: f.origin(n), Reason: reason})
}

// mapping reads the keys below prefix.
func (f *file) mapping(n *yaml.Node, prefix string) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.MappingNode {
		if n.Tag != "!!null" {
			f.fault(strings.TrimSuffix(prefix, "."), n, "must have keys below it: "+strings.Join(below(prefix), ", "))
		}
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		name := prefix + key.Value
		switch {
		case seen[name]:
			f.fault(name, key, "is there twice: remove one of them")
		case slices.ContainsFunc(Keys, func(k *Key) bool { return k.Name == name }):
			f.value(keyNamed(name), value)
		case name == routesKey:
			f.routesMapping(value)
		case len(below(name+".")) > 0:
			f.mapping(value, name+".")
		default:
			f.fault(name, key, "is not a key"+f.meant(name, prefix))
		}
		seen[name] = true
	}
}

// meant says what name may have been meant to be: a neighbour, or a key of
// another place.
func (f *file) meant(name, prefix string) string {
	last := strings.TrimPrefix(name, prefix)
	if near := nearest(last, below(prefix)); near != "" {
		return "; did you mean " + prefix + near + "?"
	}
	for _, k := range Keys {
		if k.Name == strings.ReplaceAll(name, "-", "_") || strings.HasSuffix(k.Name, "."+last) {
			return "; did you mean " + k.Name + "?"
		}
	}
	return "; there are " + strings.Join(below(prefix), ", ")
}

// below returns the words that may follow prefix, each once.
func below(prefix string) (words []string) {
	if prefix == "" {
		defer func() { words = append(words, routesKey) }()
	}
	for _, k := range Keys {
		if rest, ok := strings.CutPrefix(k.Name, prefix); ok {
			word, _, _ := strings.Cut(rest, ".")
			if !slices.Contains(words, word) {
				words = append(words, word)
			}
		}
	}
	return words
}

// value takes over the value of a key.
func (f *file) value(k *Key, n *yaml.Node) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	nodes := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode && k.List() {
		nodes = n.Content
	}
	values, good := f.scalars(k.Name, nodes, "must be a single value")
	if good && len(values) > 0 {
		f.settings[k.Name] = setting{values: k.split(values), origin: f.origin(n)}
	} else if !good {
		f.settings[k.Name] = setting{broken: true}
	}
}

// scalars returns the values of nodes, each of which must be a single one or null,
// which counts as if it were not there. It reports what is wrong with them, and what
// must be there instead of a node that is something else.
func (f *file) scalars(key string, nodes []*yaml.Node, must string) (values []string, good bool) {
	good = true
	for _, node := range nodes {
		switch {
		case node.Kind != yaml.ScalarNode:
			f.fault(key, node, must)
			good = false
		case node.Tag != "!!null":
			value, faults := f.substitute(node.Value)
			for _, reason := range faults {
				f.fault(key, node, reason)
				good = false
			}
			values = append(values, value)
		}
	}
	return values, good
}

// reference is ${NAME}, ${NAME:-value for when it is not set}, or $${, which
// stands for a plain ${.
var reference = regexp.MustCompile(`\$\$\{|\$\{[^}]*\}?`)

var referenceName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// substitute replaces references by the values of variables, and says what is
// wrong with those that it cannot replace.
func (f *file) substitute(text string) (string, []string) {
	var faults []string
	out := reference.ReplaceAllStringFunc(text, func(match string) string {
		if match == "$${" {
			return "${"
		}
		name, fallback, hasFallback := strings.Cut(strings.TrimSuffix(match[2:], "}"), ":-")
		if !strings.HasSuffix(match, "}") || !referenceName.MatchString(name) {
			faults = append(faults, "has a ${ that does not begin the name of a variable in braces: write $${ for the characters themselves")
			return ""
		}
		if f.env != nil {
			if value, ok := f.env(name); ok && (value != "" || !hasFallback) {
				return value
			}
		}
		if !hasFallback {
			faults = append(faults, fmt.Sprintf("names the variable %s, which is not set: set it, or write ${%s:-value}", name, name))
		}
		return fallback
	})
	return out, faults
}
