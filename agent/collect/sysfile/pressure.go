package sysfile

import "bytes"

// Pressure reads a file of stall times, the machine's or a control group's:
//
//	some avg10=0.00 avg60=0.00 avg300=0.00 total=12345
//
// and gives for each scope, "some" or "full", the total in seconds.
func Pressure(data []byte, yield func(scope string, seconds float64)) {
	for line := range Lines(data) {
		first, _ := Field(line)
		scope := "some"
		if string(first) == "full" {
			scope = "full"
		} else if string(first) != "some" {
			continue
		}
		_, total, ok := bytes.Cut(line, []byte("total="))
		micros, isNumber := Uint(total)
		if ok && isNumber {
			yield(scope, float64(micros)/1e6)
		}
	}
}
