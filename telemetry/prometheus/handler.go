package promoutbox

import (
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// maxScrapes is how many scrapes are answered at once.
const maxScrapes = 4

// Handler answers /healthz, by which an orchestrator sees that the process lives;
// /readyz, with 200 if each of ready returns nil, else with 503 and the reasons as
// lines of text; and /metrics with what gatherer has. ready are mostly the methods
// Ready of relays.
func Handler(gatherer prometheus.Gatherer, ready ...func() error) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		reasons := ""
		for _, check := range ready {
			if err := check(); err != nil {
				reasons += err.Error() + "\n"
			}
		}
		if reasons != "" {
			answer(w, http.StatusServiceUnavailable, reasons)
			return
		}
		answer(w, http.StatusOK, "ok\n")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes}))
	return mux
}

func answer(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	fmt.Fprint(w, text)
}
