package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// Run is what one run of one system has measured.
type Run struct {
	Round  int                `json:"round"` // from 0
	System string             `json:"system"`
	Values map[string]float64 `json:"values"`
}

// Measurement is all that one section has measured, in one go.
type Measurement struct {
	At         time.Time         `json:"at"`
	Commit     string            `json:"commit"`
	Rounds     int               `json:"rounds"`
	Conditions []Condition       `json:"conditions"`
	Commands   map[string]string `json:"commands"` // by system, as they were run
	Runs       []Run             `json:"runs"`
}

// Condition is something that the figures depend on, such as the processor.
type Condition struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Results are the measurements by section.
type Results map[string]*Measurement

// Read returns the results in a file, none if there is no such file.
func Read(path string) (Results, error) {
	results := Results{}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return results, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &results); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return results, nil
}

// Write writes the results into a file.
func (r Results) Write(path string) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644) //nolint:gosec // it is a part of the source, for all to read
}
