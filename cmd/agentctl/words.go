package main

import (
	"fmt"
	"math"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// none stands where there is nothing to show: not known is not zero.
const none = "-"

// word is an enum's value as people say it: RUN_STATE_RUNNING is "running".
// The zero value is [none].
func word(value protoreflect.Enum) string {
	if value.Number() == 0 {
		return none
	}
	described := value.Descriptor().Values().ByNumber(value.Number())
	if described == nil {
		return fmt.Sprintf("state %d", value.Number()) // of a newer control plane
	}
	zero := string(value.Descriptor().Values().ByNumber(0).Name())
	name := strings.TrimPrefix(string(described.Name()), strings.TrimSuffix(zero, "UNSPECIFIED"))
	return strings.ToLower(strings.ReplaceAll(name, "_", " "))
}

// state is a word in the colour of what it means.
func state(value protoreflect.Enum) cell {
	w := word(value)
	switch w {
	case "connected", "running", "succeeded", "verified", "replicated", "healthy", "resolved", "delivered", "recorded":
		return cell{w, good}
	case "restarting", "stopped", "suspect", "warning", "acknowledged", "pending":
		return cell{w, warn}
	case "disconnected", "failed", "poisoned", "critical", "firing":
		return cell{w, bad}
	default:
		return cell{w, plainStyle}
	}
}

// orNone is a text or [none].
func orNone(text string) string {
	if text == "" {
		return none
	}
	return text
}

// age is how long ago something was, in one unit.
func age(now time.Time, t *timestamppb.Timestamp) string {
	if t == nil {
		return none
	}
	return coarse(now.Sub(t.AsTime()))
}

func coarse(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(int(d.Seconds()), 0))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

// exact is a duration as the story of an incident needs it.
func exact(d time.Duration) string {
	switch size := d.Abs(); {
	case size < 10*time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case size < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case size < time.Hour:
		return fmt.Sprintf("%d m %02d s", int(d.Minutes()), int(d.Seconds())%60)
	default:
		return fmt.Sprintf("%d h %02d m", int(d.Hours()), int(d.Minutes())%60)
	}
}

// since is the time from a beginning, with its sign.
func since(begin, t *timestamppb.Timestamp) string {
	if begin == nil || t == nil {
		return none
	}
	d := t.AsTime().Sub(begin.AsTime())
	if d < 0 {
		return exact(d)
	}
	return "+" + exact(d)
}

// clock is a time of day, or a date too when it is long past.
func clock(now time.Time, t *timestamppb.Timestamp) string {
	if t == nil {
		return none
	}
	local := t.AsTime().Local()
	if now.Sub(local).Abs() > 20*time.Hour {
		return local.Format("2006-01-02 15:04:05")
	}
	return local.Format("15:04:05")
}

// size is a number of bytes with a decimal unit.
func size(bytes int64) string {
	if bytes < 1000 {
		return fmt.Sprintf("%d B", bytes)
	}
	value := float64(bytes)
	for _, unit := range []string{"KB", "MB", "GB", "TB"} {
		value /= 1000
		if value < 999.95 || unit == "TB" {
			return fmt.Sprintf("%.1f %s", value, unit)
		}
	}
	return none
}

// number is a measured value in few digits; absent is [none].
func number(value *float64) string {
	if value == nil {
		return none
	}
	switch size := math.Abs(*value); {
	case *value == math.Trunc(*value) && size < 1e6:
		return fmt.Sprintf("%.0f", *value)
	case size >= 1000 || size < 0.001:
		return fmt.Sprintf("%.3g", *value)
	default:
		return fmt.Sprintf("%.4g", *value)
	}
}

// progress is a run's steps: "1412/3000".
func progress(step, total int64) string {
	if total == 0 {
		return fmt.Sprint(step)
	}
	return fmt.Sprintf("%d/%d", step, total)
}

// count is a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// short is the beginning of a digest.
func short(digest string) string {
	if len(digest) <= 12 {
		return digest
	}
	return digest[:12] + "…"
}
