package bench

import (
	"log/slog"
	"os"
	"strconv"
	"testing"
	"time"
)

func TestTmpEmit(t *testing.T) {
	rounds, _ := strconv.Atoi(os.Getenv("ROUNDS"))
	conns, _ := strconv.Atoi(os.Getenv("CONNS"))
	r, err := Emit(t.Context(), EmitOptions{DatabaseURL: os.Getenv("PGURL"), Connections: conns, Rounds: rounds, Slice: 500 * time.Millisecond, Payload: 250, Logger: slog.Default()})
	if err != nil {
		t.Fatal(err)
	}
	r.WriteTable(os.Stdout)
	r.WriteJSON(os.Stdout)
}
