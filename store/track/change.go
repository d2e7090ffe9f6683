package track

import (
	"fmt"
	"slices"
)

// State is what has become of a tracked table, as a store finds it.
type State struct {
	Schema, Table string
	Used          []Column // that the triggers read, in the table's order
	Unused        []Column // the others

	// Faults are what the store has found by itself, in words.
	Faults []string
}

// Changes says in words what is different from what was tracked. A column keeps its
// place among those that the triggers read whatever it is called, and cannot leave
// them; so that is by which they are compared.
func (d *Definition) Changes(now State) []string {
	changes := append([]string{}, now.Faults...)
	if now.Schema != d.Schema || now.Table != d.Table {
		changes = append(changes, fmt.Sprintf("was called %s when it was tracked; topic and type go by that name", qualified(d.Schema, d.Table)))
	}
	for i := range min(len(d.Columns), len(now.Used)) {
		was, is := d.Columns[i], now.Used[i]
		if is.Name != was.Name {
			effect := "messages keep the old name"
			if !slices.Contains(d.Fields, was.Name) {
				effect = "messages have it in their key alone"
			}
			changes = append(changes, fmt.Sprintf("column %s is called %s now; %s", was.Name, is.Name, effect))
		}
		if is.Type != was.Type {
			changes = append(changes, fmt.Sprintf("column %s was of type %s and is of type %s now", is.Name, was.Type, is.Type))
		}
	}
	if d.All {
		for _, column := range now.Unused {
			changes = append(changes, fmt.Sprintf("column %s is new; messages do not have it", column.Name))
		}
	}
	return changes
}

func qualified(schema, table string) string {
	if schema == "" {
		return table
	}
	return schema + "." + table
}
