package examples

import (
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	_ "modernc.org/sqlite"
)

// TestJourney has the runner post to a server that refuses the first attempt.
func TestJourney(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var bodies []string
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		if bodies = append(bodies, string(body)); len(bodies) == 1 {
			http.Error(w, "try again", http.StatusInternalServerError)
		}
	}))
	defer sink.Close()
	file := filepath.Join(t.TempDir(), "users.db")
	p := start(t, "./journey", "DATABASE_FILE="+file, "SINK_URL="+sink.URL)
	db, err := sql.Open("sqlite", file+"?_pragma=busy_timeout(10000)")
	must(t, err)
	defer db.Close()
	eventually(t, func() (bool, string) {
		_, err := db.Exec(`INSERT INTO box (id, payload) VALUES ('f3b1c9a2-6c1e-7d53-8a52-0d6a1f2e9c11', '{"id":7,"name":"Ada"}')`)
		return err == nil, fmt.Sprint(err)
	})
	eventually(t, func() (bool, string) {
		var status string
		err := db.QueryRow(`SELECT status || ' ' || retries FROM box`).Scan(&status)
		return status == "PUBLISHED 1", fmt.Sprintf("%s, %v\n%s", status, err, p.output())
	})
	mu.Lock()
	defer mu.Unlock()
	for i, body := range bodies {
		if !strings.Contains(body, `"id":"f3b1c9a2-6c1e-7d53-8a52-0d6a1f2e9c11"`) || !strings.Contains(body, `"name":"Ada"`) {
			t.Errorf("post %d is %s", i+1, body)
		}
	}
}
