package email

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"image/png"
	"io"
	"log/slog"
	"math"
	"math/big"
	"net"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"go.uber.org/goleak"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/alerting/notify/notifytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// post is an SMTP server that keeps mail and wants a login.
type post struct {
	mu       sync.Mutex
	mails    []string
	password string
	refuse   error // to every mail
}

func (p *post) NewSession(*smtp.Conn) (smtp.Session, error) { return &session{p: p}, nil }

func (p *post) all() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mails
}

type session struct {
	p  *post
	in bool
}

func (s *session) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user != "vigil" || password != s.p.password {
			return smtp.ErrAuthFailed
		}
		s.in = true
		return nil
	}), nil
}

func (s *session) Mail(string, *smtp.MailOptions) error {
	if s.p.password != "" && !s.in {
		return smtp.ErrAuthRequired
	}
	return s.p.refuse
}
func (s *session) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (s *session) Reset()                               {}
func (s *session) Logout() error                        { return nil }

func (s *session) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.p.mails = append(s.p.mails, string(text))
	return err
}

// certificate makes one for 127.0.0.1 and gives the file that it is checked
// with.
func certificate(t *testing.T) (*tls.Config, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, file
}

// serve starts the server; implicit TLS, STARTTLS or none.
func serve(t *testing.T, p *post, mode string) Config {
	t.Helper()
	server := smtp.NewServer(p)
	server.Domain, server.ErrorLog = "mail.example", discard{}
	config := Config{Host: "127.0.0.1", TLS: mode, From: "Vigil <vigil@example.org>", To: []string{"Ada <ada@example.org>", "bob@example.org"}}
	var tlsConfig *tls.Config
	tlsConfig, config.CAFile = certificate(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config.Port = l.Addr().(*net.TCPAddr).Port
	switch mode {
	case tlsImplicit:
		l = tls.NewListener(l, tlsConfig)
	case tlsStart:
		server.TLSConfig = tlsConfig
	}
	if p.password != "" {
		config.Username, config.Password = "vigil", notify.Secret(p.password)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return config
}

type discard struct{}

func (discard) Printf(string, ...any) {}
func (discard) Println(...any)        {}

// losses is a run's loss with a gap and an explosion.
type losses struct{ err error }

func (l losses) Loss(context.Context, string, time.Time) ([]notify.Point, error) {
	var points []notify.Point
	for step := range int64(100) {
		loss := 2 / (1 + float64(step)/10)
		switch {
		case step == 40:
			loss = math.NaN()
		case step > 90:
			loss = math.Inf(1)
		}
		points = append(points, notify.Point{Step: 370 + step, Loss: loss})
	}
	return points, l.err
}

func newNotifier(t *testing.T, config Config, series notify.Series) notify.Notifier {
	t.Helper()
	n, err := New(config, notify.Deps{Log: slog.New(slog.DiscardHandler), Receiver: "mail", Series: series, ExternalURL: "http://vigil.example"})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func tell(t *testing.T, n notify.Notifier, d alert.Delivery) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return n.Notify(ctx, d)
}

func parse(t *testing.T, text string) *mail.Message {
	t.Helper()
	m, err := mail.ReadMessage(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return m
}

func TestAnIncidentIsOneThread(t *testing.T) {
	for _, mode := range []string{tlsStart, tlsImplicit} {
		p := &post{password: "s3cret"}
		n := newNotifier(t, serve(t, p, mode), losses{})
		for _, d := range []alert.Delivery{notifytest.Firing(), notifytest.Firing(), notifytest.Resolved()} {
			if err := tell(t, n, d); err != nil {
				t.Fatalf("%s: %v", mode, err)
			}
		}
		first, again, over := parse(t, p.all()[0]), parse(t, p.all()[1]), parse(t, p.all()[2])
		if id := first.Header.Get("Message-ID"); id == "" || again.Header.Get("Message-ID") != id || over.Header.Get("Message-ID") == id {
			t.Errorf("message ids %q, again %q, over %q", id, again.Header.Get("Message-ID"), over.Header.Get("Message-ID"))
		}
		for _, name := range []string{"References", "In-Reply-To", "Subject"} {
			if v := first.Header.Get(name); v == "" || over.Header.Get(name) != v {
				t.Errorf("%s: %q and %q, want the same", name, v, over.Header.Get(name))
			}
		}
		for _, want := range []string{"text/plain", "text/html", "image/png", "<loss.png>", "ada@example.org", "step 412"} {
			if !strings.Contains(p.all()[0], want) {
				t.Errorf("the mail has no %q", want)
			}
		}
	}
}

func TestNothingBecomesAHeader(t *testing.T) {
	p := &post{}
	n := newNotifier(t, serve(t, p, tlsNone), nil)
	for _, evil := range []string{"r\r\nBcc: eve@example.com", "r\nBcc: eve@example.com\n\nbody", "r\u2028Bcc: eve@example.com", "\x00\r", "=?utf-8?q?=0D=0ABcc:_eve?="} {
		d := notifytest.Firing()
		d.ID, d.Key, d.Incident.RunId, d.Incident.Kind, d.Incident.IncidentId = evil, evil, evil, evil, evil
		d.Incident.Summary = "<script>alert(1)</script>\r\n.\r\nMAIL FROM:<eve@example.com>" + evil
		if err := tell(t, n, d); err != nil {
			t.Fatal(err)
		}
		text := p.all()[len(p.all())-1]
		m := parse(t, text)
		for _, header := range []string{"Bcc", "Cc", "Script"} {
			if m.Header.Get(header) != "" {
				t.Errorf("%q became the header %s", evil, header)
			}
		}
		if len(m.Header["To"]) != 1 || len(m.Header["Subject"]) != 1 || strings.Contains(text, "<script>alert(1)</script></p>") {
			t.Errorf("%q: %v", evil, m.Header)
		}
	}
	if len(p.all()) != 5 {
		t.Errorf("%d mails, want 5", len(p.all()))
	}
}

func TestAnswers(t *testing.T) {
	for name, test := range map[string]struct {
		refuse    error
		permanent bool
	}{
		"421": {&smtp.SMTPError{Code: 421, Message: "busy"}, false},
		"450": {&smtp.SMTPError{Code: 450, Message: "later"}, false},
		"550": {&smtp.SMTPError{Code: 550, Message: "no such user"}, true},
		"554": {&smtp.SMTPError{Code: 554, Message: "spam"}, true},
	} {
		err := tell(t, newNotifier(t, serve(t, &post{refuse: test.refuse}, tlsNone), nil), notifytest.Firing())
		if err == nil || notify.IsPermanent(err) != test.permanent {
			t.Errorf("%s: permanent = %v: %v", name, notify.IsPermanent(err), err)
		}
	}
	wrong := serve(t, &post{password: "right"}, tlsStart)
	wrong.Password = "hunter22"
	if err := tell(t, newNotifier(t, wrong, nil), notifytest.Firing()); err == nil || strings.Contains(err.Error(), "hunter22") {
		t.Errorf("a wrong password: %v", err)
	}
	plain := serve(t, &post{}, tlsNone)
	plain.TLS = tlsStart
	if err := tell(t, newNotifier(t, plain, nil), notifytest.Firing()); err == nil {
		t.Error("a mail went without TLS")
	}
	unknown := serve(t, &post{}, tlsImplicit)
	unknown.CAFile = ""
	if err := tell(t, newNotifier(t, unknown, nil), notifytest.Firing()); err == nil {
		t.Error("a certificate that nobody vouches for was taken")
	}
}

func TestBadServers(t *testing.T) {
	for name, greet := range map[string]string{"hangs": "", "garbage": "\x00\x01 no SMTP at all\r\n", "cut off": "220 mail"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer func() { _ = conn.Close() }()
			_, _ = io.WriteString(conn, greet)
			if name == "hangs" {
				_, _ = io.Copy(io.Discard, conn)
			}
		}()
		n := newNotifier(t, Config{Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, TLS: tlsNone, From: "a@b.c", To: []string{"d@e.f"}}, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		err = n.Notify(ctx, notifytest.Firing())
		cancel()
		if err == nil || notify.IsPermanent(err) || (name == "hangs" && !errors.Is(err, context.DeadlineExceeded)) {
			t.Errorf("%s: %v, want an error that can be tried again", name, err)
		}
		_ = l.Close()
		<-done
	}
}

func TestChart(t *testing.T) {
	n := newNotifier(t, Config{}, losses{}).(*notifier)
	picture, caption := n.chart(t.Context(), notifytest.Firing())
	img, err := png.Decode(bytes.NewReader(picture))
	if err != nil || img.Bounds().Dx() != chartWidth {
		t.Fatalf("%v", err)
	}
	if want := "Loss from step 370 to 469, 0.2 to 2; red: onset, step 412"; caption != want {
		t.Errorf("caption %q, want %q", caption, want)
	}
	reds := 0
	for y := range chartHeight {
		for x := range chartWidth {
			if r, g, _, _ := img.At(x, y).RGBA(); r>>8 == 0xc9 && g>>8 == 0x30 {
				reds++
			}
		}
	}
	if reds < chartHeight {
		t.Errorf("the onset is %d pixels", reds)
	}
	for name, series := range map[string]notify.Series{"none": nil, "away": losses{errors.New("away")}} {
		if picture, caption := newNotifier(t, Config{}, series).(*notifier).chart(t.Context(), notifytest.Firing()); picture != nil || caption != "" {
			t.Errorf("%s: a chart of nothing", name)
		}
	}
	if newPlot([]notify.Point{{Step: 1, Loss: math.NaN()}, {Step: 2, Loss: 1}}) != nil {
		t.Error("a line through one value")
	}
}
