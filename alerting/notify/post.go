package notify

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Bounds on a receiver's answer: what is read of it, and what is shown of that.
const (
	answerBytes = 4096
	answerRunes = 200
)

// Post is one JSON request to one receiver.
type Post struct {
	// Method is POST when it is empty.
	Method string
	// URL is where to; it has been checked with [CheckURL].
	URL Secret
	// Path is added to the URL's path.
	Path string
	// Query is added to the URL; it holds no secrets.
	Query url.Values
	// Headers are the user's own; they win over those that Send sets.
	Headers map[string]Secret
	// Body is JSON.
	Body []byte
	// Key is sent as Idempotency-Key where it is not empty.
	Key string
	// Traceparent is sent as such where it is not empty.
	Traceparent string
	// Hide is what no error text may hold besides URL and headers: secrets in the
	// body.
	Hide []string
	// AnswerBytes is how much of the answer is read; 0 means 4 KiB.
	AnswerBytes int64
}

// Reply is what a receiver that took a request said. Body is as much of it as
// was asked for; that may be cut off.
type Reply struct {
	Status int
	Header http.Header
	Body   []byte
}

// Send makes one try. A 2xx answer is a success, whatever its body. 429, and
// 503 with a time to wait, are throttled; 408, 425, 5xx and everything that
// goes wrong on the way can be tried again; every other answer, redirects
// among them, is permanent. Error texts hold no part of URL or headers.
func (p Post) Send(ctx context.Context, deps Deps) (Reply, error) {
	request, secrets, err := p.request(ctx)
	if err != nil {
		return Reply{}, err
	}
	response, err := client(deps).Do(request)
	if err != nil {
		return Reply{}, fault.New(fault.Unavailable, "post notification: %w", withoutURL(err, secrets))
	}
	defer response.Body.Close()
	if response.StatusCode/100 != 2 {
		return Reply{}, refused(response, answer(response.Body, secrets), deps.Now())
	}
	// A success whose body is cut off is still one.
	body, _ := io.ReadAll(io.LimitReader(response.Body, cmp.Or(p.AnswerBytes, answerBytes)))
	deps.Say(strings.TrimSpace(response.Status + " " + answer(bytes.NewReader(body), secrets)))
	return Reply{Status: response.StatusCode, Header: response.Header, Body: body}, nil
}

// request makes the HTTP request and gives the secrets in it, the longest
// first.
func (p Post) request(ctx context.Context) (*http.Request, []string, error) {
	text, err := p.URL.Reveal()
	if err != nil {
		return nil, nil, err
	}
	headers := make(map[string]string, len(p.Headers))
	for name, value := range p.Headers {
		if headers[name], err = value.Reveal(); err != nil {
			return nil, nil, err
		}
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, nil, Permanent(fault.New(fault.Invalid, "post notification: the URL cannot be read"))
	}
	secrets := secretsOf(u, headers, p.Hide...)
	if p.Path != "" {
		u = u.JoinPath(p.Path)
	}
	if len(p.Query) > 0 {
		u.RawQuery = p.Query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, cmp.Or(p.Method, http.MethodPost), u.String(), bytes.NewReader(p.Body))
	if err != nil {
		return nil, nil, Permanent(fault.New(fault.Invalid, "post notification: %s", redact(err.Error(), secrets)))
	}
	p.setHeaders(request, headers)
	return request, secrets, nil
}

func (p Post) setHeaders(request *http.Request, headers map[string]string) {
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "vigil")
	if p.Key != "" {
		request.Header.Set("Idempotency-Key", p.Key)
	}
	if p.Traceparent != "" {
		request.Header.Set("Traceparent", p.Traceparent)
	}
	for name, value := range headers {
		request.Header.Set(name, value)
	}
}

// client is the injected one without redirects: to follow one would hand the
// user's headers to whoever it names.
func client(deps Deps) *http.Client {
	var c http.Client
	if deps.HTTPClient != nil {
		c = *deps.HTTPClient
	}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &c
}

// refused turns an answer that is no success into the error that says what to
// do.
func refused(response *http.Response, text string, now time.Time) error {
	status := response.StatusCode
	format, args := "post notification: the receiver answered %s", []any{http.StatusText(status)}
	if args[0] == "" {
		args[0] = "with an unknown status"
	}
	format, args = format+" (%d)", append(args, status)
	if text != "" {
		format, args = format+": %s", append(args, text)
	}
	wait, asked := retryAfter(response.Header, now)
	say := func(kind fault.Kind) error {
		return &StatusError{Status: status, err: fault.New(kind, format, args...)}
	}
	switch {
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable && asked:
		if !asked {
			return say(fault.Exhausted)
		}
		return Throttled(say(fault.Exhausted), wait)
	case status >= 500, status == http.StatusRequestTimeout, status == http.StatusTooEarly:
		return say(fault.Unavailable)
	default:
		return Permanent(say(fault.Invalid))
	}
}

// StatusError is a receiver's answer that is no success.
type StatusError struct {
	Status int // of HTTP
	err    error
}

// Error is what the receiver said, without secrets.
func (e *StatusError) Error() string { return e.err.Error() }

// Unwrap gives the cause.
func (e *StatusError) Unwrap() error { return e.err }

// StatusOf gives the HTTP status that an error is about, 0 for none.
func StatusOf(err error) int {
	if e, ok := errors.AsType[*StatusError](err); ok {
		return e.Status
	}
	return 0
}

// retryAfter reads the header of that name, in seconds or as a date. A date is
// taken against the receiver's own clock where it tells it. A wait that is
// over counts as one second.
func retryAfter(header http.Header, now time.Time) (time.Duration, bool) {
	value := strings.TrimSpace(header.Get("Retry-After"))
	if seconds, err := strconv.ParseInt(value, 10, 32); err == nil {
		return max(time.Second, time.Duration(seconds)*time.Second), true
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	if theirs, err := http.ParseTime(header.Get("Date")); err == nil {
		now = theirs
	}
	return max(time.Second, at.Sub(now)), true
}

// withoutURL takes the URL out of the error of a request; what it was caused
// by stays to be asked for.
func withoutURL(err error, secrets []string) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	return &redacted{text: redact(err.Error(), secrets), err: err}
}

// Redacted takes secrets out of the text of an error that comes from elsewhere.
// What it was caused by can still be asked for with errors.Is, and an error of
// a protocol with errors.As; nil stays nil.
func Redacted(err error, secrets ...string) error {
	if err == nil {
		return nil
	}
	secrets = slices.DeleteFunc(secrets, func(s string) bool { return s == "" })
	if text := redact(err.Error(), secrets); text != err.Error() {
		return &redacted{text: text, err: err}
	}
	return err
}

// redacted is an error whose text has no secret.
type redacted struct {
	text string
	err  error
}

// Error is the text without secrets.
func (e *redacted) Error() string { return e.text }

// Is keeps errors.Is without handing out the error itself, whose text and
// fields may hold the URL.
func (e *redacted) Is(target error) bool { return errors.Is(e.err, target) }

// answer reads what a receiver says, fit for a log line and without secrets.
// What it could not read is left out.
func answer(body io.Reader, secrets []string) string {
	text, _ := io.ReadAll(io.LimitReader(body, answerBytes))
	if len(text) == answerBytes && len(secrets) > 0 {
		// The cut may go through a secret, which would then not be recognised.
		text = text[:max(0, answerBytes-len(secrets[0]))]
	}
	line := strings.Join(strings.Fields(redact(strings.ToValidUTF8(string(text), "?"), secrets)), " ")
	line = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, line)
	if runes := []rune(line); len(runes) > answerRunes {
		line = string(runes[:answerRunes]) + "..."
	}
	return line
}
