package scenario

import "testing"

func TestIperfResult(t *testing.T) {
	for _, tt := range []struct {
		name, said string
		want       float64 // zero: an error
	}{
		{"as it ends", `{"start":{},"end":{"sum_sent":{"bits_per_second":5e9},"sum_received":{"bits_per_second":4.5e9}}}`, 4.5},
		{"an error", `{"start":{},"end":{},"error":"unable to connect to server"}`, 0},
		{"nothing arrived", `{"end":{"sum_received":{"bits_per_second":0}}}`, 0},
		{"no JSON", `iperf3: parameter error`, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := iperfResult([]byte(tt.said))
			if got != tt.want || (err == nil) != (tt.want > 0) {
				t.Errorf("%v, %v; want %v", got, err, tt.want)
			}
		})
	}
}

func FuzzIperfResult(f *testing.F) {
	f.Add([]byte(`{"end":{"sum_received":{"bits_per_second":4.5e9}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if got, err := iperfResult(raw); (err == nil) != (got > 0) {
			t.Errorf("%v, %v", got, err)
		}
	})
}
