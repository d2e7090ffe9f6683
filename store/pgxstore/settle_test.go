package pgxstore_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/outbox-go/outbox/store"
)

// TestSettleDeletesTheseAlone with neighbours, gaps and strangers among the positions,
// ids that do not fit, and several ids for a position.
func TestSettleDeletesTheseAlone(t *testing.T) {
	t.Parallel()
	for _, step := range []int{1, 2, 3, 5, 30} {
		t.Run(fmt.Sprint("every ", step), func(t *testing.T) {
			t.Parallel()
			s, _, _ := openStore(t, nil)
			emit(t, s, numbered("topic", 300)...)
			all := firstRefs(t, s, 300, 1)
			var asked, want []store.Ref
			for i, ref := range all {
				switch other := (store.Ref{Position: ref.Position, ID: uuid.NewString()}); {
				case i%step != 0:
					want = append(want, ref)
				case i%(7*step) == 0: // another id
					asked, want = append(asked, other), append(want, ref)
				case i%(5*step) == 0: // two ids
					asked = append(asked, other, ref, ref)
				default:
					asked = append(asked, ref)
				}
			}
			slices.Reverse(asked)
			must(t, s.Settle(t.Context(), asked, false))
			if got := firstRefs(t, s, 300, 1); !slices.Equal(got, want) {
				t.Fatalf("%d messages are left, want %d", len(got), len(want))
			}
		})
	}
}
