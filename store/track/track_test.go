package track_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/outbox-go/outbox/store/track"
)

var users = track.Subject{
	Schema: "shop", Name: "users", PrimaryKey: []string{"id"},
	Columns: []track.Column{{Name: "name", Type: "text"}, {Name: "id", Type: "bigint"}, {Name: "secret", Type: "text"}},
}

func TestResolveFillsInDefaults(t *testing.T) {
	t.Parallel()
	d, err := track.Resolve(nil, users)
	if err != nil {
		t.Fatal(err)
	}
	const want = "[insert update delete] [name id secret] true {table}.{op} [id] [{name text} {id bigint} {secret text}]"
	if got := fmt.Sprint(d.On, " ", d.Fields, " ", d.All, " ", d.Topic, " ", d.Key, " ", d.Columns); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if topic := d.TopicOf(track.Delete); topic != "users.delete" {
		t.Errorf("topic %q", topic)
	}
}

func TestResolveKeepsWhatIsGiven(t *testing.T) {
	t.Parallel()
	d, err := track.Resolve(&track.Config{
		On: []track.Op{track.Delete, track.Insert}, Fields: []string{"secret"}, Topic: "{schema}.{op}.{table}", Key: []string{"name", "id"},
	}, users)
	if err != nil {
		t.Fatal(err)
	}
	const want = "[insert delete] [secret] false [name id] [{name text} {id bigint} {secret text}] shop.insert.users"
	if got := fmt.Sprint(d.On, " ", d.Fields, " ", d.All, " ", d.Key, " ", d.Columns, " ", d.TopicOf(track.Insert)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestResolveReportsAllThatIsWrong(t *testing.T) {
	t.Parallel()
	folded := users
	folded.FoldCase = true
	view := track.Subject{Name: "view", Fault: "is a view"}
	for _, tc := range []struct {
		config  track.Config
		subject track.Subject
		want    []string
	}{
		{track.Config{On: []track.Op{"", "insert", "insert"}, Fields: []string{"NAME"}, Topic: "{tabel}", Key: []string{"x"}}, users,
			[]string{`On is no change`, `On "insert" is given twice`, `Topic "{tabel}" has braces`, `Fields "NAME" is no column of users, which has name, id, secret`, `Key "x" is no column`}},
		{track.Config{Fields: []string{"NAME", "name"}}, folded, []string{`Fields "name" is given twice`}},
		{track.Config{Fields: []string{"\u212aEY", "Key"}}, track.Subject{Name: "t", Columns: []track.Column{{Name: "key"}}, PrimaryKey: []string{"key"}, FoldCase: true}, []string{"Fields \"\u212aEY\" is no column"}},
		{track.Config{Topic: "t"}, track.Subject{Name: "a\x7fb", Columns: users.Columns, PrimaryKey: []string{"id"}}, []string{`Table "a\x7fb" has the control character '\x7f'`}},
		{track.Config{Topic: "t"}, track.Subject{Name: strings.Repeat("n", 513), Columns: users.Columns, PrimaryKey: []string{"id"}}, []string{`Table "nnn`}},
		{track.Config{Topic: strings.Repeat("x", 300)}, view, []string{`Topic "xxx`, `Table "view" is a view`}},
		{track.Config{}, track.Subject{Name: "a b", Columns: users.Columns}, []string{`Topic "{table}.{op}" would be "a b.insert", which`, `Key is not given, and a b has no primary key`}},
	} {
		_, err := track.Resolve(&tc.config, tc.subject)
		var fault *track.FieldError
		if !errors.As(err, &fault) {
			t.Errorf("%+v: the error is %v", tc.config, err)
		}
		lines := strings.Split(fmt.Sprint(err), "\n")
		if !slices.EqualFunc(lines, tc.want, strings.HasPrefix) {
			t.Errorf("%+v: the error is %q, want %q", tc.config, lines, tc.want)
		}
	}
	if err := (*track.Config)(nil).Validate(); err != nil {
		t.Errorf("no config is wrong: %v", err)
	}
}

func TestChangesAreToldByPlace(t *testing.T) {
	t.Parallel()
	d, err := track.Resolve(&track.Config{Fields: []string{"name"}}, users)
	if err != nil {
		t.Fatal(err)
	}
	same := track.State{Schema: "shop", Table: "users", Used: users.Columns[:2], Unused: []track.Column{{Name: "more"}}}
	if got := d.Changes(same); got == nil || len(got) != 0 {
		t.Errorf("changed has %q, want nothing that is not nil", got)
	}
	got := d.Changes(track.State{Schema: "old", Table: "users", Faults: []string{"broken"}, Used: []track.Column{{Name: "id", Type: "text"}, {Name: "name", Type: "text"}}})
	want := []string{
		"broken", "was called shop.users when it was tracked; topic and type go by that name", "column name is called id now; messages keep the old name",
		"column id is called name now; messages have it in their key alone", "column name was of type bigint and is of type text now",
	}
	if !slices.Equal(got, want) {
		t.Errorf("changed has %q, want %q", got, want)
	}
}
